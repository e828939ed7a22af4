"""Multipart forms, read into memory and no further: within a time, and never to a disk."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from gan_core.errors import BadRequest, DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

__all__ = ["FORM", "arriving", "read_form"]

FORM = "multipart/form-data"
MAX_FILES = 17
"""OpenAI's edits have up to 16 pictures and a mask."""
MAX_FIELDS = 32
MAX_FIELD_BYTES = 1 << 16


@asynccontextmanager
async def arriving(timeout_s: float) -> AsyncIterator[None]:
    """While a body is read, which must be there in time.

    Raises:
        DeadlineExceeded: it took too long.
        BadRequest: the client went away within it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"the body didn't arrive within {timeout_s:.3g} s") from error
    except ClientDisconnect as error:
        raise BadRequest("the body ended too soon") from error


async def read_form(request: Request) -> dict[str, str | bytes]:
    """The fields of a multipart form, files as their bytes; of several alike the first.

    Raises:
        BadRequest: it isn't such a form, or one of too many parts.
    """
    if not request.headers.get("content-type", "").startswith(FORM):
        raise BadRequest(f"send a form, and Content-Type: {FORM}")
    try:
        form = await _InMemory(
            request.headers,
            request.stream(),
            max_files=MAX_FILES,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FIELD_BYTES,
        ).parse()
    except MultiPartException as error:
        raise BadRequest(f"the form can't be read: {error.message}") from error
    fields: dict[str, str | bytes] = {}
    for name, value in reversed(form.multi_items()):
        fields[name] = value if isinstance(value, str) else await value.read()
    await form.close()
    return fields


class _InMemory(MultiPartParser):
    spool_max_size = 0  # SpooledTemporaryFile's "never"
