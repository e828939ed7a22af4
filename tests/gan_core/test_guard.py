"""The divergence guard: what it takes for a symptom, for how long, and what it remembers."""

from __future__ import annotations

from typing import Any

import pytest

from gan_core import TrainConfig
from gan_core.guard import Guard

WELL = {
    "gradient_norm/G": 1.0,
    "gradient_norm/D": 1.0,
    "logits/real": 1.0,
    "logits/fake": -1.0,
    "accuracy/real": 0.7,
    "accuracy/fake": 0.8,
    "diversity": 0.9,
}


def guard(patience_kimg: float = 0.0, **limits: Any) -> Guard:
    settings = {"guard_patience_kimg": patience_kimg, "guard_accuracy": 0.99, **limits}
    return Guard(TrainConfig.model_validate(settings))


ILL = [
    ({"gradient_norm/G": 2e4}, "gradient/G", "G's gradient norm is 2e+04, above 10000"),
    ({"gradient_norm/D": 2e4}, "gradient/D", "D's gradient norm is 2e+04, above 10000"),
    ({"logits/real": 2000.0}, "gap", "logits of real and fake are 2e+03 apart, above 1000"),
    ({"logits/fake": 2000.0}, "gap", "logits of real and fake are 2e+03 apart, above 1000"),
    (
        {"accuracy/real": 1.0, "accuracy/fake": 0.995},
        "accuracy",
        "D is right about 99.5% of images: G learns nothing",
    ),
    (
        {"diversity": 0.01},
        "diversity",
        "fakes vary 0.01 times as much as reals, below 0.02: mode collapse",
    ),
]


@pytest.mark.parametrize(("changes", "symptom", "words"), ILL, ids=[f"{i[0]}" for i in ILL])
def test_a_symptom_is_named_and_put_in_words(
    changes: dict[str, float], symptom: str, words: str
) -> None:
    assert guard().examine({**WELL, **changes}, 1.0) == {symptom: words}


def test_a_healthy_run_has_no_symptom() -> None:
    assert guard().examine(WELL, 1.0) == {}


def test_a_run_without_these_statistics_has_no_symptom() -> None:
    # as of a trainer of one's own, which reports what it likes
    assert guard().examine({"loss/mine": 1.0}, 1.0) == {}


@pytest.mark.parametrize("accuracies", [(1.0, 0.5), (0.5, 1.0)], ids=str)
def test_being_right_about_one_kind_alone_is_no_symptom(accuracies: tuple[float, float]) -> None:
    # a D that calls everything real is not too strong
    both = dict(zip(("accuracy/real", "accuracy/fake"), accuracies, strict=True))
    assert guard().examine({**WELL, **both}, 1.0) == {}


def test_accuracy_counts_only_if_asked_for() -> None:
    # a critic may well be always right
    always = {**WELL, "accuracy/real": 1.0, "accuracy/fake": 1.0}
    assert Guard(TrainConfig(guard_patience_kimg=0.0)).examine(always, 1.0) == {}


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        ({"guard_gradient_norm": 2.0}, {"gradient_norm/D": 3.0}),
        ({"guard_logit_gap": 3.0}, {"logits/real": 2.5}),
        ({"guard_accuracy": 0.6}, {}),
        ({"guard_diversity": 0.95}, {}),
    ],
    ids=str,
)
def test_the_limits_are_the_configured_ones(
    limit: dict[str, float], changes: dict[str, float]
) -> None:
    assert len(guard(**limit).examine({**WELL, **changes}, 1.0)) == 1


def test_several_symptoms_are_told_together() -> None:
    found = guard().examine({**WELL, "diversity": 0.0, "gradient_norm/G": 1e6}, 1.0)
    assert found.keys() == {"diversity", "gradient/G"}


COLLAPSED = {**WELL, "diversity": 0.0}


@pytest.mark.parametrize(
    ("at_kimg", "counts"), [(2.0, False), (6.9, False), (7.0, True), (8.0, True)]
)
def test_a_symptom_counts_once_it_has_lasted(at_kimg: float, counts: bool) -> None:
    patient = guard(patience_kimg=5.0)
    patient.examine(COLLAPSED, 2.0)
    assert bool(patient.examine(COLLAPSED, at_kimg)) is counts


def test_a_symptom_that_goes_away_starts_anew() -> None:
    patient = guard(patience_kimg=5.0)
    for stats, kimg in ((COLLAPSED, 1.0), (WELL, 4.0), (COLLAPSED, 5.0)):
        patient.examine(stats, kimg)
    assert patient.examine(COLLAPSED, 7.0) == {}


def test_each_symptom_has_its_own_patience() -> None:
    patient = guard(patience_kimg=5.0)
    patient.examine(COLLAPSED, 1.0)
    both = {**COLLAPSED, "gradient_norm/G": 1e6}
    patient.examine(both, 3.0)
    assert patient.examine(both, 6.0).keys() == {"diversity"}


def test_a_run_was_healthy_until_its_first_lasting_symptom() -> None:
    patient = guard(patience_kimg=5.0)
    for kimg, stats in ((1.0, WELL), (2.0, COLLAPSED), (3.0, {**COLLAPSED, "logits/real": 1e6})):
        patient.examine(stats, kimg)
    assert patient.healthy_until == 2.0


def test_a_healthy_run_has_no_such_end() -> None:
    patient = guard(patience_kimg=5.0)
    for stats, kimg in ((COLLAPSED, 1.0), (WELL, 2.0)):
        patient.examine(stats, kimg)
    assert patient.healthy_until is None


def test_a_loaded_guard_has_the_patience_that_is_left() -> None:
    ours, theirs = guard(patience_kimg=5.0), guard(patience_kimg=5.0)
    ours.examine(COLLAPSED, 1.0)
    theirs.load(ours.state())
    assert theirs.examine(COLLAPSED, 6.0).keys() == {"diversity"}


def test_a_saved_state_does_not_change_with_the_guard() -> None:
    watching = guard(patience_kimg=5.0)
    watching.examine(COLLAPSED, 1.0)
    saved = watching.state()
    watching.examine(WELL, 2.0)
    watching.told.add("diversity")
    assert saved == {"since": {"diversity": 1.0}, "told": []}
