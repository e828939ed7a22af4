"""The plan of a stream: its classes' order, its parts, and what can't be planned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import InvalidRequest
from gan_serving.augmenting import class_order, plan_of
from gan_serving.schema import MAX_COUNT, AugmentRequest, validated
from tests.serving.graphs import CLASSES, card_of, watermark

CARD = card_of(watermark(), "marked")
UNLABELLED = CARD.model_copy(update={"inputs": CARD.inputs[:1]})
COUNTS = st.dictionaries(st.integers(0, 9), st.integers(1, 300), min_size=1)


def request(**fields: Any) -> AugmentRequest:
    return validated(AugmentRequest, {"model": "marked", **fields})


@given(COUNTS)
def test_every_class_comes_as_often_as_asked_for(counts: dict[int, int]) -> None:
    labels, images = np.unique(class_order(counts), return_counts=True)
    assert dict(zip(labels.tolist(), images.tolist(), strict=True)) == counts


@given(COUNTS)
def test_every_beginning_has_the_proportions_of_the_whole(counts: dict[int, int]) -> None:
    order = class_order(counts)
    lengths = np.arange(1, len(order) + 1)
    for index, n in counts.items():
        share = n / len(order)
        so_far = np.cumsum(order == index)
        # ½ of its own rounding, and its share of every class's
        assert np.abs(so_far - share * lengths).max() <= 0.5 + share * len(counts) / 2


def test_equal_classes_take_turns() -> None:
    assert class_order({2: 3, 0: 3, 7: 3}).tolist() == [0, 2, 7] * 3


def test_a_rare_class_lies_in_the_middle() -> None:
    assert class_order({0: 4, 1: 1}).tolist() == [0, 0, 1, 0, 0]


def test_without_counts_classes_go_round_with_the_seeds() -> None:
    plan = plan_of(request(count=12, seed=2**64 - 2), CARD, 1)
    assert [plan.label_of(i) for i in range(4)] == [4, 5, 0, 1]
    assert [plan.seed_of(i) for i in range(3)] == [2**64 - 2, 2**64 - 1, 0]
    assert plan.class_name_of(0) == "four"


def test_a_model_without_classes_has_no_labels() -> None:
    plan = plan_of(request(count=3), UNLABELLED, 1)
    assert (plan.label_of(0), plan.class_name_of(0)) == (None, None)


def test_a_class_is_named_by_name_before_index() -> None:
    digits = CARD.inputs[1].model_copy(update={"classes": ("1", "0", "nine")})
    card = CARD.model_copy(update={"inputs": (CARD.inputs[0], digits)})
    plan = plan_of(request(per_class={"1": 1, "2": 2}), card, 1)
    assert sorted(plan.class_name_of(i) or "" for i in range(3)) == ["1", "nine", "nine"]


@settings(max_examples=30)
@given(COUNTS, st.data())
def test_parts_ask_for_what_the_whole_asks_for(counts: dict[int, int], data: Any) -> None:
    per_class = {CLASSES[index]: n for index, n in counts.items()}
    plan = plan_of(request(per_class=per_class, seed=5), CARD, 3)
    cut = data.draw(st.integers(1, plan.count - 1)) if plan.count > 1 else 1
    whole = plan.part(0, plan.count)
    parts = [plan.part(0, cut)] + ([plan.part(cut, plan.count)] if cut < plan.count else [])
    assert [label for part in parts for label in part.labels or ()] == whole.labels
    assert [part.seed for part in parts] == [5, 5 + cut][: len(parts)]
    assert {part.version for part in parts} == {3}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({}, "count", "either count or per_class"),
    "both": ({"count": 1, "per_class": {"one": 1}}, "count", "either count or per_class"),
    "class": ({"per_class": {"eleven": 1}}, "per_class", "'eleven' is no class of 'marked'"),
    "index": ({"per_class": {"10": 1}}, "per_class", "'10' is no class"),
    "twice": ({"per_class": {"1": 1, "one": 1}}, "per_class", "the class of another key"),
    "too many": (
        {"per_class": {"one": MAX_COUNT, "two": 1}},
        "per_class",
        "at most 1000000 are one stream",
    ),
    "beyond": ({"count": 3, "offset": 4, "seed": 1, "version": 1}, "offset", "4 of 3 images"),
    "no seed": ({"count": 3, "offset": 1, "version": 1}, "offset", "without the seed"),
    "no version": ({"count": 3, "offset": 1, "seed": 1}, "offset", "and the version"),
    "graph": ({"count": 3, "sha256": "0" * 64}, "sha256", "has another graph now"),
}


@pytest.mark.parametrize(("fields", "param", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_planned_is_refused(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as raised:
        plan_of(request(**fields), CARD, 1)
    assert raised.value.param == param


def test_a_model_without_classes_has_no_counts_of_them() -> None:
    with pytest.raises(InvalidRequest, match="it has none"):
        plan_of(request(per_class={"0": 1}), UNLABELLED, 1)
