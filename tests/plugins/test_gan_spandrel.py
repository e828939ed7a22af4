"""Weights that somebody else has trained: read, refused where they must be, published."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
import typer
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn
from typer.testing import CliRunner

from gan_core.card import NAMES
from gan_core.errors import ConfigError, ExportError, PublishError
from gan_core.plugins import Plugins
from gan_spandrel.importing import import_weights, read, served

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "spandrel_esrgan": (lambda: ESRGAN(num_filters=8, num_blocks=1, scale=4), 4),
    "spandrel_compact": (lambda: Compact(num_feat=8, num_conv=2, upscale=2), 2),
    "spandrel_span": (lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2), 2),
}


@pytest.fixture
def plugins() -> Plugins:
    return Plugins([EntryPoint("serving", "gan_serving.plugin", "ganforge")])


def saved(folder: Path, network: nn.Module, name: str = "weights.pth") -> Path:
    path = folder / name
    torch.save({"params_ema": network.state_dict()}, path)
    return path


def compact() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = Compact(num_feat=8, num_conv=2, upscale=2)
    return network


def swinir() -> nn.Module:
    """Its windows are of 8 px, so a graph made of 16 px is of 16 px alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.meshgrid, in its own code
        network: nn.Module = SwinIR(
            img_size=16,
            window_size=8,
            embed_dim=12,
            depths=[2],
            num_heads=[2],
            upscale=2,
            upsampler="pixelshuffle",
        )
    return network


def test_imported_graphs_give_the_pixels_of_torch(tmp_path: Path, plugins: Plugins) -> None:
    for architecture, (build, scale) in NETWORKS.items():
        torch.manual_seed(0)
        path = saved(tmp_path, build())
        imported = import_weights(path, "photos", tmp_path / architecture, plugins)
        card = imported.card
        assert (card.variant, card.output.scale, card.trained_kimg) == (architecture, scale, 0)
        session = onnxruntime.InferenceSession(imported.path / "model.onnx")
        expected = served(read(path))
        for height, width in ((24, 41), (50, 19)):
            source = np.random.default_rng(0).integers(0, 65_536, (1, height, width, 3), np.uint16)
            (image,) = session.run(None, {"source": source})
            with torch.no_grad():
                wanted = expected(torch.from_numpy(source)).numpy()
            assert image.shape == (1, scale * height, scale * width, 3)
            assert np.abs(image.astype(int) - wanted).max() <= 257


def test_the_card_says_whose_weights_they_are(tmp_path: Path, plugins: Plugins) -> None:
    lines: list[str] = []
    path = saved(tmp_path, compact(), "faces.pth")
    imported = import_weights(
        path, "faces", tmp_path / "repository", plugins, licence="MIT", progress=lines.append
    )
    data = imported.card.data
    assert (data.name, data.licence, len(data.fingerprint)) == ("weights of faces.pth", "MIT", 64)
    assert imported.card.task == "super-resolution"
    assert imported.source.halo_px == 4  # of four 3 × 3 convolutions
    assert len(lines) == 3


def test_safetensors_are_read_as_pickles_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(compact().state_dict(), path)
    assert read(path).architecture == "spandrel_compact"


def test_what_an_architecture_asks_of_sides_is_on_the_card(tmp_path: Path) -> None:
    network = ESRGAN(in_nc=12, out_nc=3, num_filters=8, num_blocks=1, scale=4, shuffle_factor=2)
    weights = read(saved(tmp_path, network))
    assert (weights.scale, weights.channels) == (2, 3)
    (source,) = served(weights).inputs
    assert source.role == "image"
    assert (source.multiple_of, source.min_side_px, source.halo_px % 4) == (4, 4, 0)


def test_a_network_that_shouldnt_be_cut_isnt(tmp_path: Path) -> None:
    network = swinir()
    weights = read(saved(tmp_path, network))
    (source,) = served(weights).inputs
    assert source.role == "image"
    assert (source.tile_px, source.min_side_px) == (None, 16)
    with pytest.raises(ConfigError, match="spandrel_swinir needs the whole picture"):
        served(weights, tile_px=64)


@pytest.mark.parametrize("tile_px", [4, 8])
def test_a_tile_must_be_larger_than_its_halos(tmp_path: Path, tile_px: int) -> None:
    weights = read(saved(tmp_path, compact()))
    with pytest.raises(ConfigError, match=f"--tile-px {tile_px}: .* multiples of 1 from 9 on"):
        served(weights, tile_px)
    (source,) = served(weights, 9).inputs
    assert source.role == "image"
    assert source.tile_px == 9


class Hostile:
    """A pickle that creates a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def pickled(what: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(what, protocol=2))


@pytest.mark.parametrize("dump", [torch.save, pickled])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.ckpt"])
def test_a_pickle_with_code_is_refused(
    tmp_path: Path, dump: Callable[[Any, Path], object], name: str
) -> None:
    victim, path = tmp_path / "victim", tmp_path / name
    dump({"params": compact().state_dict(), "note": Hostile(victim)}, path)
    with pytest.raises(ConfigError, match=f"{name} is refused: it would run .*; tensors alone"):
        read(path)
    assert not victim.exists()


def test_the_hostile_pickle_is_hostile(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "victim")))
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        saved(tmp_path, compact())
    else:
        safetensors.torch.save_file(compact().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ConfigError, match=f"{name} is damaged, or no file of weights"):
        read(path)


def test_weights_that_lack_some_are_refused(tmp_path: Path) -> None:
    state = compact().state_dict()
    del state["body.2.weight"]
    torch.save(state, path := tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="looks like RealESRGAN Compact, and isn't whole"):
        read(path)


def test_an_unknown_architecture_names_those_that_are_known(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"no known architecture \(.*weight.*: .*ESRGAN.*SwinIR"):
        read(path)


def test_other_channels_out_than_in_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, ESRGAN(in_nc=1, out_nc=3, num_filters=8, num_blocks=1))
    with pytest.raises(ConfigError, match="turns 1 channels into 3: 1, 3 or 4 into as many"):
        read(path)


def test_what_isnt_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], path := tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="holds a list: a state dict is accepted"):
        read(path)


def test_a_file_that_isnt_there_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights\.pth isn't there"):
        read(tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"ends in \.ckpt, \.param, \.pt, \.pth, \.safetensors"):
        read(tmp_path / "weights.h5")


def test_a_graph_of_one_size_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    network = swinir()
    with pytest.raises(ExportError, match=r"can't run the graph for source\(2, 17, 18, 3\)"):
        import_weights(saved(tmp_path, network), "swin", tmp_path / "repository", plugins)
    assert not (tmp_path / "repository").exists()


def test_a_name_is_refused_before_anything_is_read(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=f"'My Model': use {NAMES}"):
        import_weights(tmp_path / "none.pth", "My Model", tmp_path, plugins)


def test_without_a_plugin_that_publishes_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="no plugin publishes models"):
        import_weights(saved(tmp_path, compact()), "photos", tmp_path, Plugins([]))


def test_the_command_prints_json_alone_on_its_output(tmp_path: Path) -> None:
    entries = {"serving": "gan_serving.plugin", "spandrel": "gan_spandrel"}
    plugins = Plugins([EntryPoint(name, value, "ganforge") for name, value in entries.items()])
    app = typer.Typer()
    plugins.add_commands(app)
    path = saved(tmp_path, compact())
    arguments = ["import-sr", str(path), "--model", "photos", "--json"]
    done = CliRunner().invoke(
        app, [*arguments, "--repository", str(tmp_path / "repository")], obj=plugins
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "model": "photos",
        "version": 1,
        "variant": "spandrel_compact",
        "scale": 2,
        "channels": 3,
        "tile_px": 128,
        "halo_px": 4,
        "parity_levels": json.loads(done.stdout)["parity_levels"],
        "path": str(tmp_path / "repository/photos/1"),
    }
    assert done.stderr.startswith(f"reading {path}")
