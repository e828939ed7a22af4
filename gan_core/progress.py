"""How training shows itself: a live bar on a terminal, one line per tick in a log."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console


__all__ = ["Progress", "Silent", "counting", "training_progress"]


class Progress(Protocol):
    """Told of every step, so that it can draw; must not wait for the device."""

    def step(self, images_seen: int) -> None:
        """A step ended."""

    def tick(self, stats: dict[str, float]) -> None:
        """A tick ended, with the means since the last one."""

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        """The generator was scored."""

    def warn(self, text: str) -> None:
        """Something is wrong with the run."""


class Silent:
    """A Progress that shows nothing."""

    def step(self, images_seen: int) -> None:
        """Nothing."""

    def tick(self, stats: dict[str, float]) -> None:
        """Nothing."""

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


class _Lines:
    def __init__(self, console: Console, total_kimg: float) -> None:
        self.console, self.total_kimg, self.seen = console, total_kimg, 0

    def step(self, images_seen: int) -> None:
        self.seen = images_seen

    def tick(self, stats: dict[str, float]) -> None:
        left_s = (self.total_kimg * 1000 - self.seen) / max(stats["img_per_s"], 1e-9)
        text = f"{self.seen / 1000:.1f}/{self.total_kimg:g} kimg  {_summary(stats)}"
        self.console.print(f"{text}  {max(left_s, 0):.0f} s left", highlight=False)

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        self.console.print(f"{kimg:g} kimg  {_values(scores)}", highlight=False)

    def warn(self, text: str) -> None:
        _warn(self.console, text)


class _Bar:
    def __init__(self, bar: Bar, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def step(self, images_seen: int) -> None:
        self.bar.update(self.task, completed=images_seen / 1000)

    def tick(self, stats: dict[str, float]) -> None:
        self.bar.update(self.task, stats=_summary(stats))

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        self.bar.console.print(f"{kimg:g} kimg  {_values(scores)}", highlight=False)

    def warn(self, text: str) -> None:
        _warn(self.bar.console, text)


@contextmanager
def training_progress(console: Console, total_kimg: float) -> Iterator[Progress]:
    """A progress display for ``fit``, gone quietly when the block ends."""
    if not console.is_terminal:
        yield _Lines(console, total_kimg)
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed:.1f}/{task.total:g} kimg"),
        TextColumn("{task.fields[stats]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task("training", total=total_kimg, stats=""))


@contextmanager
def counting(
    console: Console, what: str, *, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """A display of how many of something are done, gone quietly when the block ends."""
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)


def _values(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in scores.items())


def _summary(stats: dict[str, float]) -> str:
    losses = "  ".join(f"{k} {v:.3f}" for k, v in stats.items() if k.startswith("loss/"))
    return f"{stats['img_per_s']:.0f} img/s  {losses}"
