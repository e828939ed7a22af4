"""What every peer has in common: z from a seed, the graph, and a PNG file. It knows no ganforge."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Z_DIM = 100


def latents(seeds: Sequence[int]) -> NDArray[np.float32]:
    """z, float32 [len(seeds), 100], each row a function of its seed alone."""
    rows = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    drawn = np.stack([row.random(Z_DIM, dtype=np.float32) for row in rows])
    return drawn * np.float32(2) - np.float32(1)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Generator:
    """The graph in onnxruntime: seeds in, uint8 [N, 64, 64, 3] out."""

    def __init__(self, graph: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    def __call__(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        found: list[Any] = self.session.run(["image"], {"z": latents(seeds)})
        pixels: NDArray[np.uint8] = found[0]
        return pixels
