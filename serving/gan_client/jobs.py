"""``client.jobs``: requests whose images are fetched later, from a gateway over HTTP."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from urllib.parse import quote

from gan_core.errors import DeadlineExceeded, NotSupported, Unavailable

from .asking import Asked, request_of
from .http_transport import GENERATIONS, HttpTransport, batch_of
from .runner import Runner

if TYPE_CHECKING:
    from gan_serving.schema import JobInfo

    from .client import AsyncClient
    from .images import ImageBatch
    from .transports import Transport

__all__ = ["AsyncJobs", "Jobs"]

T = TypeVar("T")

LONGEST_PAUSE_S = 2.0


class AsyncJobs:
    """``client.jobs``. Every method raises ``NotSupported`` on other addresses than http(s)://."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self, *, idempotency_key: str | None = None, **asked: Unpack[Asked]
    ) -> JobInfo:
        """A job of what ``images.generate`` would make at once; takes the same arguments.

        Args:
            idempotency_key: with the same one the same job; a new one by default, so that a
                retry doesn't make a second job.
            asked: as ``images.generate`` has them.

        Raises:
            IdempotencyConflict: the key was used for another request.
            ServiceError: the request couldn't be fulfilled; the subclass says why.
        """
        body = request_of(**asked).model_dump(exclude_none=True, exclude_defaults=True)
        headers = {
            "Prefer": "respond-async",
            "Idempotency-Key": idempotency_key or uuid.uuid4().hex,
        }
        return await self._ask("POST", GENERATIONS, _info, body, headers)

    async def retrieve(self, job: str) -> JobInfo:
        """How far a job is.

        Raises:
            JobNotFound: there is none of that id, or not any more.
        """
        return await self._ask("GET", _path(job), _info)

    async def cancel(self, job: str) -> JobInfo:
        """End a job; one that has ended stays as it is.

        Raises:
            JobNotFound: there is none of that id, or not any more.
        """
        return await self._ask("DELETE", _path(job), _info)

    async def result(self, job: str) -> ImageBatch:
        """The images of a job that has succeeded.

        Raises:
            Unavailable: it hasn't ended yet.
            JobNotFound: there is none of that id, not any more, or it was cancelled.
            ServiceError: the one that it failed with.
        """
        answer = await self._answer(job)
        if isinstance(answer, str):
            raise Unavailable(f"job {job!r} is {answer}: wait() for it", retry_after_s=1)
        return answer

    async def wait(self, job: str, timeout_s: float | None = None) -> ImageBatch:
        """The images of a job, once it has succeeded.

        Args:
            job: its id.
            timeout_s: for how long; the client's by default. The job goes on after it.

        Raises:
            DeadlineExceeded: it hasn't ended by then.
            ServiceError: as ``result``.
        """
        limit_s = self._client.timeout_s if timeout_s is None else timeout_s
        deadline, pause_s = time.monotonic() + limit_s, 0.05
        while isinstance(answer := await self._answer(job), str):
            if time.monotonic() + pause_s > deadline:
                raise DeadlineExceeded(f"job {job!r} is {answer} after {limit_s:g} s; it goes on")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return answer

    async def _answer(self, job: str) -> ImageBatch | str:
        """The images, or the status while there are none."""
        return await self._ask("GET", f"{_path(job)}/result", _batch_or_status)

    async def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> T:
        async def attempt(transport: Transport, left_s: float) -> T:
            if not isinstance(transport, HttpTransport):
                raise NotSupported("only a gateway keeps jobs: connect to its http:// address")
            return await transport.ask(method, path, left_s, read, body, headers=headers)

        return await self._client.call(attempt)


class Jobs:
    """``client.jobs``."""

    def __init__(self, jobs: AsyncJobs, runner: Runner) -> None:
        self._jobs = jobs
        self._runner = runner

    def create(self, *, idempotency_key: str | None = None, **asked: Unpack[Asked]) -> JobInfo:
        """As ``AsyncJobs.create``."""
        return self._runner.call(self._jobs.create(idempotency_key=idempotency_key, **asked))

    def retrieve(self, job: str) -> JobInfo:
        """As ``AsyncJobs.retrieve``."""
        return self._runner.call(self._jobs.retrieve(job))

    def cancel(self, job: str) -> JobInfo:
        """As ``AsyncJobs.cancel``."""
        return self._runner.call(self._jobs.cancel(job))

    def result(self, job: str) -> ImageBatch:
        """As ``AsyncJobs.result``."""
        return self._runner.call(self._jobs.result(job))

    def wait(self, job: str, timeout_s: float | None = None) -> ImageBatch:
        """As ``AsyncJobs.wait``."""
        return self._runner.call(self._jobs.wait(job, timeout_s))


def _path(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _batch_or_status(found: Any) -> ImageBatch | str:
    return batch_of(found) if "data" in found else str(found["status"])


def _info(found: Any) -> JobInfo:
    from gan_serving.schema import JobInfo

    return JobInfo.model_validate(found)
