"""``POST /v1/augment``: a resumable stream of images, as ndjson or as a WebDataset tar."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from gan_core.errors import NotAcceptable, RateLimited, ServiceError, Unavailable

from . import webdataset
from .answers import shown
from .augmenting import PART, plan_of, samples
from .http_images import encoded_files
from .schema import problem
from .service import card_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.types import Send

    from .augmenting import Plan, Sample
    from .encode import Encoded
    from .gatekeeper import Gatekeeper
    from .keys import Caller
    from .readiness import Readiness
    from .schema import AugmentRequest, GenerationRequest
    from .service import ImageService

__all__ = ["AUGMENTED", "AugmentRoute"]

log = logging.getLogger(__name__)

NDJSON, TAR = "application/x-ndjson", "application/x-tar"
EXAMPLE = """\
{"type": "augment.started", "model": "digits_cgan", "version": 2, "sha256": "9f2c…", \
"licence": "CC-BY-4.0", "count": 750, "seed": 7, "offset": 0, "output_format": "png"}
{"type": "augment.image", "index": 0, "seed": 7, "label": 3, "class_name": "3", \
"b64_json": "iVBORw0KGgo…"}
{"type": "augment.completed", "images": 750, "offset": 750}
"""
AUGMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The stream. Ndjson: a line that says of what it is, one per image, and one "
        "that says it is complete, or a problem. Tar: WebDataset, without its end where it is cut",
        "headers": {
            name: {"description": text, "schema": {"type": kind}}
            for name, text, kind in (
                ("X-Model-Version", "Of the whole stream; a resumed one names it", "integer"),
                ("X-Seed", "The same, also where the server drew it", "integer"),
            )
        },
        "content": {
            NDJSON: {"schema": {"type": "string"}, "example": EXAMPLE},
            TAR: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@dataclass(frozen=True, slots=True)
class AugmentRoute:
    """What the route needs of a server."""

    service: ImageService
    gatekeeper: Gatekeeper
    readiness: Readiness
    encoded: Encoded

    async def answer(self, request: Request, body: AugmentRequest, caller: Caller) -> Streamed:
        """The stream, begun; what is refused is refused before its first byte.

        Raises:
            ServiceError: it can't be fulfilled; the subclass says why.
        """
        as_tar = _wants_tar(request.headers.get("accept", "*/*").lower())
        self._check_open()
        plan = await self._plan(body)
        parts = samples(
            plan,
            body.offset,
            part=self._part(plan, caller),
            admit=lambda images: self._admit(caller, images),
            made=lambda part: self._files(part, body, caller.name),
        )
        stack = AsyncExitStack()
        await stack.enter_async_context(self.gatekeeper.place(caller))
        await stack.enter_async_context(aclosing(parts))
        request_id = request.scope.get("ganforge.request_id", "")
        content = _archive(plan, body, parts) if as_tar else _lines(plan, body, parts, request_id)
        headers = {
            "X-Model": plan.model,
            "X-Model-Version": str(plan.version),
            "X-Seed": str(plan.seed),
        }
        return Streamed(content, stack, headers, TAR if as_tar else NDJSON)

    async def _plan(self, body: AugmentRequest) -> Plan:
        published = await self.service.engine.published(body.model)
        version = body.version or published.version
        card = card_of(published, version)
        plan = await asyncio.to_thread(plan_of, body, card, version)
        await self.service.check_request(plan.part(0, 1))
        return plan

    def _part(self, plan: Plan, caller: Caller) -> int:
        """Images to ask for at once: no more than the server, or the key, allows in a request."""
        allowed = self.gatekeeper.most_at_once(caller)
        return min(PART, self.service.max_n, plan.count, allowed or plan.count)

    async def _admit(self, caller: Caller, images: int) -> None:
        """Charge images to the caller's rate, once it allows them."""
        while True:
            self._check_open()
            try:
                return await self.gatekeeper.spend(caller, images)
            except RateLimited as error:
                wait_s = error.retry_after_s or 1.0
            await asyncio.sleep(wait_s)

    def _check_open(self) -> None:
        if self.readiness.draining:  # a stream would hold up the end by hours
            raise Unavailable("the server is about to stop: resume the stream", retry_after_s=1)

    async def _files(
        self, part: GenerationRequest, body: AugmentRequest, caller: str
    ) -> list[bytes]:
        generation = await self.service.generate(part, caller=caller)
        return await encoded_files(generation, body, self.encoded)


class Streamed(StreamingResponse):
    """A stream that holds something until it ends, and shows where it ended too early.

    Then neither the body's format nor HTTP says that it is complete.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        stack: AsyncExitStack,
        headers: dict[str, str],
        media_type: str,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content, self._stack = content, stack

    async def stream_response(self, send: Send) -> None:
        """Send it; also let go of everything when the client has gone."""
        async with self._stack, aclosing(self._content):
            try:
                await super().stream_response(send)
            except ServiceError as error:
                log.warning("a stream of %s was cut: %s", self.headers["x-model"], error)


def _wants_tar(accepted: str) -> bool:
    if any(kind in accepted for kind in (NDJSON, "application/*", "*/*")):
        return TAR in accepted and NDJSON not in accepted
    if TAR not in accepted:
        raise NotAcceptable(f"Accept {accepted!r}: {NDJSON} or {TAR} can be given")
    return True


async def _lines(
    plan: Plan, body: AugmentRequest, parts: AsyncGenerator[Sample, None], request_id: str
) -> AsyncGenerator[bytes, None]:
    """One JSON object per line."""
    yield _line(
        {
            "type": "augment.started",
            **asdict(plan.origin),
            "count": plan.count,
            "seed": plan.seed,
            "offset": body.offset,
            "output_format": body.output_format,
        }
    )
    try:
        async for sample in parts:
            yield _line(
                {
                    "type": "augment.image",
                    "index": sample.index,
                    "seed": sample.seed,
                    "label": sample.label,
                    "class_name": sample.class_name,
                    "b64_json": base64.b64encode(sample.file).decode(),
                }
            )
    except ServiceError as error:
        yield _line(problem(shown(error, request_id), request_id))
    else:
        images = plan.count - body.offset
        yield _line({"type": "augment.completed", "images": images, "offset": plan.count})


async def _archive(
    plan: Plan, body: AugmentRequest, parts: AsyncGenerator[Sample, None]
) -> AsyncGenerator[bytes, None]:
    """A WebDataset tar; an error ends it without its end."""
    async for sample in parts:
        yield webdataset.members(sample, body.output_format, plan.origin)
    yield webdataset.END


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode() + b"\n"
