"""Pictures of a stream by their numbers, which errors name."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from gan_core.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["naming", "numbered"]

T = TypeVar("T")


async def numbered(pictures: AsyncIterator[T]) -> AsyncIterator[tuple[int, T]]:
    """Each with its number, which the error has too if there is one in its place."""
    for index in itertools.count():
        with naming(index):
            picture = await anext(pictures, None)
        if picture is None:
            return
        yield index, picture


@contextmanager
def naming(index: int) -> Iterator[None]:
    """Errors say which frame they are of."""
    try:
        yield
    except ServiceError as error:
        raise type(error)(
            f"frame {index}: {error.message}",
            param=error.param,
            retry_after_s=error.retry_after_s,
            request_id=error.request_id,
        ) from error
