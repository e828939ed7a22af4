"""A TCP proxy before a Triton, that spoils what comes back from it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

__all__ = ["CutError", "Fault", "Proxy", "cut", "delayed", "garbage", "nothing", "silence"]

Write = Callable[[bytes], None]
Fault = Callable[[bytes, Write], Awaitable[None]]
"""What becomes of bytes that Triton sent: it writes them on, or doesn't."""


class CutError(Exception):
    """The connection ends here."""


async def nothing(data: bytes, write: Write) -> None:
    """All is well."""
    write(data)


def delayed(seconds: float) -> Fault:
    """Everything comes later."""

    async def delay(data: bytes, write: Write) -> None:
        asyncio.get_running_loop().call_later(seconds, write, data)

    return delay


async def cut(data: bytes, write: Write) -> None:
    """The connection breaks in the middle of the answer."""
    write(data[: len(data) // 2])
    raise CutError


async def garbage(data: bytes, write: Write) -> None:
    """As many bytes, but random ones."""
    write(os.urandom(len(data)))


async def silence(data: bytes, write: Write) -> None:
    """Half open: the connection stands, and nothing comes through it ever again."""
    await asyncio.Event().wait()


class Proxy:
    """Forwards a port of its own to a server's; ``fault`` may change at any time.

    Args:
        target: ``host:port`` of the server.
    """

    def __init__(self, target: str) -> None:
        self.fault: Fault = nothing
        self.address = ""
        self._target = target.rsplit(":", 1)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._over.wait()
        server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)

        async def spoilt(data: bytes, write: Write) -> None:
            await self.fault(data, write)

        pumps = [
            asyncio.create_task(_pump(reader, back, nothing)),
            asyncio.create_task(_pump(there, writer, spoilt)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for one in (writer, back):
            one.transport.abort()
        await asyncio.gather(*pumps, return_exceptions=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    with suppress(OSError, CutError):
        while data := await reader.read(1 << 16):
            await fault(data, writer.write)
            await writer.drain()
