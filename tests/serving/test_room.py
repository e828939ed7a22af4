"""What pictures may take up together."""

from __future__ import annotations

from contextlib import suppress

import pytest

from gan_core.errors import QueueFull
from gan_serving.room import Room


def test_no_more_is_taken_than_there_is() -> None:
    room = Room(10)
    with room.share() as one, room.share() as other:
        one.take(6)
        with pytest.raises(QueueFull) as refused:
            other.take(5)
        other.take(4)
        assert (room.free, one.taken, other.taken) == (0, 6, 4)
    assert refused.value.retry_after_s == 1


def test_a_share_goes_back_whatever_happens() -> None:
    room = Room(10)
    with suppress(RuntimeError), room.share() as share:
        share.take(7)
        share.give(2)
        assert room.free == 5
        raise RuntimeError
    assert room.free == 10
