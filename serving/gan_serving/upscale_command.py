"""``ganforge upscale``: a picture, a folder of them, or a video, larger."""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_core.errors import ConfigError

from .commands import DEFAULT_URL, Url, connected, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, ProgressColumn

    from gan_client import Client

    from .picture_files import Folder

__all__ = ["upscale"]

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}


class Format(StrEnum):
    """A picture file's."""

    PNG = "png"
    TIF = "tif"
    JPG = "jpg"
    WEBP = "webp"


def upscale(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A picture, a folder of pictures, or a video.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="What it becomes; for a folder, one.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="A published model; the only one that takes a picture.")
    ] = None,
    to: Annotated[
        Format | None, typer.Option("--format", help="Of pictures in a folder; png by default.")
    ] = None,
    crf: Annotated[
        int, typer.Option(min=0, max=51, help="Of videos; less is larger and better.")
    ] = 18,
    url: Url = DEFAULT_URL,
) -> None:
    """Make a picture, a folder's pictures or a video larger; a folder goes on where it was cut."""
    if not source.exists():
        raise ConfigError(f"IN {source}: there is no such file or folder")
    if source.is_dir():
        _folder(source, out, model, (to or Format.PNG).value, url)
    elif source.suffix.lower() in VIDEOS:
        _video(source, out, model, crf, url)
    else:
        _picture(source, out, model, to, url)


def _picture(source: Path, out: Path, model: str | None, to: Format | None, url: str) -> None:
    from gan_client.upscaling import WRITTEN

    from .picture_files import upscaled

    if out.is_dir():
        out /= f"{source.stem}.{(to or Format.PNG).value}"
    elif to is not None:
        raise ConfigError(f"--format {to.value} is of a folder's pictures: OUT {out} names its own")
    if out.suffix.lower() not in WRITTEN:
        raise ConfigError(f"OUT {out}: name one of {', '.join(WRITTEN)}, or a folder")
    _check_apart(source, out)
    with _interruptible(out), connected(url) as client, _readable(source), _clock() as clock:
        chosen = _chosen(client, model)
        clock.add_task(f"{source.name} by {chosen}", total=None)
        upscaled(client, chosen, source, out)
    say(f"{out}: {source} by {chosen}")


def _folder(source: Path, out: Path, model: str | None, to: str, url: str) -> None:
    from .picture_files import Folder

    if out.is_file() or out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"OUT {out}: name a folder outside of {source}")
    folder = Folder.of(source, out, f".{to}")
    with _going_on(folder), connected(url) as client, _bar() as bar:
        chosen = _chosen(client, model)
        task = bar.add_task("", total=folder.total, completed=folder.there)
        for _ in folder.upscale(client, chosen):
            bar.advance(task)
    there = f", {folder.there} were there already" if folder.there else ""
    say(f"{out}: {folder.made} pictures by {chosen}{there}")
    if folder.failures:
        typer.echo(f"{len(folder.failures)} of {folder.total} failed:", err=True)
        for path, why in sorted(folder.failures.items()):
            typer.echo(f"  {path}: {why}", err=True)
        raise typer.Exit(1)


def _video(source: Path, out: Path, model: str | None, crf: int, url: str) -> None:
    from rich.progress import TextColumn

    from .video_files import Video

    if out.suffix.lower() not in VIDEOS:
        raise ConfigError(f"OUT {out}: name one of {', '.join(sorted(VIDEOS))} for a video")
    _check_apart(source, out)
    rate = TextColumn("{task.fields[rate]}")
    with (
        _interruptible(out),
        connected(url) as client,
        Video.opened(source) as video,
        _bar(rate) as bar,
    ):
        chosen = _chosen(client, model)
        task = bar.add_task("", total=video.frames, rate="")
        for frames, seconds in video.upscale(client, chosen, out, crf):
            bar.update(task, completed=frames, rate=f"{frames / seconds:.1f} frames/s")
    say(f"{out}: {frames} frames by {chosen}, {frames / seconds:.1f} a second")


def _chosen(client: Client, model: str | None) -> str:
    """The model's name: without one, that of the only model that takes a picture."""
    if model is not None:
        return model
    names = [card.model for card in client.models.list() if card.input("image") is not None]
    match names:
        case []:
            raise ConfigError("no published model takes a picture; 'ganforge models' lists all")
        case [name]:
            return name
    raise ConfigError(f"which model? Give --model, one of {', '.join(names)}")


def _check_apart(source: Path, out: Path) -> None:
    if out.exists() and out.samefile(source):
        raise ConfigError(f"OUT {out} is IN itself: name another")


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"can't upscale {source}: {error}") from error


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Ctrl-C says that nothing incomplete was left."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(f"{out} isn't written; the same command begins it anew", err=True)
        raise typer.Exit(130) from stop


@contextmanager
def _going_on(folder: Folder) -> Iterator[None]:
    """Ctrl-C says what is there, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        done = f"{folder.there + folder.made} of {folder.total} pictures are in {folder.out}"
        typer.echo(f"{done}; the same command goes on", err=True)
        raise typer.Exit(130) from stop


def _clock() -> Progress:
    """Shows on stderr, where that is a terminal, that something is done and for how long."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    return _progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())


def _bar(*more: ProgressColumn) -> Progress:
    """On stderr, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    return _progress(BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn())


def _progress(*columns: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
