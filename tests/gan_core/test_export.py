"""The exported graph gives torch's pixels in any batch, and tells nothing of this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from gan_core.card import DataSource, ImageInput, Input, LabelInput, LatentInput, ModelCard
from gan_core.errors import ExportError
from gan_core.export import (
    IR_VERSION,
    OPSET,
    ServedGenerator,
    export,
    to_levels_nhwc,
    write_card,
)
from gan_core.latents import draw, seed_range

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDE = 8


class Generator(nn.Module):
    """BatchNorm, an upsampling and a convolution: what can differ between two runtimes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8 * 16),
            nn.Unflatten(1, (8, 4, 4)),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )
        self.layers(torch.randn(64, 4) * 3)  # running statistics unlike the initial ones

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z)
        return images


class Noisy(Generator):
    """Draws its noise itself."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) + torch.randn(len(z), 3, SIDE, SIDE)


class Sociable(Generator):
    """Each image depends on the whole batch."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z - z.mean(0))


class Unexportable(Generator):
    """Decides by the value of a pixel."""

    def forward(self, z: Tensor) -> Tensor:
        images = super().forward(z)
        return images if images.sum().item() > 0 else -images


class Wide(nn.Module):
    """Answers a conditional request: class c is the grey level c."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        level = label.float() / 127.5 - 1
        return level[:, None, None, None].expand(-1, 1, SIDE, SIDE) + 0 * z.sum()


class Doubled(nn.Module):
    """Twice the size of its source."""

    def forward(self, source: Tensor) -> Tensor:
        images = source.permute(0, 3, 1, 2).float() / 127.5 - 1
        return nn.functional.interpolate(images, scale_factor=2)


def exported(
    directory: Path,
    network: nn.Module,
    inputs: Sequence[Input] = (LatentInput(dim=4),),
    scale: int = 1,
) -> ModelCard:
    return export(
        ServedGenerator(network, inputs, scale=scale),
        directory,
        model="toy",
        variant="toy",
        data=DataSource(name="noise", fingerprint="0"),
        trained_kimg=1.5,
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard, ServedGenerator]:
    """An exported generator: its folder, its card, and what it was in torch."""
    torch.manual_seed(0)
    network = Generator().eval()
    folder = tmp_path_factory.mktemp("export")
    return folder, exported(folder, network), ServedGenerator(network, (LatentInput(dim=4),))


@pytest.mark.parametrize("n", [1, 2, 7, 32, 33])
def test_pixels_are_those_of_torch_at_a_batch_of(
    toy: tuple[Path, ModelCard, ServedGenerator], n: int
) -> None:
    folder, card, served = toy
    inputs = draw(card.inputs, seed_range(1000, n))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    actual = session.run(["image"], inputs)[0]
    with torch.no_grad():
        expected = served(torch.from_numpy(inputs["z"])).numpy()
    assert (actual.dtype, actual.shape) == (np.uint8, (n, SIDE, SIDE, 3))
    # one level of 255: two runtimes may round 0.5 differently
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1


def test_the_images_differ_from_seed_to_seed(
    toy: tuple[Path, ModelCard, ServedGenerator],
) -> None:
    folder, card, _ = toy
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = session.run(None, draw(card.inputs, [1, 2]))[0]
    assert not np.array_equal(images[0], images[1])


def test_the_graph_is_valid_and_pinned(toy: tuple[Path, ModelCard, ServedGenerator]) -> None:
    proto = onnx.load(toy[0] / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    opsets = {item.domain: item.version for item in proto.opset_import}
    assert (proto.ir_version, opsets[""]) == (IR_VERSION, OPSET)


def test_the_batch_axis_is_dynamic(toy: tuple[Path, ModelCard, ServedGenerator]) -> None:
    graph = onnx.load(toy[0] / "model.onnx").graph
    axes = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert [axis.HasField("dim_param") for axis in axes] == [True, True]


def test_the_graph_holds_nothing_of_this_machine(
    toy: tuple[Path, ModelCard, ServedGenerator],
) -> None:
    content = (toy[0] / "model.onnx").read_bytes()
    told = [str(Path(__file__).parents[2]), "site-packages", str(Path.home()), "test_export"]
    assert [text for text in told if text.encode() in content] == []


def test_the_card_names_the_graph_by_its_hash(
    toy: tuple[Path, ModelCard, ServedGenerator],
) -> None:
    folder, card, _ = toy
    assert card.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def test_the_card_on_disk_is_the_one_returned(
    toy: tuple[Path, ModelCard, ServedGenerator],
) -> None:
    folder, card, _ = toy
    assert ModelCard.model_validate_json((folder / "card.json").read_bytes()) == card


def test_the_card_says_what_is_served(toy: tuple[Path, ModelCard, ServedGenerator]) -> None:
    _, card, _ = toy
    assert (card.output.height, card.output.width, card.output.channels) == (SIDE, SIDE, 3)
    assert (card.inputs, card.trained_kimg) == ((LatentInput(dim=4),), 1.5)


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    network = Generator()
    first, second = (exported(tmp_path / name, network) for name in "ab")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Noisy(), r"the graph draws random numbers \(RandomNormal.*\): make noise an input"),
        (Sociable(), "an image depends on the others in its batch of 2"),
        (Unexportable(), "can't export to ONNX: "),
    ],
    ids=["random", "batch", "unexportable"],
)
def test_a_generator_that_cannot_be_served_is_refused_in_one_line(
    tmp_path: Path, network: nn.Module, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        exported(tmp_path / "export", network)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", [Noisy(), Unexportable()], ids=["random", "unexportable"])
def test_a_refused_generator_leaves_no_file(tmp_path: Path, network: nn.Module) -> None:
    with pytest.raises(ExportError):
        exported(tmp_path / "export", network)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError):
        exported(tmp_path, Unexportable())
    assert capfd.readouterr() == ("", "")


def test_a_refused_generator_leaves_an_earlier_export_alone(tmp_path: Path) -> None:
    card = exported(tmp_path, Generator())
    with pytest.raises(ExportError):
        exported(tmp_path, Noisy())
    assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == card.sha256


def test_an_unwritable_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"can't write .*file/model\.onnx"):
        exported(tmp_path / "file", Generator())


def test_a_card_is_written_whole_or_not_at_all(
    tmp_path: Path, toy: tuple[Path, ModelCard, ServedGenerator]
) -> None:
    (tmp_path / "card.json").mkdir()
    with pytest.raises(ExportError, match=r"can't write .*card\.json"):
        write_card(tmp_path, toy[1])
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_a_generator_in_training_mode_is_exported_in_evaluation_mode(tmp_path: Path) -> None:
    network = Generator().train()
    exported(tmp_path, network)
    proto = onnx.load(tmp_path / "model.onnx")
    assert not any(
        attribute.name == "training_mode" and attribute.i
        for node in proto.graph.node
        for attribute in node.attribute
    )


def test_a_label_decides_the_image(tmp_path: Path) -> None:
    classes = LabelInput(classes=tuple("abcdef"))
    exported(tmp_path, Wide(), (LatentInput(dim=4), classes))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    z, label = np.zeros((3, 4), np.float32), np.array([[5], [0], [2]])
    images = session.run(None, {"z": z, "label": label})[0]
    assert images[:, 0, 0, 0].tolist() == [5, 0, 2]


def test_an_image_model_takes_any_size(tmp_path: Path) -> None:
    card = exported(tmp_path, Doubled(), (ImageInput(channels=3),), scale=2)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    source = np.random.default_rng(0).integers(0, 256, (2, 5, 9, 3), dtype=np.uint8)
    image = session.run(None, {"source": source})[0]
    np.testing.assert_array_equal(image, source.repeat(2, 1).repeat(2, 2))
    assert (card.output.height, card.output.width, card.output.scale) == (None, None, 2)


class Fixed(Doubled):
    """Always 32×32, whatever it is asked with."""

    def forward(self, source: Tensor) -> Tensor:
        images = source.permute(0, 3, 1, 2).float() / 127.5 - 1
        return nn.functional.interpolate(images, size=(32, 32))


def test_an_image_model_is_tried_with_an_oblong_source(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the image is \(32, 32\) px for source\(2, 17, 18, 3\)"):
        exported(tmp_path, Fixed(), (ImageInput(channels=3),), scale=2)


class SometimesNoisy(Generator):
    """Draws its noise in one branch of an If."""

    def forward(self, z: Tensor) -> Tensor:
        noisy: Tensor = torch.cond(
            z.sum() > 0, lambda z: z + torch.randn_like(z), lambda z: z.clone(), (z,)
        )
        return super().forward(noisy)


def test_random_numbers_are_found_in_the_branches_of_a_graph(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the graph draws random numbers"):
        exported(tmp_path, SometimesNoisy())


def test_exporting_leaves_the_callers_module_as_it_was(tmp_path: Path) -> None:
    network = Generator().train()
    exported(tmp_path, network)
    assert network.training


@pytest.mark.parametrize(
    ("value", "level"),
    [(-1.0, 0), (1.0, 255), (-3.0, 0), (9.0, 255), (0.0, 128), (-1 + 0.6 / 127.5, 1)],
)
def test_values_are_clamped_and_rounded(value: float, level: int) -> None:
    # 0.0 is 127.5, which rounds to the even 128
    assert to_levels_nhwc(torch.full((1, 1, 1, 1), value)).item() == level


def test_channels_move_last() -> None:
    images = torch.zeros(1, 3, 2, 4)
    images[0, 1, 0, 3] = 1.0
    pixels = to_levels_nhwc(images)
    assert (tuple(pixels.shape), pixels[0, 0, 3].tolist()) == ((1, 2, 4, 3), [128, 255, 128])
