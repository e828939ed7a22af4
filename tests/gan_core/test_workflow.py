"""From a data set to a scored card, in one process, as a script would do it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from gan_core import checkpoint, hookimpl
from gan_core.card import NAMES, LabelInput
from gan_core.data import Images
from gan_core.errors import CheckpointError, ConfigError, DataError, PluginError, TrainingDiverged
from gan_core.losses import NonSaturating
from gan_core.plugins import Plugins
from gan_core.scoring import evaluate, open_source, run_source
from gan_core.workflow import (
    absolute,
    configured,
    export_run,
    open_images,
    open_run,
    read_card,
    start_run,
    train,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gan_core.card import ModelCard, Score
    from gan_core.run import Run
    from gan_core.variant import Variant

SETTINGS: dict[str, Any] = {
    "widths": (8, 16),
    "z_dim": 4,
    "batch_size": 16,
    "resolution_px": 8,
    "kimg": 0.16,
}


class Witness:
    """Sees what is exported."""

    def __init__(self) -> None:
        self.cards: list[ModelCard] = []

    @hookimpl
    def ganforge_exported(self, card: ModelCard, path: Path) -> None:
        assert path.is_file()
        self.cards.append(card)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins, vanilla: Variant) -> Path:
    """A run with a checkpoint."""
    path = tmp_path_factory.mktemp("workflow") / "first"
    run, images = start_run(path, vanilla, "digits", SETTINGS, plugins)
    train(run, images, plugins)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path, plugins: Plugins) -> Run:
    """A copy of it, to change."""
    shutil.copytree(trained, tmp_path / "first")
    return open_run(tmp_path / "first", plugins)


def evaluated(run: Run, plugins: Plugins, **wanted: Any) -> tuple[Score, ...]:
    return evaluate(run_source(run, plugins), plugins, **wanted)


def test_the_shape_comes_from_the_data(vanilla: Variant, plugins: Plugins, trained: Path) -> None:
    config = open_run(trained, plugins).config
    assert (config.resolution_px, config.channels, config.classes) == (8, 1, tuple("0123456789"))


def test_a_run_is_opened_as_it_was_started(trained: Path, plugins: Plugins) -> None:
    run = open_run(trained, plugins)
    shape = {"channels": 1, "classes": tuple("0123456789")}
    assert run.config == run.variant.config.model_validate({**SETTINGS, **shape})


def test_config_yaml_holds_every_setting(trained: Path, vanilla: Variant) -> None:
    document = yaml.safe_load((trained / "config.yaml").read_text())
    assert document["config"].keys() == vanilla.config.model_fields.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 3}, r"vanilla has no setting 'widht'; did you mean 'widths'\?"),
        ({"lr_G": -1}, r"lr_G: Input should be greater than 0 \(given -1\)"),
        ({"lr_G": -1, "z_dim": 0}, r"lr_G: .*; z_dim: "),
        ({"resolution_px": "big"}, r"resolution_px: .* \(given 'big'\)"),
        ({"resolution_px": 4}, "resolution_px 4 is below 8"),
        ({"classes": ["a"]}, "classes comes from the data and can't be set"),
    ],
)
def test_a_setting_that_cannot_be_used_starts_no_run(
    tmp_path: Path, plugins: Plugins, vanilla: Variant, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start_run(tmp_path / "run", vanilla, "digits", settings, plugins)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked_before_the_data_are_touched(
    tmp_path: Path, plugins: Plugins, vanilla: Variant
) -> None:
    with pytest.raises(ConfigError, match="lr_G: "):
        start_run(tmp_path / "run", vanilla, "folder:/no/such", {"lr_G": -1}, plugins)


@pytest.mark.parametrize("data", ["folder:/no/such", "digits:9"])
def test_data_that_cannot_be_read_start_no_run(
    tmp_path: Path, plugins: Plugins, vanilla: Variant, data: str
) -> None:
    with pytest.raises(DataError):
        start_run(tmp_path / "run", vanilla, data, {}, plugins)
    assert list(tmp_path.iterdir()) == []


def test_a_rule_of_the_variant_is_explained(plugins: Plugins, trained: Path) -> None:
    images = open_images(open_run(trained, plugins), plugins)
    assert isinstance(images, Images)
    odd = replace(images, pixels=images.pixels[:, :, :8, :8].repeat(3, 2).repeat(3, 3))
    with pytest.raises(ConfigError, match="resolution_px 24 is not a power of two"):
        configured(plugins.variant("dcgan"), {}, odd)


def test_changed_data_stop_a_resumed_run(run: Run, plugins: Plugins) -> None:
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace(run.source.fingerprint, "f" * 64))
    with pytest.raises(ConfigError, match=r"digits has changed since .* was started"):
        open_images(open_run(run.path, plugins), plugins)


def test_a_run_whose_source_is_damaged_is_one_error(run: Run, plugins: Plugins) -> None:
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("fingerprint", "footprint"))
    with pytest.raises(ConfigError, match=r"config\.yaml: source: fingerprint: Field required"):
        open_run(run.path, plugins)


def test_two_runs_of_one_seed_are_the_same(
    tmp_path: Path, plugins: Plugins, vanilla: Variant, trained: Path
) -> None:
    torch.rand(3)  # whatever went before
    run, images = start_run(tmp_path / "again", vanilla, "digits", SETTINGS, plugins)
    ours, theirs = train(run, images, plugins), checkpoint.latest(trained / "checkpoints")
    assert theirs is not None
    file = "tensors.safetensors"
    assert (ours / file).read_bytes() == (theirs / file).read_bytes()


def test_another_seed_is_another_run(
    tmp_path: Path, plugins: Plugins, vanilla: Variant, trained: Path
) -> None:
    settings = {**SETTINGS, "seed": 1}
    run, images = start_run(tmp_path / "other", vanilla, "digits", settings, plugins)
    ours, theirs = train(run, images, plugins), checkpoint.latest(trained / "checkpoints")
    assert theirs is not None
    weights = [checkpoint.load(p)["trainer"]["G"]["layers.0.weight"] for p in (ours, theirs)]
    assert not torch.equal(*weights)


class Poison(NonSaturating):
    """G's loss is no number."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return super().generator(fake_logits, real_logits) * float("nan")


def test_a_divergence_says_which_checkpoint_is_healthy(run: Run, plugins: Plugins) -> None:
    healthy = run.latest_checkpoint()
    longer = open_run(run.path, plugins, {"kimg": 0.32})

    def poisoned(*given: Any) -> Any:
        trainer: Any = run.variant.build(*given)
        trainer.loss = Poison()
        return trainer

    bad = replace(longer, variant=replace(run.variant, build=poisoned))
    with pytest.raises(TrainingDiverged) as caught:
        train(bad, open_images(run, plugins), plugins)
    (note,) = caught.value.__notes__
    assert note == (
        f"the last healthy checkpoint is {healthy}; try a lower learning rate, "
        "or a penalty such as R1"
    )


def test_a_folder_that_cannot_be_written_is_one_error(run: Run, plugins: Plugins) -> None:
    shutil.rmtree(run.samples)
    run.samples.write_text("in the way")
    with pytest.raises(CheckpointError, match=f"can't write to {run.path}"):
        train(open_run(run.path, plugins, {"kimg": 0.32}), open_images(run, plugins), plugins)


def test_a_run_is_exported_under_the_name_of_its_data_and_variant(
    run: Run, plugins: Plugins
) -> None:
    card = export_run(run, plugins)
    assert (card.model, card.trained_kimg, read_card(run.export)) == ("digits_vanilla", 0.16, card)


def test_observers_see_what_is_exported(run: Run) -> None:
    plugins, witness = Plugins(), Witness()
    plugins._manager.register(witness)
    assert [export_run(run, plugins)] == witness.cards


def test_the_average_is_what_is_exported(run: Run, plugins: Plugins) -> None:
    import onnx
    from onnx import numpy_helper

    export_run(run, plugins)
    _, ema = checkpoint.load(run.latest_checkpoint())["trainer"]["stabilisers"][-1]
    graph = onnx.load(run.export / "model.onnx").graph
    bias = ema["module"]["layers.0.bias"].tolist()
    assert bias in [numpy_helper.to_array(item).tolist() for item in graph.initializer]


@pytest.mark.parametrize("model", ["Digits", "a b", "../x"])
def test_a_name_that_cannot_be_served_is_refused(run: Run, plugins: Plugins, model: str) -> None:
    with pytest.raises(ConfigError, match=f"model: use {NAMES}"):
        export_run(run, plugins, model)


def test_a_run_without_a_checkpoint_cannot_be_exported(
    tmp_path: Path, plugins: Plugins, vanilla: Variant
) -> None:
    run, _ = start_run(tmp_path / "run", vanilla, "digits", SETTINGS, plugins)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export_run(run, plugins)


def test_scores_go_into_the_card(run: Run, plugins: Plugins) -> None:
    scores = evaluated(run, plugins, samples=32, extractor="pixels")
    assert [score.metric for score in scores] == ["fid", "kid"]
    assert read_card(run.export).metrics == scores


def test_scores_of_another_provenance_are_kept_beside(run: Run, plugins: Plugins) -> None:
    for seed in (0, 1):
        evaluated(run, plugins, samples=8, extractor="pixels", seed=seed)
    seeds = [score.provenance.seed for score in read_card(run.export).metrics]
    assert seeds == [0, 0, 1, 1]


def test_measuring_again_replaces_the_score(run: Run, plugins: Plugins) -> None:
    for _ in range(2):
        evaluated(run, plugins, samples=8, extractor="pixels")
    assert len(read_card(run.export).metrics) == 2


def test_measuring_one_metric_again_keeps_the_others(run: Run, plugins: Plugins) -> None:
    evaluated(run, plugins, samples=8, extractor="pixels")
    evaluated(run, plugins, metrics=["fid"], samples=8, extractor="pixels")
    assert [score.metric for score in read_card(run.export).metrics] == ["kid", "fid"]


def test_digits_are_scored_by_their_own_classifier(run: Run, plugins: Plugins) -> None:
    (score,) = evaluated(run, plugins, metrics=["fid"], samples=8)
    assert score.provenance.extractor.startswith("digits-classifier ")


@pytest.mark.parametrize("halflife", [0.0, 10.0])
def test_a_score_says_whether_the_average_was_measured(
    tmp_path: Path, plugins: Plugins, vanilla: Variant, halflife: float
) -> None:
    settings = {**SETTINGS, "ema_halflife_kimg": halflife}
    run, images = start_run(tmp_path / "run", vanilla, "digits", settings, plugins)
    train(run, images, plugins)
    (score,) = evaluated(run, plugins, metrics=["fid"], samples=8, extractor="pixels")
    assert score.provenance.ema is bool(halflife)


def test_a_newer_checkpoint_is_exported_before_it_is_scored(run: Run, plugins: Plugins) -> None:
    evaluated(run, plugins, samples=8, extractor="pixels")
    longer = open_run(run.path, plugins, {"kimg": 0.32})
    train(longer, open_images(longer, plugins), plugins)
    evaluated(longer, plugins, samples=8, extractor="pixels")
    assert read_card(run.export).trained_kimg == 0.32


def test_a_newer_checkpoint_keeps_the_name_that_was_chosen(run: Run, plugins: Plugins) -> None:
    export_run(run, plugins, "chosen")
    longer = open_run(run.path, plugins, {"kimg": 0.32})
    train(longer, open_images(longer, plugins), plugins)
    evaluated(longer, plugins, samples=8, extractor="pixels")
    card = read_card(run.export)
    assert (card.model, card.trained_kimg) == ("chosen", 0.32)


def test_config_yaml_says_what_a_run_was_continued_with(run: Run, plugins: Plugins) -> None:
    longer = open_run(run.path, plugins, {"kimg": 0.32})
    train(longer, open_images(longer, plugins), plugins)
    assert open_run(run.path, plugins).config == longer.config


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"metrics": ["fidd"]}, "no metric is called 'fidd'"),
        ({"extractor": "pixel"}, "no feature extractor is called 'pixel'"),
        ({"data": "digit"}, "no dataset is called 'digit'"),
    ],
)
def test_a_score_of_something_unknown_is_refused(
    run: Run, plugins: Plugins, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        evaluated(run, plugins, **wanted)


def test_all_metrics_are_those_that_apply(run: Run, plugins: Plugins) -> None:
    # of 8 px and without a class; the digits' own classifier has logits
    scores = evaluated(run, plugins, metrics=["all"], samples=20)
    missing = plugins.metrics.keys() - {score.metric for score in scores}
    assert missing == {"label_accuracy", "ms_ssim", "modes_covered", "high_quality_fraction"}
    assert read_card(run.export).metrics == scores


def test_a_metric_that_does_not_apply_is_refused_by_name(run: Run, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"label_accuracy needs labels, which .*/first doesn't"):
        evaluated(run, plugins, metrics=["fid", "label_accuracy"], samples=8)


def test_an_argument_of_the_extractor_follows_a_colon(run: Run, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="'/no/such:file' is no file: write onnx:PATH"):
        evaluated(run, plugins, extractor="onnx:/no/such:file", samples=8)


def test_scores_of_an_onnx_file_go_to_the_card_beside_it(run: Run, plugins: Plugins) -> None:
    card = export_run(run, plugins)
    elsewhere = run.path.parent / "elsewhere"
    shutil.copytree(run.export, elsewhere)
    source = open_source(str(elsewhere / "model.onnx"), plugins)
    scores = evaluate(source, plugins, samples=8, extractor="pixels")
    assert read_card(elsewhere) == card.model_copy(update={"metrics": scores})
    assert read_card(run.export) == card


def test_a_run_and_its_onnx_file_score_the_same(run: Run, plugins: Plugins) -> None:
    export_run(run, plugins)
    targets = (run.path, run.export / "model.onnx")
    ours, theirs = (
        evaluate(open_source(str(target), plugins), plugins, samples=8, extractor="pixels")
        for target in targets
    )
    assert ours == theirs


def test_an_onnx_file_without_a_card_is_one_error(tmp_path: Path, plugins: Plugins) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no exported generator"):
        open_source(str(tmp_path / "model.onnx"), plugins)


def test_a_target_that_is_nothing_known_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"'nothing' is no run and no \.onnx file, and no plugin"):
        open_source("nothing", Plugins([]))


def test_images_of_other_channels_are_refused(run: Run, plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "colour").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 9)).save(tmp_path / "colour" / f"{i}.png")
    with pytest.raises(
        ConfigError, match=r"folder:colour has 3 channels, .*/first makes images of"
    ):
        evaluated(run, plugins, data=f"folder:{tmp_path / 'colour'}")


def test_progress_counts_up_to_the_samples(run: Run, plugins: Plugins) -> None:
    counted: list[tuple[int, int]] = []
    evaluated(
        run,
        plugins,
        samples=70,
        extractor="pixels",
        progress=lambda done, total: counted.append((done, total)),
    )
    assert counted == [(64, 70), (70, 70)]


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": "a"}'])
def test_what_is_no_card_is_one_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "card.json").write_text(content)
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}( holds no exported generator|/card.json: )"
    ):
        read_card(tmp_path)


def test_a_variant_that_is_gone_is_named(run: Run) -> None:
    with pytest.raises(PluginError, match="no variant is called 'vanilla'"):
        open_run(run.path, Plugins([]))


def test_the_generator_of_a_run_is_the_one_sampled(run: Run, plugins: Plugins) -> None:
    # the last sample grid, made in training, is what the exported graph draws for the same seeds
    import numpy as np
    from PIL import Image

    from gan_core.grid import grid

    (pixels,) = run_source(run, plugins).images(0, 64)
    with Image.open(max(run.samples.iterdir())) as image:
        levels = np.asarray(image).astype(int)
    assert np.abs(np.asarray(grid(pixels)).astype(int) - levels).max() <= 1


def test_a_folder_is_stored_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("folder:pictures") == f"folder:{tmp_path}/pictures"
    assert absolute("digits") == "digits"


def test_an_export_of_the_same_graph_keeps_its_scores(run: Run, plugins: Plugins) -> None:
    evaluated(run, plugins, metrics=["kid"], extractor="pixels", samples=8)
    card = export_run(run, plugins)
    assert [score.metric for score in card.metrics] == ["kid"]
    assert read_card(run.export) == card


def test_a_metric_named_twice_is_measured_once(run: Run, plugins: Plugins) -> None:
    scores = evaluated(run, plugins, metrics=["kid", "kid"], extractor="pixels", samples=8)
    assert [score.metric for score in scores] == ["kid"]


def test_settings_that_no_longer_fit_the_weights_are_one_error(run: Run, plugins: Plugins) -> None:
    document = (run.path / "config.yaml").read_text()
    changed = re.sub(r"z_dim: \d+", "z_dim: 3", document)
    assert changed != document
    (run.path / "config.yaml").write_text(changed)
    with pytest.raises(CheckpointError, match=r"doesn't fit the settings in config.yaml"):
        export_run(open_run(run.path, plugins), plugins)


def test_a_class_conditional_variant_refuses_data_without_classes(
    tmp_path: Path, plugins: Plugins
) -> None:
    (tmp_path / "plain").mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 60 * i).save(tmp_path / "plain" / f"{i}.png")
    message = (
        "cgan makes images of a class, and folder:plain has no classes: "
        "a folder has, with a subfolder for each"
    )
    with pytest.raises(ConfigError, match=message):
        start_run(
            tmp_path / "run",
            plugins.variant("cgan"),
            f"folder:{tmp_path / 'plain'}",
            {"batch_size": 2},
            plugins,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cgan", "sagan"])
def test_the_card_of_what_takes_a_class_says_so(
    tmp_path: Path, plugins: Plugins, name: str
) -> None:
    variant = plugins.variant(name)
    settings = {**variant.tiny, "resolution_px": 16, "batch_size": 4, "kimg": 0.004}
    run, images = start_run(tmp_path / "run", variant, "digits", settings, plugins)
    train(run, images, plugins)
    card = export_run(run, plugins)
    assert (card.task, card.input("label")) == (
        "class-conditional",
        LabelInput(classes=tuple("0123456789")),
    )


def test_settings_that_fit_the_datas_side_are_not_refused_before_it_is_known(
    tmp_path: Path, plugins: Plugins
) -> None:
    (tmp_path / "data").mkdir()
    for i in range(4):
        Image.new("L", (64, 64), 60 * i).save(tmp_path / "data" / f"{i}.png")
    # no map of 32 px at the default of 32 px, but at the data's 64
    settings = {"attention_px": 32, "batch_size": 2, "width": 8}
    data = f"folder:{tmp_path / 'data'}"
    run, _ = start_run(tmp_path / "run", plugins.variant("sagan"), data, settings, plugins)
    assert run.config.resolution_px == 64


def test_scores_during_training_change_nothing(
    tmp_path: Path, plugins: Plugins, vanilla: Variant
) -> None:
    states = []
    for score_kimg in (0.0, 0.064):
        settings = {**SETTINGS, "score_kimg": score_kimg, "score_samples": 16}
        run, images = start_run(tmp_path / f"{score_kimg}", vanilla, "digits", settings, plugins)
        states.append(checkpoint.load(train(run, images, plugins)))
        assert run.scores.exists() == bool(score_kimg)
    ours, theirs = (checkpoint.tensors([state["trainer"], state["rng"]]) for state in states)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
