"""Whatever a client makes of /openapi.json: the server does as the document says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gan_serving.repository import publish
from tests.serving.graphs import write_export
from tests.serving.processes import Serving

# 422 of what the schema allows: fields that contradict one another, as n and labels may;
# 501 of a route that the model isn't for
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429", "501"]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("fuzz")
    publish(write_export(folder / "marked", "marked"), folder / "own")
    with Serving(folder / "own", "ort", "--max-n", "8") as serving:
        yield serving


@pytest.fixture
def command(serving: Serving, tmp_path: Path) -> list[str]:
    """Schemathesis with all checks, and a document in which names of models are no riddle."""
    document = httpx.get(f"{serving.url}/openapi.json").json()
    request = document["components"]["schemas"]["GenerationRequest"]["properties"]
    request["model"]["enum"] = ["marked", "nobody"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    schemathesis = [sys.executable, "-m", "schemathesis.cli"]
    options = ["--config-file", str(tmp_path / "schemathesis.toml"), "run"]
    options += [str(tmp_path / "openapi.json"), "--url", serving.url]
    return [*schemathesis, *options, "--checks", "all", "--no-color", "--continue-on-failure"]


def test_the_server_does_as_its_document_says(
    command: list[str], serving: Serving, tmp_path: Path
) -> None:
    found(command, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "15")
    assert serving.errors() == ""


@pytest.mark.faults
def test_it_does_so_at_every_bound_and_in_every_order(
    command: list[str], serving: Serving, tmp_path: Path
) -> None:
    found(command, tmp_path, "--max-examples", "100", "--max-time", "120")
    assert serving.errors() == ""


def found(command: list[str], folder: Path, *options: str) -> None:
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
