"""Memory that pictures may take up together, from their first byte until their answer."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gan_core.errors import QueueFull

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PICTURES_AT_ONCE", "Room", "Share"]

PICTURES_AT_ONCE = 4
"""Files of the largest size that there is room for; of smaller ones there is for more."""
RETRY_S = 1.0


class Room:
    """So many bytes, of which every request takes a share.

    Args:
        free: bytes.
    """

    def __init__(self, free: int) -> None:
        self.free = free
        """Bytes that nobody has."""

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A request's, which is given back whatever becomes of the request."""
        share = Share(self)
        try:
            yield share
        finally:
            share.give(share.taken)


class Share:
    """What one request has of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.taken = 0
        """Bytes."""

    def take(self, count: int) -> None:
        """Take so many bytes more.

        Raises:
            QueueFull: there aren't as many.
        """
        if count > self._room.free:
            raise QueueFull("too many pictures are in memory", retry_after_s=RETRY_S)
        self._room.free -= count
        self.taken += count

    def give(self, count: int) -> None:
        """Give so many back."""
        self._room.free += count
        self.taken -= count
