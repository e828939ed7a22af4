"""A run's folder: made once, read back, and honest about what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from gan_core import checkpoint
from gan_core.card import DataSource
from gan_core.errors import CheckpointError, ConfigError
from gan_core.run import Run
from gan_core.variant import TrainConfig, Variant

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path, vanilla: Variant) -> Run:
    source = DataSource(name="noise", fingerprint="0")
    return Run(tmp_path / "runs" / "first", vanilla, "noise", source, TrainConfig(kimg=1))


def test_a_run_is_read_back_as_it_was_created(run: Run) -> None:
    run.create()
    document = Run.read(run.path)
    assert (document["variant"], document["data"]) == ("vanilla", "noise")
    assert TrainConfig.model_validate(document["config"]) == run.config
    assert DataSource.model_validate(document["source"]) == run.source


def test_an_empty_folder_becomes_a_run(run: Run) -> None:
    run.path.mkdir(parents=True)
    run.create()
    assert Run.read(run.path)


@pytest.mark.parametrize("kind", ["run", "folder", "file"])
def test_what_is_there_is_not_overwritten(run: Run, kind: str) -> None:
    if kind == "file":
        run.path.parent.mkdir()
        run.path.write_text("mine")
    else:
        run.path.mkdir(parents=True)
        (run.path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="exists already: resume it with --resume, or choose"):
        run.create()


def test_a_place_that_cannot_be_written_is_one_error(run: Run) -> None:
    run.path.parent.write_text("a file")
    with pytest.raises(ConfigError, match=f"can't write to {run.path}"):
        run.create()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run: .*No such file"),
        (b"", "doesn't describe a run: it needs variant .str., data .str."),
        (b"[1, 2]", "doesn't describe a run"),
        (b"other: 1", "doesn't describe a run"),
        (b"variant: dcgan\ndata: digits\nconfig: {}", "doesn't describe a run"),
        (b"a: [", "is not a run"),
        (b"\xff\xfe\x00", "is not a run"),
    ],
    ids=["none", "empty", "list", "foreign", "no source", "broken", "binary"],
)
def test_what_is_no_run_is_one_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Run.read(tmp_path)


def test_config_yaml_is_plain_yaml(run: Run) -> None:
    run.create()
    assert yaml.safe_load((run.path / "config.yaml").read_text())["config"]["kimg"] == 1


def test_a_run_without_a_checkpoint_says_so(run: Run) -> None:
    with pytest.raises(CheckpointError, match=f"{run.path} has no checkpoint yet"):
        run.latest_checkpoint()


def test_the_newest_checkpoint_is_found(run: Run) -> None:
    for name in ("000001.000", "000012.000"):
        checkpoint.save(run.checkpoints, name, {})
    assert run.latest_checkpoint().name == "000012.000"


def test_rows_come_back_in_order(run: Run) -> None:
    run.create()
    for kimg in (1.0, 2.0):
        run.append({"kimg": kimg})
    assert list(run.rows()) == [{"kimg": 1.0}, {"kimg": 2.0}]


def test_a_row_that_a_crash_cut_off_is_left_out(run: Run) -> None:
    run.create()
    run.metrics.write_text('{"kimg": 1.0}\n{"kimg": 2.')
    assert list(run.rows()) == [{"kimg": 1.0}]


def test_a_run_without_rows_has_none(run: Run) -> None:
    assert list(run.rows()) == []


def test_forgetting_keeps_what_the_checkpoint_had_seen(run: Run) -> None:
    run.create()
    for kimg in (1.0, 2.0, 3.0):
        run.append({"kimg": kimg})
    run.forget_after(2.0)
    assert list(run.rows()) == [{"kimg": 1.0}, {"kimg": 2.0}]


def test_a_folder_tells_its_parts(run: Run) -> None:
    parts = (run.checkpoints, run.samples, run.metrics, run.export)
    names = ["checkpoints", "samples", "metrics.jsonl", "export"]
    assert [str(part.relative_to(run.path)) for part in parts] == names


def test_a_run_is_trained_by_one_process_at_a_time(run: Run) -> None:
    with (
        run.claimed(),
        pytest.raises(ConfigError, match="is being trained by another process"),
        run.claimed(),
    ):
        raise AssertionError("claimed twice")
    with run.claimed():
        assert (run.path / "config.yaml").exists()
