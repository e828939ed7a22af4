"""Metrics of image pairs against closed forms and other implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gan_core.errors import ConfigError, DataError
from gan_core.paired import compared, lpips, luma, measured, psnr, ssim

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def noise(seed: int, channels: int = 3, side: int = 32) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (side, side, channels), dtype=np.uint8)


def test_luma_has_matlabs_range_and_weights() -> None:
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    expected = [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]
    np.testing.assert_allclose(luma(colours.astype(np.uint8)), expected)


def test_grey_has_the_luma_of_that_grey() -> None:
    grey = np.array([[[7]], [[200]]], np.uint8)
    np.testing.assert_allclose(luma(grey), luma(np.repeat(grey, 3, axis=2)))


def test_psnr_of_a_constant_error_is_the_closed_form() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(a, a + 5) == pytest.approx(20 * np.log10(255 / 5))


def test_psnr_on_y_weighs_channels_as_the_eye_does() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    blue = a.copy()
    blue[..., 2] += 10
    assert psnr(a, blue, y=True) == pytest.approx(20 * np.log10(255 / (10 * 24.966 / 255)))


def test_psnr_is_torchmetrics() -> None:
    a, b = noise(0), noise(1)
    expected = peak_signal_noise_ratio(
        torch.from_numpy(b).double(), torch.from_numpy(a).double(), data_range=255.0
    )
    assert psnr(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_equal_images_have_no_error() -> None:
    a = noise(0)
    assert (psnr(a, a), ssim(a, a), ssim(a, a, y=True)) == (np.inf, 1.0, 1.0)


def test_ssim_is_the_mean_over_the_channels() -> None:
    a, b = noise(0), noise(0) // 2
    each = []
    for c in range(3):
        ours, theirs = (torch.from_numpy(x[None, None, ..., c]).double() for x in (b, a))
        found: Any = structural_similarity_index_measure(ours, theirs, data_range=255.0)
        each.append(found.item())
    assert ssim(a, b) == pytest.approx(np.mean(each), rel=1e-6)


def test_the_border_is_left_out() -> None:
    a = noise(0)
    b = a.copy()
    b[:4] = 0
    assert measured(a, b, ["psnr_rgb"], border_px=4) == {"psnr_rgb": np.inf}


def test_a_border_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left of 32×32 px without a border of 16"):
        measured(noise(0), noise(1), ["psnr_y"], border_px=16)


@pytest.mark.parametrize("other", [noise(0, 1), noise(0, 3, 16)])
def test_images_that_differ_in_shape_do_not_compare(other: NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match=r"32×32×3 and .* don't compare"):
        measured(noise(0), other, ["psnr_y"])


def test_lpips_without_weights_says_which_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ConfigError, match="lpips needs torchvision's alex weights"):
        lpips(noise(0, side=64), noise(1, side=64))


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)
    return path


def test_two_files_are_a_pair(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{i}.png", noise(i)) for i in (0, 1))
    assert compared(a, b, ["psnr_rgb"]) == {"0.png": {"psnr_rgb": psnr(noise(0), noise(1))}}


def test_folders_are_paired_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(("b.png", "a.png")):
        save(tmp_path / "x" / name, noise(i))
        save(tmp_path / "y" / name, noise(i) if name == "a.png" else noise(9))
    done: list[tuple[int, int]] = []
    found = compared(
        tmp_path / "x", tmp_path / "y", ["psnr_y"], progress=lambda *at: done.append(at)
    )
    assert list(found) == ["a.png", "b.png"]
    assert found["a.png"] == {"psnr_y": np.inf}
    assert done == [(1, 2), (2, 2)]


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    save(tmp_path / "x" / "a.png", noise(0))
    (tmp_path / "y").mkdir()
    with pytest.raises(ConfigError, match=r"y lacks 1 of 1: a\.png"):
        compared(tmp_path / "x", tmp_path / "y", ["psnr_y"])


def test_a_file_and_a_folder_are_no_pair(tmp_path: Path) -> None:
    path = save(tmp_path / "x" / "a.png", noise(0))
    with pytest.raises(ConfigError, match="give two files, or two folders"):
        compared(path, tmp_path, ["psnr_y"])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="x holds no image"):
        compared(tmp_path / "x", tmp_path / "y", ["psnr_y"])


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"a\.png"):
        compared(tmp_path / "a.png", tmp_path / "a.png", ["psnr_y"])


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metric of pairs is called 'psnr': psnr_y, psnr_rgb"):
        compared(tmp_path, tmp_path, ["psnr"])


def test_an_error_names_the_pair(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.png", noise(0)), save(tmp_path / "b.png", noise(0, side=16))
    with pytest.raises(ConfigError, match=r"a\.png and .*b\.png: images of 32×32×3 and 16×16×3"):
        compared(a, b, ["psnr_y"])


def test_16_bits_and_8_bits_of_a_picture_are_nearly_the_same(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "eight.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    found = compared(tmp_path / "eight.png", tmp_path / "sixteen.png", ["psnr_rgb"])
    assert found["eight.png"]["psnr_rgb"] == float("inf")


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (16, 16), "white").save(tmp_path / "white.png")
    found = compared(tmp_path / "white.png", tmp_path / "clear.png", ["psnr_rgb"])
    assert found["white.png"]["psnr_rgb"] == float("inf")


def test_a_photograph_is_turned_as_its_tag_says(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8))
    picture.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 8  # it lies on its side: to be turned by 90° against the clock
    picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "lying.png", exif=exif)
    found = compared(tmp_path / "upright.png", tmp_path / "lying.png", ["psnr_rgb"])
    assert found["upright.png"]["psnr_rgb"] == float("inf")


def test_images_smaller_than_the_window_have_no_ssim() -> None:
    small = np.zeros((10, 20, 1), np.uint8)
    with pytest.raises(ConfigError, match="ssim needs at least 11 px a side"):
        measured(small, small, ["ssim_y"])
    assert measured(small, small, ["psnr_y"])["psnr_y"] == float("inf")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing isn't there"):
        compared(tmp_path, tmp_path / "nothing", ["psnr_y"])
