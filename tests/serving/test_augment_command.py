"""``ganforge augment``: what is on disk, and that a killed run ends as one that wasn't."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.data import open_data
from gan_core.plugins import Plugins
from gan_serving.repository import publish
from tests.serving.graphs import CLASSES, card_of, watermark, watermarked, write_export
from tests.serving.processes import Serving, ganforge, wait_until

EACH = ("--per-class", "three=20", "--per-class", "5=10", "--seed", "7")


def files(root: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def augmented(repository: Path, *arguments: str | Path, model: str = "marked") -> str:
    done = ganforge("augment", model, *arguments, "--url", f"local:{repository}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_has_a_subfolder_per_class_for_a_training_to_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "new" / "extra"
    said = augmented(repository, *EACH, "--out", out)
    assert f"{out}: 30 images of marked version 1, seed 7" in said
    for path in out.glob("*/*.png"):
        index, label = int(path.stem), CLASSES.index(path.parent.name)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), watermarked([7 + index], [label])[0])
    _, found = open_data(f"folder:{out}", None, Plugins())
    assert found.classes == ("five", "three")
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [10, 20]


def test_without_classes_images_lie_in_the_folder_itself(repository: Path, tmp_path: Path) -> None:
    augmented(repository, "--count", "3", "--out", tmp_path / "extra", model="tiny_dcgan")
    names = {f"{i:09d}.png" for i in range(3)}
    assert set(files(tmp_path / "extra")) == names | {"augment.json"}


def test_shards_are_webdatasets_and_their_record_says_of_what(
    repository: Path, tmp_path: Path
) -> None:
    augmented(repository, *EACH, "--out", tmp_path / "extra.tar", "--shard-size", "12")
    sizes = []
    for path in sorted(tmp_path.glob("extra-*.tar")):
        with tarfile.open(path) as archive:
            names = archive.getnames()
        sizes.append(len(names) // 3)
        assert [Path(name).suffix for name in names[:3]] == [".png", ".cls", ".json"]
        assert path.read_bytes()[-1024:] == bytes(1024)
    assert sizes == [12, 12, 6]
    record = json.loads((tmp_path / "extra.json").read_text())
    request = record["request"]
    assert (request["model"], request["version"], request["offset"]) == ("marked", 1, 30)
    assert (len(request["sha256"]), record["licence"]) == (64, "unknown")


# killed

STREAM = ("--count", "2000", "--seed", "7")


@pytest.fixture(scope="module")
def serving(repository: Path) -> Iterator[Serving]:
    """One server for all runs."""
    with Serving(repository, "ort") as server:
        yield server


def begun(serving: Serving, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gan_core.cli", "augment", "marked", *map(str, arguments)]
    return subprocess.Popen(
        [*command, "--url", serving.url], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("extra", ()), ("extra.tar", ()), ("extra.tar", ("--shard-size", "250"))],
    ids=["folder", "tar", "shards"],
)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(
    serving: Serving, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    record = cut / (f"{name}/augment.json" if name == "extra" else "extra.json")
    arguments = (*STREAM, *options)
    with begun(serving, *arguments, "--out", whole / name) as uninterrupted:
        assert uninterrupted.wait(120) == 0
    for images in (1, 900):  # and wherever it is by then
        with begun(serving, *arguments, "--resume", "--out", cut / name) as run:
            assert wait_until(lambda: offset_of(record) >= images, 60)  # noqa: B023  at once
            run.send_signal(signal.SIGKILL)
            assert run.wait(10) == -signal.SIGKILL
    assert files(cut) != files(whole)
    with begun(serving, *arguments, "--resume", "--out", cut / name) as run:
        assert run.wait(120) == 0
    assert files(cut) == files(whole)


def test_ctrl_c_says_what_is_written_and_how_to_go_on(serving: Serving, tmp_path: Path) -> None:
    with begun(serving, "--count", "100000", "--out", tmp_path / "extra") as run:
        assert wait_until(lambda: offset_of(tmp_path / "extra/augment.json") >= 100, 60)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=20)
    written = offset_of(tmp_path / "extra/augment.json")
    assert run.returncode == 130
    assert errors.decode().startswith(f"{written} of 100000 images are written")
    assert "--resume" in errors.decode()


def offset_of(record: Path) -> int:
    try:
        return int(json.loads(record.read_text())["request"]["offset"])
    except FileNotFoundError:
        return -1


def test_a_complete_run_is_left_as_it_is(repository: Path, tmp_path: Path) -> None:
    arguments = (*EACH, "--out", tmp_path / "extra.tar")
    augmented(repository, *arguments)
    before = files(tmp_path)
    assert "30 images" in augmented(repository, *arguments, "--resume")
    assert files(tmp_path) == before


def test_a_seed_that_was_drawn_is_kept(repository: Path, tmp_path: Path) -> None:
    arguments = ("--count", "5", "--out", tmp_path / "extra")
    assert augmented(repository, *arguments) == augmented(repository, *arguments, "--resume")


# refused


def refused(repository: Path, *arguments: str | Path) -> str:
    done = ganforge("augment", "marked", *arguments, "--url", f"local:{repository}")
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_is_there_is_not_written_over(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "extra"
    augmented(repository, *EACH, "--out", out)
    assert "has 30 images already: --resume" in refused(repository, *EACH, "--out", out)
    other = ("--count", "5", "--resume", "--out", out)
    assert "was begun with --count None, not 5" in refused(repository, *other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    assert "name another --out" in refused(repository, *EACH, "--out", tmp_path / "mine")


def test_another_graph_does_not_go_on_with_a_stream(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    publish(write_export(tmp_path / "export", "marked"), repository)
    out = tmp_path / "extra"
    augmented(repository, *EACH, "--out", out)
    record = out / "augment.json"
    cut = json.loads(record.read_text())
    cut["request"] |= {"offset": 7, "sha256": card_of(watermark(shade=9), "marked").sha256}
    record.write_text(json.dumps(cut))
    arguments = (*EACH, "--resume", "--out", out)
    assert "is another graph now" in refused(repository, *arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--count", "3", "--out", "x.png"), "name a folder, or a .tar"),
        (("--count", "3", "--shard-size", "2", "--out", "x"), "--shard-size is of tars"),
        (("--out", "{}/x"), "either --count or --per-class"),
        (("--per-class", "eleven=3", "--out", "{}/x"), "no class of 'marked'"),
        (("--per-class", "three", "--out", "{}/x"), "CLASS=N"),
        (("--count", "3", "--out", "/dev/null/x"), "can't write"),
    ],
    ids=str,
)
def test_a_mistake_is_told(
    repository: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    said = refused(repository, *(one.format(tmp_path) for one in arguments))
    assert reason in " ".join(said.replace("│", " ").split())


def test_a_mistake_leaves_nothing_behind(repository: Path, tmp_path: Path) -> None:
    refused(repository, "--per-class", "eleven=3", "--out", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_a_class_leads_nowhere_else(tmp_path: Path) -> None:
    from gan_core.card import LabelInput, LatentInput, TruncationInput

    classes = ("../up", "..", "a/b", ".hidden", "")
    inputs = (
        LatentInput(dim=4, distribution="uniform"),
        LabelInput(classes=classes),
        TruncationInput(default=0.7),
    )
    repository = tmp_path / "repository"
    publish(write_export(tmp_path / "export", "marked", inputs=inputs), repository)
    augmented(repository, "--count", "5", "--seed", "0", "--out", tmp_path / "in" / "extra")
    found = {path.parent.name for path in (tmp_path / "in").rglob("*.png")}
    assert found == {"%2E.%2Fup", "%2E.", "a%2Fb", "%2Ehidden", "4"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"extra"}
