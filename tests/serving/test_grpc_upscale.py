"""Frames over gRPC: in order, a few at a time, and a bad one ends the stream by its number."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_core.card import ImageInput
from gan_core.errors import InvalidRequest, PayloadTooLarge, QueueFull
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.grpc_api import upscale as module
from gan_serving.grpc_api.chunks import Assembly
from gan_serving.grpc_api.frames import PIECE_BYTES, frames_of, pieces
from gan_serving.grpc_api.image_service_pb2 import OutputFormat, UpscaleChunk
from gan_serving.grpc_api.statuses import as_ended
from gan_serving.grpc_api.upscale import AT_ONCE
from gan_serving.grpc_gateway import MAX_MESSAGE_BYTES, SERVICE
from gan_serving.in_order import in_order
from gan_serving.keys import Caller, Keyring, add_key
from gan_serving.ort_engine import OrtEngine
from gan_serving.room import PICTURES_AT_ONCE, Room
from gan_serving.upscaling import MAX_IMAGE_BYTES
from tests.serving.graphs import doubled
from tests.serving.grpc_server import asked, running
from tests.serving.pictures import PIXELS, animation, saved
from tests.serving.test_grpc_gateway import details
from tests.serving.test_upscaling import fake

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RAW = OutputFormat.OUTPUT_FORMAT_RAW
HEAD = UpscaleChunk(model="doubling", output_format=RAW)
LIMIT = 32 << 20


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def messages(*pictures: Any, head: UpscaleChunk = HEAD) -> list[UpscaleChunk]:
    return [piece for picture in pictures for piece in pieces(picture, head)]


def upscaled(engine: Any, *pictures: Any) -> list[NDArray[np.uint8]]:
    """What comes of the pictures in one stream."""

    async def ask(stub: Any) -> Assembly:
        assembly = Assembly()
        async for chunk in stub.Upscale(messages(*pictures)):
            assembly.add(chunk)
        assembly.finish()
        return assembly

    assembly: Assembly = asked(engine, ask)
    assert [seed for _, seed, _ in assembly.images] == [None] * len(pictures)
    return [pixels for pixels, _, _ in assembly.images]


def refused(sent: list[UpscaleChunk], **options: Any) -> tuple[grpc.aio.AioRpcError, list[int]]:
    """The error that ends a stream, and the frames that were answered before."""
    answered: list[int] = []
    metadata = options.pop("metadata", None)

    async def ask(stub: Any) -> None:
        call = stub.Upscale(sent, metadata=metadata)
        with as_ended(call):
            async for chunk in call:
                answered.extend([chunk.index] * chunk.last)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        asked(fake(), ask, **options)
    return error.value, answered


def test_frames_come_back_in_order_by_the_real_graph(repository: Path) -> None:
    frames = [noise(5 + i % 3, 7, i) for i in range(20)]
    given = [frame if i % 2 else saved(frame) for i, frame in enumerate(frames)]
    for frame, found in zip(frames, upscaled(OrtEngine(repository, cores=1), *given), strict=True):
        np.testing.assert_array_equal(found, doubled(frame))


def test_a_frame_may_need_several_messages() -> None:
    frame = noise(512, 512)
    sent = messages(frame)
    assert len(sent) == 2
    assert max(one.ByteSize() for one in sent) < MAX_MESSAGE_BYTES
    np.testing.assert_array_equal(upscaled(fake(), frame)[0], doubled(frame))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_answers_are_files_of_the_format_that_was_asked_for(kind: str) -> None:
    head = UpscaleChunk(model="doubling", output_format=f"OUTPUT_FORMAT_{kind}")

    async def ask(stub: Any) -> Any:
        (chunk,) = [one async for one in stub.Upscale(messages(PIXELS, head=head))]
        return chunk

    chunk = asked(fake(), ask)
    with Image.open(io.BytesIO(chunk.data)) as image:
        assert (image.format, image.size) == (kind, (14, 10))
    assert (chunk.model, chunk.version, chunk.height, chunk.width) == ("doubling", 1, 10, 14)


def test_an_answer_comes_before_the_next_frame_is_sent() -> None:
    async def ask(stub: Any) -> list[int]:
        call, found = stub.Upscale(), []
        for i in range(3):
            for message in messages(noise(4, 4, i)):
                await call.write(message)
            found.append((await call.read()).index)
        await call.done_writing()
        return found

    assert asked(fake(), ask) == [0, 1, 2]


def test_no_more_frames_are_read_than_a_few_while_no_answer_is() -> None:
    engine, sent = fake(), 16
    frames = [noise(512, 512, i) for i in range(sent)]

    async def ask(stub: Any) -> tuple[int, int]:
        call = stub.Upscale()

        async def write() -> None:
            for message in messages(*frames):
                await call.write(message)
            await call.done_writing()

        writing = asyncio.create_task(write())
        while len(engine.asked) < AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # time enough to read more
        stalled = len(engine.asked)
        answers = [chunk.index async for chunk in call if chunk.last]
        await writing
        assert answers == list(range(sent))
        return stalled, len(engine.asked)

    stalled, at_last = asked(engine, ask)
    assert stalled <= AT_ONCE + 4  # and those of 3 MB each that gRPC has on its way
    assert at_last == sent


def pixels(height: int, width: int, channels: int, data: bytes) -> UpscaleChunk:
    chunk = UpscaleChunk(model="doubling", height=height, width=width, channels=channels)
    chunk.data, chunk.last = data, True
    return chunk


BAD: dict[str, tuple[list[UpscaleChunk], str, int]] = {
    "garbage": (messages(PIXELS, PIXELS, b"hello"), "UNSUPPORTED_MEDIA", 2),
    "animation": (messages(PIXELS, animation("PNG")), "UNSUPPORTED_MEDIA", 1),
    "truncated": (messages(saved()[:60]), "VALIDATION_ERROR", 0),
    "size": ([*messages(PIXELS), pixels(2, 2, 3, b"123")], "VALIDATION_ERROR", 1),
    "channels": ([pixels(1, 1, 2, b"12")], "VALIDATION_ERROR", 0),
    "no sides": ([pixels(0, 0, 3, b"")], "VALIDATION_ERROR", 0),
    "huge sides": ([pixels(2**32 - 1, 2**32 - 1, 4, b"")], "VALIDATION_ERROR", 0),
    "nothing": ([UpscaleChunk(model="doubling", last=True)], "UNSUPPORTED_MEDIA", 0),
    "cut off": ([*messages(PIXELS), UpscaleChunk(data=b"12")], "VALIDATION_ERROR", 1),
    "too large a side": (messages(PIXELS, noise(4, 600)), "VALIDATION_ERROR", 1),
    "unknown model": (messages(PIXELS, head=UpscaleChunk(model="nobody")), "MODEL_NOT_FOUND", 0),
}


@pytest.mark.parametrize(("sent", "reason", "index"), BAD.values(), ids=list(BAD))
def test_a_bad_frame_ends_the_stream_by_its_number(
    sent: list[UpscaleChunk], reason: str, index: int
) -> None:
    error, answered = refused(sent)
    assert (details(error)[0].reason, answered) == (reason, list(range(index)))
    assert (error.details() or "").startswith(f"frame {index}: ")


HEADS: dict[str, tuple[list[UpscaleChunk], str]] = {
    "no frame": ([], "model"),
    "no model": ([UpscaleChunk(data=b"1", last=True)], "model"),
    "version": ([UpscaleChunk(model="doubling", version=0)], "version"),
    "format": ([UpscaleChunk(model="doubling", output_format=9)], "output_format"),  # type: ignore[arg-type]
    "compression": ([UpscaleChunk(model="doubling", output_compression=101)], "output_compression"),
}


@pytest.mark.parametrize(("sent", "param"), HEADS.values(), ids=list(HEADS))
def test_the_field_of_the_first_message_at_fault_is_named(
    sent: list[UpscaleChunk], param: str
) -> None:
    info = details(refused(sent)[0])[0]
    assert (info.reason, info.metadata["param"]) == ("VALIDATION_ERROR", param)


def complete(sent: list[UpscaleChunk], limit: int = LIMIT, free: int = LIMIT) -> list[Any]:
    async def chunks() -> AsyncIterator[UpscaleChunk]:
        for one in sent:
            yield one

    async def collect() -> list[Any]:
        with Room(free).share() as share:
            return [frame async for frame in frames_of(chunks(), limit, share)]

    return asyncio.run(collect())


def test_a_frame_beyond_the_limit_is_not_gathered() -> None:
    piece = UpscaleChunk(data=bytes(PIECE_BYTES))
    with pytest.raises(PayloadTooLarge, match="larger than 1,048,576 bytes"):
        complete([piece] * 3, 1 << 20)


def test_a_frame_for_which_there_is_no_room_is_not_gathered() -> None:
    piece = UpscaleChunk(data=bytes(PIECE_BYTES))
    with pytest.raises(QueueFull):
        complete([piece] * 3, free=2 * PIECE_BYTES)


@pytest.mark.parametrize("last", [PIXELS, b"hello"], ids=["answered", "refused"])
def test_a_stream_that_is_over_has_given_its_room_back(last: Any) -> None:
    rooms: list[Room] = []

    class Known(Room):
        def __init__(self, free: int) -> None:
            super().__init__(free)
            rooms.append(self)

    with pytest.MonkeyPatch.context() as patch, suppress(grpc.aio.AioRpcError):
        patch.setattr(module, "Room", Known)
        upscaled(fake(), *[PIXELS] * 9, last)
    assert rooms[0].free == PICTURES_AT_ONCE * MAX_IMAGE_BYTES


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3 * PIECE_BYTES), min_size=1, max_size=3))
def test_files_of_any_size_come_in_pieces_that_make_them_again(sizes: list[int]) -> None:
    files = [np.random.default_rng(size).bytes(size) for size in sizes]
    assert complete(messages(*files)) == files


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_a_typed_error(raw: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        chunk = UpscaleChunk.FromString(raw)
    except DecodeError:
        return
    try:
        frames = complete([chunk])
    except InvalidRequest:
        return
    assert all(isinstance(frame, bytes) or frame.ndim == 3 for frame in frames)


def test_bytes_that_are_no_message_are_a_bad_request() -> None:
    async def run() -> None:
        async with (
            running(fake()) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            call: Any = channel.stream_stream(f"/{SERVICE.full_name}/Upscale")()
            await call.write(b"\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert details(error.value)[0].reason == "BAD_REQUEST"

    asyncio.run(run())


def keyed(path: Path, **limits: Any) -> dict[str, Any]:
    key, _ = add_key(path, Caller(name="mobile", models=("doubling",), **limits))
    return {
        "gatekeeper": Gatekeeper(Keyring(path)),
        "metadata": (("authorization", f"Bearer {key}"),),
    }


def test_each_frame_is_charged_to_the_key(tmp_path: Path) -> None:
    options = keyed(tmp_path / "keys.yaml", rate="2/hour")
    error, answered = refused(messages(*[PIXELS] * 4), **options)
    info, retry = details(error)
    assert (info.reason, answered) == ("RATE_LIMITED", [0, 1])
    assert retry.retry_delay.seconds > 0


def test_a_key_is_asked_for_its_model(tmp_path: Path) -> None:
    options = keyed(tmp_path / "keys.yaml")
    other = UpscaleChunk(model="other")
    assert details(refused(messages(PIXELS, head=other), **options)[0])[0].reason == (
        "PERMISSION_DENIED"
    )
    options["metadata"] = None
    assert details(refused(messages(PIXELS), **options)[0])[0].reason == "UNAUTHENTICATED"


def test_a_stream_that_is_cancelled_gives_its_place_and_its_work_back(tmp_path: Path) -> None:
    options = keyed(tmp_path / "keys.yaml", concurrency=1)
    metadata = options.pop("metadata")
    engine = fake(ImageInput(max_side_px=64))
    engine.delay_s = 20

    async def ask(stub: Any) -> Any:
        call = stub.Upscale(metadata=metadata)
        await call.write(messages(PIXELS)[0])
        while not engine.asked:
            await asyncio.sleep(0.01)
        call.cancel()
        engine.delay_s = 0
        for _ in range(100):
            again = stub.Upscale(messages(PIXELS), metadata=metadata)
            try:
                return (await again.read()).data
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
        raise AssertionError("the place is still taken")

    assert asked(engine, ask, **options) == doubled(PIXELS).tobytes()


def test_a_client_that_does_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.1)

    async def ask(stub: Any) -> None:
        call = stub.Upscale()
        await call.write(messages(PIXELS)[0])
        while await call.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as error:
        asked(fake(), ask)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no frame came within 0.1 s" in (error.value.details() or "")


# in_order


async def numbers(n: int, read: list[int], fail_at: int | None = None) -> AsyncIterator[int]:
    for i in range(n):
        if i == fail_at:
            raise InvalidRequest("bad")
        read.append(i)
        yield i


def collected(run: Callable[[], Any]) -> Any:
    return asyncio.run(run())


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
def test_answers_keep_their_order_however_long_each_takes(turns: list[int], at_once: int) -> None:
    working = peak = 0

    async def work(i: int) -> int:
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        for _ in range(turns[i]):
            await asyncio.sleep(0)
        working -= 1
        return i

    async def run() -> list[int]:
        return [one async for one in in_order(numbers(len(turns), []), work, at_once)]

    assert collected(run) == list(range(len(turns)))
    assert peak <= at_once


def test_what_was_read_before_a_failure_is_still_answered() -> None:
    async def work(i: int) -> int:
        await asyncio.sleep(0.001)
        return i

    found: list[int] = []

    async def run() -> None:
        async for one in in_order(numbers(9, [], fail_at=3), work, 8):
            found.append(one)  # noqa: PERF401 kept where it fails

    with pytest.raises(InvalidRequest):
        collected(run)
    assert found == [0, 1, 2]


def test_who_takes_no_answer_lets_no_more_be_read() -> None:
    read: list[int] = []

    async def work(i: int) -> int:
        return i

    async def run() -> None:
        answers = in_order(numbers(50, read), work, 3)
        await anext(answers)
        for _ in range(50):
            await asyncio.sleep(0)
        assert read == [0, 1, 2]
        await answers.aclose()

    collected(run)
