"""Who is answered by a canary, and what ends its trial."""

from __future__ import annotations

import numpy as np
import pytest

from gan_serving.canaries import ENOUGH_TIMES, Canaries
from gan_serving.published import Published, Release
from tests.serving.graphs import card_of, watermark

RELEASE = Release(version=1, canary=2, weight=0.2)
ALIVE = np.arange(2 * 48, dtype=np.uint8).reshape(2, 4, 4, 3)
BLANK = np.zeros_like(ALIVE)


def published(release: Release = RELEASE, shade: float = 1) -> Published:
    cards = {1: card_of(watermark(), "marked"), 2: card_of(watermark(shade=shade), "marked")}
    return Published("marked", cards, release)


class Watched(Canaries):
    """Remembers what ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[str, int, str]] = []
        self.on_failed = lambda *what: self.ended.append(what)


def test_a_canary_gets_its_share_and_the_same_requests_each_time() -> None:
    canaries = Canaries()
    chosen = [canaries.choose(published(), seed) for seed in range(5000)]
    assert chosen.count(2) / 5000 == pytest.approx(0.2, abs=0.02)
    assert chosen == [Canaries().choose(published(), seed) for seed in range(5000)]


def test_without_a_canary_all_are_answered_by_one_version() -> None:
    release = Release(version=2, previous=1)
    assert {Canaries().choose(published(release), seed) for seed in range(100)} == {2}


def test_a_canary_that_fails_gets_no_more_requests() -> None:
    canaries = Watched()
    for _ in range(3):
        canaries.answered(published(), 1, ALIVE, 0.01)
        canaries.failed(published(), 2)
    ((model, version, why),) = canaries.ended
    assert (model, version, why) == ("marked", 2, "100% of its requests failed, 0% of the other's")
    assert {canaries.choose(published(), seed) for seed in range(100)} == {1}


def test_two_failures_prove_nothing() -> None:
    canaries = Watched()
    canaries.failed(published(), 2)
    canaries.failed(published(), 2)
    assert not canaries.ended


def test_a_canary_that_fails_as_often_as_the_other_goes_on() -> None:
    canaries = Watched()
    for _ in range(50):
        canaries.failed(published(), 1)
        canaries.failed(published(), 2)
    assert not canaries.ended


def test_blank_images_end_a_trial_unless_they_are_usual() -> None:
    canaries, usual = Watched(), Watched()
    for _ in range(3):
        canaries.answered(published(), 1, ALIVE, 0.01)
        canaries.answered(published(), 2, BLANK, 0.01)
        usual.answered(published(), 1, BLANK, 0.01)
        usual.answered(published(), 2, BLANK, 0.01)
    assert "blank images" in canaries.ended[0][2]
    assert not usual.ended


@pytest.mark.parametrize(("seconds", "ends"), [(0.05, True), (0.015, False)])
def test_a_canary_that_is_much_slower_ends(seconds: float, ends: bool) -> None:
    canaries = Watched()
    for _ in range(ENOUGH_TIMES):
        canaries.answered(published(), 1, ALIVE, 0.02)
        canaries.answered(published(), 2, ALIVE, 2 * seconds if ends else seconds)
    assert bool(canaries.ended) is ends


def test_another_file_under_the_same_number_is_tried_anew() -> None:
    canaries = Watched()
    for _ in range(3):
        canaries.failed(published(), 2)
    assert 2 in {canaries.choose(published(shade=5), seed) for seed in range(100)}
