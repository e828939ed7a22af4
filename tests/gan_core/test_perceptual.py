"""Features for perceptual losses: whose they are, and that nothing changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import vgg19

from gan_core import assets
from gan_core.errors import ConfigError
from gan_core.perceptual import VGG16_CONVOLUTIONS, perceptual_features, vgg

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.perceptual import Features

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def untrained() -> Features:
    return perceptual_features("untrained", after_relu=True)


@pytest.mark.parametrize(("suffix", "after_relu", "layers"), [("pth", True, 36), ("st", False, 35)])
def test_a_file_of_torchvisions_vgg19_gives_its_conv5_4(
    tmp_path: Path, suffix: str, after_relu: bool, layers: int
) -> None:
    theirs = vgg19(weights=None).features.eval()
    weights = {f"features.{name}": value for name, value in theirs.state_dict().items()}
    path = tmp_path / ("vgg19.pth" if suffix == "pth" else "vgg19.safetensors")
    torch.save(weights, path) if suffix == "pth" else save_file(weights, path)
    ours = perceptual_features(f"vgg19:{path}", after_relu=after_relu)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (IMAGES - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(ours(IMAGES), theirs[:layers](normalised) / 12.75)


def test_an_asset_in_caffes_order_and_range_is_read_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    layers = vgg(VGG16_CONVOLUTIONS, relu_last=True).eval()
    nodes, values = [], []
    for name, tensor in layers.state_dict().items():
        values.append(onnx.numpy_helper.from_array(tensor.numpy(), name))
    for i in range(0, len(values), 2):
        names = ["x", values[i].name, values[i + 1].name]
        nodes.append(onnx.helper.make_node("Conv", names, [f"y{i}"]))
    graph = onnx.helper.make_graph(nodes, "caffe", [], [], initializer=values)
    path = tmp_path / "vgg16.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    monkeypatch.setattr("gan_core.perceptual.path_of", lambda name: path)
    bgr = IMAGES.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    found = perceptual_features("vgg16-caffe", after_relu=True)(IMAGES)
    torch.testing.assert_close(found, layers(bgr) / 12.75, rtol=1e-4, atol=1e-5)


def test_a_picture_in_grey_is_one_of_three_equal_channels(untrained: Features) -> None:
    grey = IMAGES[:, :1]
    assert torch.equal(untrained(grey), untrained(grey.repeat(1, 3, 1, 1)))


def test_features_stay_in_float32_where_the_step_is_in_mixed_precision(
    untrained: Features,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(untrained(IMAGES), untrained(IMAGES.float()))
        assert untrained(IMAGES.bfloat16()).dtype == torch.float32


def test_gradients_reach_the_images_and_no_weight(untrained: Features) -> None:
    images = IMAGES.clone().requires_grad_()
    untrained.train()(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.count_nonzero() > 0
    assert all(one.grad is None for one in untrained.parameters())


def test_loading_leaves_the_process_noise_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    perceptual_features("untrained", after_relu=True)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["vgg", "vgg16-caffe:PATH", "untrained:1", ""])
def test_an_unknown_network_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no perceptual network '{name}': vgg19, vgg19:PATH"):
        perceptual_features(name, after_relu=True)


def test_without_the_asset_one_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "cache_dir", lambda: tmp_path)
    with pytest.raises(ConfigError, match="'ganforge data fetch vgg16-caffe' brings it"):
        perceptual_features("vgg16-caffe", after_relu=True)


def test_without_a_network_one_is_told_of_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ConfigError, match=r"no route to host; bring vgg19-dcbb9e9d.pth .*caffe"):
        perceptual_features("vgg19", after_relu=True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"perceptual: can't read .*none\.pth: "):
        perceptual_features(f"vgg19:{tmp_path / 'none.pth'}", after_relu=True)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, path := tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"other\.safetensors isn't torchvision's VGG19"):
        perceptual_features(f"vgg19:{path}", after_relu=True)
