"""System shared memory with a Triton of this machine: large tensors that don't pass a socket.

A region belongs to one request at a time, until Triton has answered it: not until its caller has
gone, for Triton would go on writing into what is somebody else's by then.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import mmap
import os
import shutil
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tritonclient.grpc.aio import InferenceServerClient

__all__ = ["SHARED_BYTES", "Region", "Regions", "is_here"]

log = logging.getLogger(__name__)

SHARED_BYTES = 1 << 19
"""Outputs from this size on are shared. Measured on two cores: a fifth sooner for 0.8 MB, a third
for 3 MB, with 2/3 and 1/3 of this process's CPU time; nothing is gained below 0.4 MB."""
MOST_BYTES = 1 << 28
"""Of all regions together; where they are all taken, tensors go over the socket."""
REFUSED_S = 60.0
"""After a refusal shared memory is left alone for so long."""
CONTROL_TIMEOUT_S = 2.0
SHM = Path("/dev/shm")  # noqa: S108  where shm_open puts what it is given


def is_here(address: str) -> bool:
    """Whether ``host:port`` is of this machine, and it has shared memory."""
    host = address.rpartition(":")[0]
    return SHM.is_dir() and (host in ("localhost", "[::1]") or host.startswith("127."))


Answer = TypeVar("Answer")
BROKEN = ("UNAVAILABLE", "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED")
"""gRPC's codes where nobody knows whether Triton is done,"""
REFUSALS = ("Request timeout expired", "Exceeds maximum queue size")
"""but for what Triton itself says with them."""


class Region:
    """Memory that this process and Triton see. It has no name in the file system any more."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        path = SHM / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # a page that isn't there would kill Triton
            self._memory = mmap.mmap(descriptor, size)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    def hide(self) -> None:
        """Remove its name: whoever has it mapped keeps it, and nothing stays after a crash."""
        (SHM / self.name).unlink(missing_ok=True)

    def write(self, array: NDArray[Any], offset: int) -> None:
        """Put an input there."""
        self._view(array.shape, array.dtype, offset)[...] = array

    def read(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A copy of the output that Triton wrote."""
        return self._view(shape, dtype, 0).copy()

    def _view(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
        return np.ndarray(shape, dtype, self._memory, offset)


class Regions:
    """Regions that one Triton knows, made as they are needed and used again and again.

    Args:
        client: of that Triton.
    """

    def __init__(self, client: InferenceServerClient) -> None:
        self._client = client
        self._free: list[Region] = []
        self._bytes = 0
        self._numbers = itertools.count()
        self._not_before = 0.0
        self._is_swept = False
        self._calls: set[asyncio.Task[Any]] = set()

    async def lease(self, size: int) -> Region | None:
        """A region of at least so many bytes; None where the socket has to do."""
        region = self._taken(size)
        rounded = 1 << (size - 1).bit_length()
        has_room = self._bytes + rounded <= MOST_BYTES and time.monotonic() >= self._not_before
        if region is None and has_room:
            self._bytes += rounded  # before anything is awaited: others ask meanwhile
            await self._unstopped(self._grow(rounded))
            region = self._taken(size)
        return region

    async def run(self, region: Region, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What a call to Triton gives; the region is free again once Triton has answered."""
        return await self._unstopped(self._settled(region, work))

    async def close(self) -> None:
        """Let Triton forget all but what it still writes to, which it may do a little longer."""
        from tritonclient.utils import InferenceServerException

        try:
            if self._calls:
                await asyncio.wait(self._calls, timeout=CONTROL_TIMEOUT_S)
            while self._free:
                await self._unregister(self._free.pop().name)
        except InferenceServerException:
            pass  # it is gone, and has forgotten everything
        except asyncio.CancelledError:  # so does a call end whose server dies
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    async def _unstopped(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Its result; whoever stops waiting for it doesn't stop it."""
        call = asyncio.create_task(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(call)

    def _taken(self, size: int) -> Region | None:
        fitting = [region for region in self._free if region.size >= size]
        if not fitting:
            return None
        smallest = min(fitting, key=lambda region: region.size)
        self._free.remove(smallest)
        return smallest

    async def _grow(self, size: int) -> None:
        region = await self._made(size)
        if region is not None:
            self._free.append(region)
            return
        self._bytes -= size
        self._not_before = time.monotonic() + REFUSED_S

    async def _settled(self, region: Region, work: Coroutine[Any, Any, Answer]) -> Answer:
        from tritonclient.utils import InferenceServerException

        try:
            answer = await work
        except InferenceServerException as error:
            if _is_answer(error):
                self._free.append(region)
            raise
        self._free.append(region)
        return answer

    async def _made(self, size: int) -> Region | None:
        from tritonclient.utils import InferenceServerException

        if size > shutil.disk_usage(SHM).free // 2:  # Triton's own processes live there too
            return None
        region = None
        try:
            if not self._is_swept:
                self._is_swept = True
                await self._sweep()
            region = Region(f"{_prefix()}{os.getpid()}-{id(self):x}-{next(self._numbers)}", size)
            await self._client.register_system_shared_memory(
                region.name, f"/{region.name}", size, client_timeout=CONTROL_TIMEOUT_S
            )
        except (OSError, InferenceServerException) as error:
            log.info("no shared memory with Triton: %s", error)
            return None
        finally:
            if region is not None:
                region.hide()
        return region

    async def _sweep(self) -> None:
        """Let Triton forget the regions of processes that were killed."""
        status = await self._client.get_system_shared_memory_status(
            client_timeout=CONTROL_TIMEOUT_S
        )
        for name in status.regions:
            if _is_orphan(name):
                await self._unregister(name)

    async def _unregister(self, name: str) -> None:
        await self._client.unregister_system_shared_memory(name, client_timeout=CONTROL_TIMEOUT_S)


def _is_answer(error: Any) -> bool:
    """Whether Triton itself has refused, and so is done."""
    broken = str(error.status()).endswith(BROKEN)
    return not broken or any(words in str(error.message()) for words in REFUSALS)


def _is_orphan(name: str) -> bool:
    """Whether a region is one of ours, of a process that isn't any more."""
    owner = name.removeprefix(_prefix()).partition("-")[0]
    return name.startswith(_prefix()) and not Path("/proc", owner).exists()


def _prefix() -> str:
    """Of the names of all processes that know each other's ids."""
    return f"ganforge-{Path('/proc/self/ns/pid').stat().st_ino}-"
