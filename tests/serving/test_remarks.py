"""Remarks on a repository: what is unloaded, and what can't be read."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from gan_client import Client
from gan_serving.releases import load, unload
from gan_serving.remarks import Remarks
from gan_serving.repository import publish
from tests.serving.graphs import watermarked, write_export
from tests.serving.processes import Serving, wait_until


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    publish(write_export(tmp_path / "1", "marked"), tmp_path / "repository")
    return tmp_path / "repository"


def test_of_what_is_as_it_should_be_there_is_none(repository: Path) -> None:
    assert Remarks(repository)() == {}


def test_an_unloaded_model_is_named_with_its_way_back_until_it_is_loaded(repository: Path) -> None:
    remarks = Remarks(repository)
    unload(repository, "marked")
    assert remarks()["marked"].startswith("unloaded: POST /admin/models/marked:load")
    load(repository, "marked")
    assert remarks() == {}


def test_an_unreadable_config_is_named_until_it_is_mended_and_read_once(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, remarks = repository / "marked" / "config.pbtxt", Remarks(repository)
    good = config.read_text()
    config.write_text("{{{")
    assert [remarks()["marked"] for _ in range(3)] == [
        "config.pbtxt on disk can't be read, what was loaded before goes on"
    ] * 3
    assert len(caplog.records) == 1
    config.write_text(good)
    assert remarks() == {}


def test_where_there_is_no_repository_there_is_none(tmp_path: Path) -> None:
    assert Remarks(tmp_path / "nothing")() == {}


@pytest.mark.parametrize("engine", ["ort", "triton"])
def test_a_server_goes_on_ready_and_says_that_a_config_is_broken(
    repository: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    if engine == "triton":
        request.getfixturevalue("has_triton")
    with Serving(repository, engine) as serving:
        assert wait_until(serving.ready, 30)
        (repository / "marked" / "config.pbtxt").write_text("{{{")

        def told() -> bool:
            return "can't be read" in httpx.get(f"{serving.url}/readyz").json()["models"]["marked"]

        assert wait_until(told)
        time.sleep(2.5)  # two rounds of the supervisor's
        assert serving.ready()
        with Client(serving.url) as client:
            image = client.images.generate(model="marked", seed=3).numpy()
    np.testing.assert_array_equal(image, watermarked([3]))
