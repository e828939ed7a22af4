"""How training shows itself: a live bar on a terminal, one line per tick in a log."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from .loop import Progress as LoopProgress

__all__ = ["training_progress"]


class _Lines:
    def __init__(self, console: Console, total_kimg: float) -> None:
        self.console, self.total_kimg, self.seen = console, total_kimg, 0

    def step(self, images_seen: int) -> None:
        self.seen = images_seen

    def tick(self, stats: dict[str, float]) -> None:
        left_s = (self.total_kimg * 1000 - self.seen) / max(stats["img_per_s"], 1e-9)
        text = f"{self.seen / 1000:.1f}/{self.total_kimg:g} kimg  {_summary(stats)}"
        self.console.print(f"{text}  {max(left_s, 0):.0f} s left", highlight=False)

    def warn(self, text: str) -> None:
        _warn(self.console, text)


class _Bar:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def step(self, images_seen: int) -> None:
        self.bar.update(self.task, completed=images_seen / 1000)

    def tick(self, stats: dict[str, float]) -> None:
        self.bar.update(self.task, stats=_summary(stats))

    def warn(self, text: str) -> None:
        _warn(self.bar.console, text)


@contextmanager
def training_progress(console: Console, total_kimg: float) -> Iterator[LoopProgress]:
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
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task("training", total=total_kimg, stats=""))


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)


def _summary(stats: dict[str, float]) -> str:
    losses = "  ".join(f"{k} {v:.3f}" for k, v in stats.items() if k.startswith("loss/"))
    return f"{stats['img_per_s']:.0f} img/s  {losses}"
