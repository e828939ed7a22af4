"""Schedules against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.schedules import Schedule, constant, cosine, exponential, linear

KIMG = st.floats(0, 1e6)
VALUE = st.floats(-100, 100)
OVER = st.floats(0.01, 1e5)


@given(VALUE, KIMG)
def test_constant_is_always_its_value(value: float, kimg: float) -> None:
    assert constant(value)(kimg) == value


@pytest.mark.parametrize(("kimg", "expected"), [(0, 4.0), (5, 3.0), (10, 2.0), (99, 2.0)])
def test_linear_is_a_straight_line_and_then_its_end(kimg: float, expected: float) -> None:
    assert linear(4.0, 2.0, over_kimg=10)(kimg) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kimg", "expected"),
    # cos 0 = 1, cos π/3 = ½, cos π/2 = 0, cos π = −1
    [(0, 5.0), (4, 4.0), (6, 3.0), (12, 1.0), (99, 1.0)],
)
def test_cosine_is_half_a_wave_and_then_its_end(kimg: float, expected: float) -> None:
    assert cosine(5.0, 1.0, over_kimg=12)(kimg) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kimg", "expected"), [(0, 8.0), (2.9, 8.0), (3, 4.0), (5.9, 4.0), (6, 2.0), (30, 8 / 2**10)]
)
def test_exponential_multiplies_at_each_stair(kimg: float, expected: float) -> None:
    assert exponential(8.0, 0.5, every_kimg=3)(kimg) == pytest.approx(expected)


@given(stairs=st.integers(0, 1000), every=st.integers(1, 1000))
def test_no_stair_is_missed_by_a_rounding_error(stairs: int, every: int) -> None:
    # both in images, as the loop counts them
    kimg, every_kimg = stairs * every / 1000, every / 1000
    assert exponential(1.0, 0.9, every_kimg)(kimg) == 0.9**stairs


@given(start=VALUE, end=VALUE, over=OVER, kimg=KIMG)
@pytest.mark.parametrize("shape", [linear, cosine])
def test_a_schedule_stays_between_its_ends(
    shape: Callable[[float, float, float], Schedule],
    start: float,
    end: float,
    over: float,
    kimg: float,
) -> None:
    low, high = sorted([start, end])
    assert low - 1e-9 <= shape(start, end, over)(kimg) <= high + 1e-9


@given(over=OVER, kimgs=st.tuples(KIMG, KIMG))
@pytest.mark.parametrize("shape", [linear, cosine])
def test_a_schedule_never_turns_round(
    shape: Callable[[float, float, float], Schedule], over: float, kimgs: tuple[float, float]
) -> None:
    earlier, later = (shape(1.0, 0.0, over)(kimg) for kimg in sorted(kimgs))
    assert earlier >= later


@pytest.mark.parametrize("over_kimg", [0, -1.0])
@pytest.mark.parametrize("shape", [linear, cosine, exponential])
def test_a_schedule_that_takes_no_time_is_refused(
    shape: Callable[[float, float, float], Schedule], over_kimg: float
) -> None:
    with pytest.raises(ValueError, match=f"takes more than 0 kimg, not {over_kimg}"):
        shape(1.0, 0.5, over_kimg)
