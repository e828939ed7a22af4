"""``ganforge bench``: measure a server, for people and for machines to read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_core.errors import ConfigError, ConnectionFailed

from . import Accept
from .environment import environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .measure import Plan
    from .table import LiveTable
    from .targets import Target

__all__ = ["bench"]

CALLERS = "1,8,32"
DURATION_S = 10.0


def bench(
    model: Annotated[str, typer.Argument(help="A published model; see 'ganforge models'.")],
    *,
    url: Annotated[str, typer.Option(help="http://… or grpc://host:port of a gateway.")] = (
        "http://127.0.0.1:8080"
    ),
    concurrency: Annotated[
        str | None, typer.Option(metavar="1,8,32", help="Callers, one level after another.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Open loop instead: requests/s, at random times."),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Per level.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help=f"Seconds per level; {DURATION_S:g}.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=256, help="Images per request.")] = 1,
    accept: Annotated[
        Accept | None, typer.Option(help="png; json over HTTP; raw over gRPC.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="GANFORGE_API_KEY", help="API key.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.01, help="Deadline of each request.")] = 30.0,
    verify: Annotated[
        bool, typer.Option(help="Compare every picture with what its seed gives by itself.")
    ] = True,
    pid: Annotated[
        int | None, typer.Option(min=1, help="The server's process, for its CPU and memory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Measure a server: pace, latencies, errors, and whether every picture is right.

    Exit status 1 where a picture was wrong, or a level got none. Ctrl-C ends it with what was
    measured by then.
    """
    from rich.console import Console

    from .measure import Plan
    from .table import LiveTable
    from .targets import target_of

    if rate is not None and concurrency is not None:
        raise ConfigError("--rate is an open loop, which has no --concurrency: choose one")
    if requests is not None and duration is not None:
        raise ConfigError("--requests and --duration both say when a level is over: choose one")
    plan = Plan(
        requests=requests,
        duration_s=(duration or DURATION_S) if requests is None else None,
        n=n,
        timeout_s=timeout_s,
        pid=pid,
    )
    callers: Sequence[int | None] = [None] if rate else _callers(concurrency or CALLERS)
    target = target_of(url, model, accept, n, timeout_s=timeout_s, key=key)
    expected = _expected(url, key, model, plan.distinct * n) if verify else None
    with LiveTable(Console(stderr=as_json)) as table:
        is_whole = _measure(target, plan, callers, rate, expected, table)
    levels = table.levels
    about = {**environment(), "model": model, "url": url}
    report = json.dumps({**about, "levels": [asdict(one) for one in levels]})
    if out:
        out.write_text(f"{report}\n")
    if as_json:
        typer.echo(report)
    if not is_whole:
        typer.echo("interrupted: the numbers are of what was answered by then", err=True)
        raise typer.Exit(130)
    if any(one.wrong or not one.images for one in levels):
        raise typer.Exit(1)


def _callers(text: str) -> list[int]:
    try:
        callers = [int(part) for part in text.split(",")]
    except ValueError:
        callers = []
    if not callers or min(callers) < 1:
        raise ConfigError(f"--concurrency {text!r}: give numbers from 1 on, such as {CALLERS}")
    return callers


def _expected(url: str, key: str | None, model: str, count: int) -> list[NDArray[np.uint8]]:
    """The pictures of the first seeds, each asked for by itself."""
    from gan_client import Client

    try:
        with Client(url, key=key) as client:
            return [
                client.images.generate(model=model, n=1, seed=seed)[0].numpy()
                for seed in range(count)
            ]
    except ConnectionFailed as error:
        raise ConfigError(f"{error}; start a server with 'ganforge serve'") from error


def _measure(
    target: Target,
    plan: Plan,
    callers: Sequence[int | None],
    rate: float | None,
    expected: list[NDArray[np.uint8]] | None,
    table: LiveTable,
) -> bool:
    """One level after another; whether Ctrl-C let all of them end."""
    from .measure import loop_factory, measure

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        for concurrency in callers:
            level = measure(
                target,
                plan,
                concurrency=concurrency,
                rate=rate,
                expected=expected,
                on_start=table.watch,
            )
            try:
                table.add(runner.run(level))
            except KeyboardInterrupt:  # before anything was timed
                return False
            if table.levels[-1].interrupted:
                return False
    return True
