"""Networks in ncnn's files, against numbers worked out by hand and against ncnn itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.assets import path_of
from gan_core.errors import ConfigError
from gan_spandrel.importing import read

HALF = b"\x47\x6b\x30\x01"
LAYERS = """\
Input        input     0 1 data
Split        split     1 2 data left right
Convolution  conv      1 1 left convolved 0=4 1=1 5=1 6=4 9=2 -23310=1,5.000000e-01
PReLU        prelu     1 1 convolved bent 0=4
PixelShuffle shuffle   1 1 bent larger 0=2
Interp       nearest   1 1 right nearest 0=1 1=2.0 2=2.0
Eltwise      sum       2 1 larger nearest output 0=1 -23301=2,1.0,5.000000e-01
"""


@pytest.fixture
def param(tmp_path: Path) -> Path:
    """×2, one channel: conv by (1, -1, 2, 0.5) and bias 0.25, two bends, plus half of nearest."""
    weights = np.array([1, -1, 2, 0.5], "<f2").tobytes()
    bias, slopes = np.full(4, 0.25, "<f4").tobytes(), np.full(4, 0.5, "<f4").tobytes()
    (tmp_path / "tiny.bin").write_bytes(HALF + weights + bias + slopes)
    return written(tmp_path / "tiny.param", LAYERS)


def written(path: Path, layers: str) -> Path:
    path.write_text(f"7767517\n{len(layers.splitlines())} 9\n{layers}")
    return path


def test_a_small_network_gives_what_was_worked_out_by_hand(param: Path) -> None:
    weights = read(param)
    assert (weights.architecture, weights.scale, weights.channels) == ("ncnn", 2, 1)
    with torch.no_grad():
        image = weights.network(torch.full((1, 1, 1, 2), 0.5))
    # 0.75, -0.25 -> -0.0625 by two slopes of a half, 1.25, 0.5; each and half of 0.5
    expected = torch.tensor([[1.0, 0.1875], [1.5, 0.75]]).repeat(1, 2)
    assert torch.equal(image[0, 0], expected)


@pytest.mark.parametrize(
    ("line", "other", "reason"),
    [
        ("PixelShuffle ", "Softmax ", "layer shuffle is a Softmax; accepted: BinaryOp, Concat"),
        ("0=4 1=1", "0=4 1=1 7=2", r"layer conv \(Convolution\): 7=2.0 isn't known"),
        ("9=2 ", "9=5 ", r"layer conv \(Convolution\): 9=5 isn't known"),
        ("0=2\n", "0=two\n", "is no layer: could not convert"),
        ("0=4 1=1 5=1 6=4", "0=4 1=1 5=1 6=64", r"its \.bin ends at byte 44"),
        ("1 1 convolved bent", "1 1 another bent", "the network doesn't run: 'another'"),
    ],
)
def test_what_is_not_known_is_named(param: Path, line: str, other: str, reason: str) -> None:
    assert line in LAYERS
    with pytest.raises(ConfigError, match=reason):
        read(written(param, LAYERS.replace(line, other, 1)))


def test_another_kind_of_file_is_refused(param: Path) -> None:
    param.write_text("weights")
    with pytest.raises(ConfigError, match=r"a \.param file of ncnn starts with 7767517"):
        read(param)


def test_quantised_weights_are_refused(param: Path) -> None:
    path = param.with_suffix(".bin")
    path.write_bytes(b"\x38\x4b\x0d\x00" + path.read_bytes()[4:])
    with pytest.raises(ConfigError, match="weights of tag 0x000d4b38: float16 and float32"):
        read(param)


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data + b"more"])
def test_weights_that_are_not_the_layers_are_refused(param: Path, change: object) -> None:
    path = param.with_suffix(".bin")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"its \.bin (ends at byte|holds)"):
        read(param)


def test_weights_that_are_not_there_are_named(param: Path) -> None:
    param.with_suffix(".bin").unlink()
    with pytest.raises(ConfigError, match=r"tiny\.bin isn't there"):
        read(param)


def test_ncnn_gives_the_same_pixels_of_real_esrgan() -> None:
    ncnn = pytest.importorskip("ncnn", reason="the package ncnn isn't installed")
    try:
        folder = path_of("realesrgan-ncnn")
    except ConfigError as error:
        pytest.skip(str(error))
    for path in sorted(folder.glob("*.param")):
        pixels = np.random.default_rng(0).random((3, 24, 33), np.float32)
        net = ncnn.Net()
        net.opt.use_fp16_arithmetic = net.opt.use_fp16_storage = net.opt.use_fp16_packed = False
        net.load_param(str(path))
        net.load_model(str(path.with_suffix(".bin")))
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(pixels).clone())
        expected = np.array(extractor.extract("output")[1])
        with torch.no_grad():
            actual = read(path).network(torch.from_numpy(pixels)[None])[0].numpy()
        assert np.abs(actual - expected).max() < 2e-5, path  # 9e-6 was seen: sums in another order
