"""A bar on a terminal, one line per tick in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gan_core.progress import counting, training_progress

STATS = {"loss/D": 1.25, "loss/G": 0.5, "gradient_norm/D": 3.0, "img_per_s": 100.0}


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with training_progress(console, total_kimg=2) as progress:
        progress.step(500)
        progress.tick(STATS)
    text: str = console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above
    return text


def test_a_log_gets_one_plain_line_per_tick() -> None:
    # 1,500 images are left at 100 a second
    assert shown(terminal=False) == "0.5/2 kimg  100 img/s  loss/D 1.250  loss/G 0.500  15 s left\n"


def test_a_terminal_gets_a_bar_with_the_same_numbers() -> None:
    text = shown(terminal=True)
    assert all(part in text for part in ("0.5/2 kimg", "100 img/s", "loss/D 1.250"))


def test_a_budget_that_was_overrun_has_no_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with training_progress(console, total_kimg=1) as progress:
        progress.step(1016)
        progress.tick(STATS)
    assert "  0 s left" in console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above


@pytest.mark.parametrize("terminal", [False, True])
def test_a_warning_is_a_line_of_its_own(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, no_color=True)
    with training_progress(console, total_kimg=2) as progress:
        progress.warn("at 3 kimg: [D] is right about 99.5% of images")
    text: str = console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above
    assert "warning: at 3 kimg: [D] is right about 99.5% of images\n" in text


@pytest.mark.parametrize(
    ("terminal", "quiet", "seen"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_a_count_is_shown_on_a_terminal_alone(terminal: bool, quiet: bool, seen: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, no_color=True)
    with counting(console, "images", quiet=quiet) as progress:
        progress(64, 130)
    text: str = console.file.getvalue()  # type: ignore[attr-defined] # the StringIO above
    assert ("images" in text and "64/130" in text) is seen
    assert seen or text == ""
