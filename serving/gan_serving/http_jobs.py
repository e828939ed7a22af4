"""``Prefer: respond-async``: jobs over HTTP, and the tasks that run them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from gan_core.errors import InternalError, JobNotFound, ServiceError, Unavailable

from . import tracing
from .answers import shown
from .encode import files
from .http_images import document
from .schema import GenerationRequest, JobInfo, problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from .jobs import Job, JobStore
    from .service import ImageService

__all__ = ["JobRunner", "accepted", "info", "result", "seed_of", "wants_job"]

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often is looked for jobs that another worker took in, or left behind."""
BEAT_S = 5.0
PATIENCE = 30
"""Attempts of a job while models are busy or down."""
LONGEST_WAIT_S = 20.0


class JobRunner:
    """Runs jobs, a few at a time; requests that somebody waits for share the queue with them.

    Args:
        store: where they are.
        service: makes the images.
        at_once: jobs that this process runs at a time.
    """

    def __init__(self, store: JobStore, service: ImageService, at_once: int = 2) -> None:
        self.store = store
        self._service = service
        self._at_once = at_once
        self._wake = asyncio.Event()

    async def take_in(
        self, body: GenerationRequest, caller: str, idempotency: str | None = None
    ) -> Job:
        """A job of a request that could be fulfilled.

        Raises:
            ServiceError: it couldn't, or the caller has too many; the subclass says why.
        """
        await self._service.check_request(body)
        given = body.model_dump(exclude_none=True, exclude_defaults=True)
        n = self._service.count(body)
        job = await asyncio.to_thread(self.store.add, caller, given, n, idempotency)
        self._wake.set()
        return job

    async def run(self) -> None:
        """Run jobs for ever; what runs when this is cancelled is put back."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            with suppress(Unavailable):  # no job can be read or kept now; the log has why
                job = await self._claimed()
                if job is not None:
                    await self._run(job)
                    continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _claimed(self) -> Job | None:
        claiming = asyncio.create_task(asyncio.to_thread(self.store.claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            job = await claiming  # the thread goes on: what it claims must not be lost
            if job is not None:
                self.store.put_back(job.id)
            raise

    async def _run(self, job: Job) -> None:
        working = asyncio.create_task(self._answer(job))
        try:
            while not (await asyncio.wait((working,), timeout=BEAT_S))[0]:
                if not await asyncio.to_thread(self.store.heard, job.id):
                    return  # it was cancelled
            found, error = working.result()
            await asyncio.to_thread(self.store.finish, job.id, result=found, problem=error)
        except asyncio.CancelledError:
            self.store.put_back(job.id)
            raise
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _answer(self, job: Job) -> tuple[str | None, dict[str, Any] | None]:
        """The answer or the problem; a model that is busy or down is waited for."""
        for attempt in range(PATIENCE):
            try:
                body = GenerationRequest.model_validate(job.request)
                with tracing.span("job", id=job.id, attempt=attempt):
                    generation = await self._service.generate(body, caller=job.caller)
                made = await files(generation.images, body.output_format, body.output_compression)
                return document(generation, made, body), None
            except ServiceError as error:
                refusal = error
                if not error.retryable:
                    break
                wait_s = max(error.retry_after_s or 0, min(0.5 * 2**attempt, LONGEST_WAIT_S))
                await asyncio.sleep(wait_s)
            except Exception as error:  # the runner's last line: other jobs go on
                log.exception("job %s", job.id)
                refusal = InternalError(str(error))
                break
        return None, problem(shown(refusal, job.id), job.id)


def wants_job(request: Request) -> bool:
    """Whether the client would rather fetch the answer later (RFC 7240)."""
    preferences = request.headers.get("prefer", "").lower().split(",")
    return "respond-async" in (preference.partition(";")[0].strip() for preference in preferences)


def seed_of(key: str, caller: str) -> int:
    """The seed of a request without one: with the same idempotency key, the same images."""
    digest = hashlib.sha256(json.dumps([caller, key]).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**52


def accepted(job: Job) -> Response:
    """202: where to ask for it."""
    headers = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": "respond-async"}
    return Response(info(job).model_dump_json(), 202, headers, media_type="application/json")


def info(job: Job) -> JobInfo:
    """What a client may know of a job."""
    return JobInfo(
        id=job.id,
        status=job.status,
        created=int(job.created),
        model=job.request["model"],
        n=job.n,
        problem=job.problem,
    )


def result(store: JobStore, job_id: str, caller: str) -> Response:
    """A job's answer; its problem, if it failed; 202 while it has none.

    Raises:
        JobNotFound: there is no such job, or it was cancelled.
    """
    job = store.get(job_id, caller)
    if job.status == "succeeded":
        return Response(store.result(job_id, caller), media_type="application/json")
    if job.status == "cancelled":
        raise JobNotFound(f"job {job_id!r} was cancelled: it has no result")
    if job.problem is not None:
        return Response(
            json.dumps(job.problem), job.problem["status"], media_type="application/problem+json"
        )
    headers = {"Retry-After": "1"}
    return Response(info(job).model_dump_json(), 202, headers, media_type="application/json")
