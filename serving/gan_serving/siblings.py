"""Numbers of all the processes of a server, whichever of them is asked.

Each tells its own, as Prometheus reads them, to whoever opens its socket in a common folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from .engine_metrics import ACCOUNT

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Exposition", "Siblings", "merged"]

Exposition = Callable[[], Awaitable[bytes]]
"""A process's numbers, as Prometheus reads them."""

ANSWER_S = 2.0
"""A process that takes longer is left out."""
NOT_SUMMED = ("ganforge_expected_wait_seconds",)


class Siblings:
    """The processes of one server.

    Args:
        folder: of their sockets.
        index: which of them this is.
        engine: ``triton``, of which all tell the same, or ``ort``.
    """

    def __init__(self, folder: Path, index: int, engine: str) -> None:
        self._folder = folder
        self._path = folder / f"{index}.sock"
        self._common = (*NOT_SUMMED, *ACCOUNT) if engine == "triton" else NOT_SUMMED
        self._own: Exposition | None = None
        self._server: asyncio.Server | None = None

    def together(self, own: Exposition) -> Exposition:
        """The numbers of all; ``own`` are this process's."""
        self._own = own
        return self._exposition

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)  # of one that ended
        self._server = await asyncio.start_unix_server(self._tell, self._path)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            if self._own is not None:
                writer.write(await self._own())
                await writer.drain()
            writer.close()

    async def _exposition(self) -> bytes:
        found = await asyncio.gather(*map(_asked, sorted(self._folder.glob("*.sock"))))
        return merged(found, self._common)


async def _asked(path: Path) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()
    except OSError:  # it is about to end, or hangs; TimeoutError is one too
        return ""


def merged(expositions: Iterable[str], common: tuple[str, ...] = ()) -> bytes:
    """Numbers of several processes as one: their sums.

    Args:
        expositions: as Prometheus reads them.
        common: beginnings of names whose numbers are of all; the largest is taken.
    """
    metrics: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            metrics.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            combined = max if family.name.startswith(common) else sum
            for sample in family.samples:
                key = family.name, sample.name, tuple(sorted(sample.labels.items()))
                values[key] = combined((values.get(key, 0.0), sample.value))
    for (family_name, name, labels), value in values.items():
        metrics[family_name].add_sample(name, dict(labels), value)
    return generate_latest(_Collected(metrics.values()))


class _Collected:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
