"""Promote, canary, rollback, load, unload: what a repository serves after each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gan_core.errors import InvalidRequest, ModelNotFound, PublishError, Unavailable
from gan_serving.published import Published, Release
from gan_serving.releases import end_trial, load, promote, roll_back, try_out, unload
from gan_serving.repository import model_names, publish, read
from tests.serving.graphs import watermark, write_export


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with three versions of ``marked``."""
    for shade in (0, 10, 20):
        another(tmp_path, shade)
    return tmp_path / "repository"


def another(tmp_path: Path, shade: int, **options: Any) -> Published:
    source = write_export(tmp_path / str(shade), "marked", watermark(shade=shade))
    return publish(source, tmp_path / "repository", **options)[0]


def state(repository: Path) -> tuple[Release, list[int]]:
    published = read(repository, "marked")
    return published.release, sorted(published.cards)


def test_the_newest_answers_and_the_one_before_is_warm(repository: Path) -> None:
    assert state(repository) == (Release(version=3, previous=2), [2, 3])


def test_rollback_goes_back_one_version_and_no_further(repository: Path) -> None:
    roll_back(repository, "marked")
    assert state(repository) == (Release(version=2), [2])
    with pytest.raises(InvalidRequest, match=r"no version before 2 .* in its folder: 1, 2, 3"):
        roll_back(repository, "marked")


def test_any_version_in_the_folder_can_be_promoted(repository: Path) -> None:
    promote(repository, "marked", 1)
    assert state(repository) == (Release(version=1, previous=3), [1, 3])
    assert read(repository, "marked").card.sha256 == read(repository, "marked").cards[1].sha256


def test_what_is_published_after_a_rollback_has_the_version_before_it_warm(
    repository: Path, tmp_path: Path
) -> None:
    roll_back(repository, "marked")
    another(tmp_path, 30)
    assert state(repository) == (Release(version=4, previous=2), [2, 4])


def test_a_canary_is_published_tried_and_promoted(repository: Path, tmp_path: Path) -> None:
    another(tmp_path, 30, canary=0.1)
    assert state(repository) == (Release(version=3, previous=2, canary=4, weight=0.1), [3, 4])
    promote(repository, "marked")
    assert state(repository) == (Release(version=4, previous=3), [3, 4])


def test_rollback_ends_a_trial_first(repository: Path) -> None:
    try_out(repository, "marked", 0.25, version=1)
    assert state(repository) == (Release(version=3, previous=2, canary=1, weight=0.25), [1, 3])
    roll_back(repository, "marked")
    assert state(repository) == (Release(version=3, previous=2), [2, 3])


def test_only_the_canary_that_failed_is_ended(repository: Path) -> None:
    try_out(repository, "marked", 0.25, version=1)
    end_trial(repository, "marked", 2)
    assert state(repository)[0].canary == 1
    end_trial(repository, "marked", 1)
    assert state(repository)[0].canary is None


def test_an_unloaded_model_is_gone_until_it_is_loaded(repository: Path) -> None:
    unload(repository, "marked")
    assert model_names(repository) == []
    with pytest.raises(ModelNotFound):
        unload(repository, "marked")
    load(repository, "marked")
    assert state(repository) == (Release(version=3, previous=2), [2, 3])


def test_publishing_loads_too(repository: Path, tmp_path: Path) -> None:
    unload(repository, "marked")
    another(tmp_path, 30)
    assert state(repository) == (Release(version=4, previous=3), [3, 4])
    unload(repository, "marked")
    load(repository, "marked")
    assert state(repository)[0].version == 4


def test_a_version_without_its_card_stays_where_it_is(repository: Path) -> None:
    (repository / "marked" / "1" / "card.json").unlink()
    with pytest.raises(InvalidRequest, match="version 1 can't serve again"):
        promote(repository, "marked", 1)
    assert state(repository)[0].version == 3


def test_a_repository_from_before_releases_serves_its_newest(repository: Path) -> None:
    config = repository / "marked" / "config.pbtxt"
    lines = config.read_text().split("parameters {")
    config.write_text("parameters {".join(one for one in lines if "ganforge.release" not in one))
    assert state(repository) == (Release(version=3), [2, 3])


REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no canary": (lambda at: promote(at, "marked"), InvalidRequest, "no canary to promote"),
    "no such version": (
        lambda at: promote(at, "marked", 9),
        ModelNotFound,
        "no version 9; in its folder: 1, 2, 3",
    ),
    "no such model": (lambda at: roll_back(at, "other"), ModelNotFound, "published: marked"),
    "a path": (lambda at: load(at, "../repository"), ModelNotFound, "published: marked"),
    "weight": (lambda at: try_out(at, "marked", 1.5, 1), InvalidRequest, "weight: 1.5 is not"),
    "serves": (lambda at: try_out(at, "marked", 0.5), InvalidRequest, "answers everybody already"),
    "no folder": (lambda at: unload(at / "no", "x"), Unavailable, "no such folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(repository: Path, case: str) -> None:
    change, error, message = REFUSED[case]
    before = (repository / "marked" / "config.pbtxt").read_bytes()
    with pytest.raises(error, match=message):
        change(repository)
    assert (repository / "marked" / "config.pbtxt").read_bytes() == before


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0, float("nan")])
def test_a_canarys_share_is_checked_before_anything_is_published(
    repository: Path, tmp_path: Path, weight: float
) -> None:
    with pytest.raises(PublishError, match="not a share above 0 and below 1"):
        another(tmp_path, 30, canary=weight)
    assert not (repository / "marked" / "4").exists()


def test_the_first_version_cannot_be_a_canary(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="needs a version that serves already"):
        another(tmp_path, 0, canary=0.5)
