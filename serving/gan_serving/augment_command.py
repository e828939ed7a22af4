"""``ganforge augment``: a generated data set on disk, begun again wherever it was cut."""

from __future__ import annotations

from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_core.errors import ConfigError

from .commands import DEFAULT_URL, Url, connected, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gan_client import Augmentation, Client

    from .sample_files import Record, SampleFiles

__all__ = ["augment"]

SAVE_EVERY = 100
"""Images after which the record is written."""
NO_FOLDERS = {".gz", ".tgz", ".zip", ".png", ".jpg", ".jpeg", ".webp"}


def augment(
    model: Annotated[str, typer.Argument(help="A published model; see 'ganforge models'.")],
    *,
    out: Annotated[
        Path, typer.Option(help="A folder, with a subfolder per class, or a .tar (WebDataset).")
    ],
    count: Annotated[
        int | None, typer.Option(min=1, help="Images; classes go round with the seeds.")
    ] = None,
    per_class: Annotated[
        list[str] | None, typer.Option(metavar="CLASS=N", help="Instead, and again per class.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first; random by default.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The newest by default.")] = None,
    truncation: Annotated[float | None, typer.Option(help="ψ; less is more typical.")] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Images per tar; all in one by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run of the same options was cut.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Generate a data set: as many images as you like, in class folders or WebDataset tars."""
    _check_out(out, shard_size)
    if (count is None) == (not per_class):
        raise ConfigError("how many images? Give either --count or --per-class")
    asked = {
        "model": model,
        "count": count,
        "per_class": _counts(per_class or []) or None,
        "seed": seed,
        "version": version,
        "truncation": truncation,
    }
    with connected(url) as client:
        record = _begun(out, asked, shard_size, resume=resume)
        if record.request.offset < record.request.total:
            with _interruptible(out):
                record = _collect(client, record, out)
    request = record.request
    say(f"{out}: {request.offset} images of {model} version {request.version}, seed {request.seed}")


def _check_out(out: Path, shard_size: int | None) -> None:
    if out.suffix.lower() in NO_FOLDERS:
        raise ConfigError(f"--out {out}: name a folder, or a .tar")
    if shard_size is not None and out.suffix != ".tar":
        raise ConfigError(f"--shard-size is of tars: --out {out} is a folder")


def _counts(pairs: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for pair in pairs:
        name, _, n = pair.rpartition("=")
        if not name or not n.isdecimal():
            raise typer.BadParameter(f"--per-class takes CLASS=N, not {pair!r}")
        counts[name] = int(n)
    return counts


def _begun(out: Path, asked: dict[str, Any], shard_size: int | None, *, resume: bool) -> Record:
    """The record to go on from; of a new stream, with its seed."""
    from gan_core.latents import random_seed

    from .sample_files import Record, is_free, record_path
    from .schema import AugmentRequest, validated

    path = record_path(out)
    record = Record.read(path)
    if record is not None:
        if not resume:
            raise ConfigError(
                f"{out} has {record.request.offset} images already: --resume goes on with them"
            )
        _check_same(record, asked, shard_size, path)
        return record
    if not is_free(out):
        raise ConfigError(f"{out} exists, and {path.name} doesn't tell of what: name another --out")
    given = {**asked, "seed": random_seed() if asked["seed"] is None else asked["seed"]}
    return Record(request=validated(AugmentRequest, given), shard_size=shard_size)


def _check_same(record: Record, asked: dict[str, Any], shard_size: int | None, path: Path) -> None:
    for name, given in {**asked, "shard_size": shard_size}.items():
        known = record.shard_size if name == "shard_size" else getattr(record.request, name)
        drawn = name in ("seed", "version") and given is None
        if given != known and not drawn:
            option = name.replace("_", "-")
            raise ConfigError(f"{path} was begun with --{option} {known}, not {given}")


def _collect(client: Client, record: Record, out: Path) -> Record:
    """The record of the whole, once all that was missing is written."""
    from .sample_files import record_path

    request = record.request
    stream = client.images.augment(
        model=request.model,
        count=request.count,
        per_class=request.per_class,
        seed=request.seed,
        version=request.version,
        offset=request.offset,
        truncation=request.truncation,
    )
    with (
        stream,
        _writing(out),
        closing(_files(out, record)) as files,
        _progress(stream) as advance,
    ):
        for sample in stream:
            if sample.index == request.offset or sample.index % SAVE_EVERY == 0:
                record = record.at(sample, files.flush())
                record.write(record_path(out))
            files.write(sample)
            advance()
        files.finish()
        record = record.complete()
        record.write(record_path(out))
    return record


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Ctrl-C says what is there, and how to go on."""
    from .sample_files import Record, record_path

    try:
        yield
    except KeyboardInterrupt as stop:
        record = Record.read(record_path(out))
        if record is None:
            raise
        done = f"{record.request.offset} of {record.request.total} images are written to {out}"
        typer.echo(f"{done}; the same command with --resume goes on", err=True)
        raise typer.Exit(130) from stop


def _files(out: Path, record: Record) -> SampleFiles:
    from .sample_files import Folders, Shards

    if out.suffix == ".tar":
        return Shards(out, record.shard_size, record.request.offset, record.shard_bytes)
    return Folders(out)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"can't write {out}: {error}") from error


@contextmanager
def _progress(stream: Augmentation) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where that is a terminal; what is given moves it on by one image."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=stream.count, completed=stream.offset)
        yield lambda: progress.advance(task)
