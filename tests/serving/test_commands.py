"""The commands of the serving half, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.graphs import write_export
from tests.serving.processes import ganforge

COMMANDS = (
    "augment",
    "bench",
    "canary",
    "generate",
    "models",
    "promote",
    "publish",
    "rollback",
    "serve",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_an_example(command: str) -> None:
    done = ganforge(command, "--help")
    assert done.returncode == 0
    assert f"Example: ganforge {command}" in done.stdout


def test_generate_writes_a_grid_of_the_images(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "grid.png"
    url = f"local:{repository}"
    done = ganforge("generate", "marked", "-n", "9", "--seed", "7", "--out", out, "--url", url)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as picture:
        assert picture.size == (3 * (6 + 2) + 2, 3 * (4 + 2) + 2)
    assert "9 images of marked version 1, seed 7" in done.stdout


def test_generate_writes_a_file_per_image_into_a_folder(repository: Path, tmp_path: Path) -> None:
    url = f"local:{repository}"
    done = ganforge("generate", "marked", "-n", "2", "--seed", "7", "--out", tmp_path, "--url", url)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["marked-7.png", "marked-8.png"]


@pytest.mark.parametrize("label", ["3", "three"])
def test_generate_takes_a_label_by_index_or_name(
    repository: Path, tmp_path: Path, label: str
) -> None:
    options = ("--label", label, "--out", tmp_path, "--seed", "1", "-n", "1")
    done = ganforge("generate", "marked", *options, "--url", f"local:{repository}")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "marked-1.png") as picture:
        assert np.asarray(picture)[0, 0, 1] == 60


def test_models_prints_json_for_machines(repository: Path) -> None:
    done = ganforge("models", "--json", "--url", f"local:{repository}")
    cards = json.loads(done.stdout)
    assert [card["model"] for card in cards] == [
        "doubling",
        "fragile",
        "marked",
        "slow",
        "tiny_biggan",
        "tiny_dcgan",
        "versioned",
    ]


def test_models_prints_a_table_for_people(repository: Path) -> None:
    done = ganforge("models", "--url", f"local:{repository}")
    assert done.returncode == 0
    assert "6×4×3" in done.stdout


def test_publish_says_where_and_what_comes_next(tmp_path: Path) -> None:
    source = write_export(tmp_path / "export", "marked")
    done = ganforge("publish", source, "--repository", tmp_path / "r", "--model", "other")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'r' / 'other' / '1'}: other version 1" in done.stdout
    assert f"Next: ganforge serve --repository {tmp_path / 'r'}" in done.stdout


FAILURES: dict[str, tuple[list[str], str]] = {
    "unknown model": (["generate", "nobody", "--url", "local:{repository}"], "no model is called"),
    "label": (
        ["generate", "marked", "--label", "12", "--url", "local:{repository}"],
        "label: 12 is out of range",
    ),
    "seed": (
        ["generate", "marked", "--seed", str(2**64), "--url", "local:{repository}"],
        "seed: Input should be less than",
    ),
    "no server": (["models", "--url", "http://127.0.0.1:9"], "can't reach http://127.0.0.1:9"),
    "no address": (["models", "--url", "ftp://x"], "is not an address"),
    "no repository": (["models", "--url", "local:{empty}/nothing"], "no such folder"),
    "no export": (["publish", "{empty}"], "holds no exported generator"),
    "name": (
        ["publish", "{empty}", "--model", "ünï/x"],
        "--model 'ünï/x': use 1 to 64 lower-case letters a-z, digits and _",
    ),
    "grid": (
        ["generate", "marked", "-n", "1", "--out", "x.jpg", "--url", "local:{repository}"],
        "name a .png for a grid, or a folder",
    ),
    "engine": (
        ["serve", "--engine", "ort", "--triton", "x:1", "--repository", "{repository}"],
        "--triton goes with --engine triton",
    ),
    "collector": (
        ["serve", "--repository", "{repository}", "--otlp-endpoint", "nonsense"],
        "traces can't go to 'nonsense'; accepted is a URL such as http://collector:4318",
    ),
    "origin": (
        ["serve", "--repository", "{repository}", "--cors-origin", "example.org"],
        "'example.org' is not an origin; accepted are *, and one such as https://example.org",
    ),
}


@pytest.mark.parametrize("card", ["{", "[]", "{}"])
def test_a_damaged_card_is_not_told_as_none(tmp_path: Path, card: str) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "config.yaml").touch()
    (tmp_path / "export" / "card.json").write_text(card)
    assert "card.json is damaged" in ganforge("publish", tmp_path).stderr


def test_where_no_terminal_is_a_model_is_whole(repository: Path) -> None:
    table = ganforge("models", "--url", f"local:{repository}").stdout.splitlines()
    (row,) = (line for line in table if "marked" in line)
    assert "latent, label" in row


@pytest.mark.parametrize(("arguments", "reason"), FAILURES.values(), ids=list(FAILURES))
def test_a_failure_is_one_line_and_exit_code_1(
    repository: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    done = ganforge(*(one.format(repository=repository, empty=tmp_path) for one in arguments))
    assert done.returncode == 1, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "marked", "-n", "0"],
        ["generate", "marked", "--seed", "x"],
        ["serve", "--engine", "magic"],
        ["serve", "--http-port", "70000"],
        ["publish"],
        ["models", "--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = ganforge(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("newest", "published"), [("000000.000", True), ("000000.500", False)])
def test_an_export_is_published_only_if_it_is_of_the_newest_checkpoint(
    tmp_path: Path, newest: str, published: bool
) -> None:
    run = tmp_path / "run"
    write_export(run / "export", "marked")
    (run / "config.yaml").touch()
    (run / "checkpoints" / newest).mkdir(parents=True)
    done = ganforge("publish", run, "--repository", tmp_path / "repository")
    assert (done.returncode == 0) is published, done.stderr
    assert ("the newest checkpoint of 0.5" in done.stderr) is not published
    assert (tmp_path / "repository" / "marked").exists() is published


def test_a_release_is_changed_by_commands(tmp_path: Path) -> None:
    at = ("--repository", tmp_path / "repository")
    source = write_export(tmp_path / "source", "marked")
    for _ in range(2):
        ganforge("publish", source, *at)
    tried = ganforge("publish", source, *at, "--canary", "0.1")
    assert "marked version 3, for 10% of the requests" in tried.stdout
    for command, said in (
        (("rollback", "marked"), "marked: version 2 answers"),
        (
            ("canary", "marked", "--weight", "0.2"),
            "marked: version 2 answers, version 3 20% of them",
        ),
        (("promote", "marked"), "marked: version 3 answers"),
        (("rollback", "marked"), "marked: version 2 answers"),
    ):
        assert ganforge(*command, *at).stdout.strip() == said
    refused = ganforge("promote", "marked", *at)
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        "error: 'marked' has no canary to promote: name a version",
    )
