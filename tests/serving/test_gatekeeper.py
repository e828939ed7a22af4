"""Who gets in, how often, and what happens while the rates' storage is away."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.aio.storage import MemoryStorage

from gan_core.errors import (
    ConfigError,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    Unauthenticated,
)
from gan_serving import gatekeeper as module
from gan_serving.gatekeeper import Gatekeeper
from gan_serving.keys import ANYBODY, Caller, Keyring, add_key

MOBILE = Caller("mobile", ("digits_*",), rate="10/minute", concurrency=2)


class FlakyStorage(MemoryStorage):
    """Counts in memory, as ``flaky://``; fails or hangs as a test wants."""

    STORAGE_SCHEME = ["async+flaky"]  # noqa: RUF012  the library's
    uri: str | None = None
    failing = False
    hanging = False
    asked = 0

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        FlakyStorage.uri = uri
        FlakyStorage.failing = FlakyStorage.hanging = False
        FlakyStorage.asked = 0

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        await self._answer()
        return await super().acquire_sliding_window_entry(key, limit, expiry, amount)

    async def check(self) -> bool:
        await self._answer()
        return True

    async def _answer(self) -> None:
        FlakyStorage.asked += 1
        if self.hanging:
            await asyncio.sleep(60)
        if self.failing:
            raise ValueError("connection to flaky://user:secret@host refused")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which windows of rates begin and end: at the beginning of one."""
    clock = Clock()
    clock.time_s = 6_000_000.0
    monkeypatch.setattr("time.time", clock)
    return clock


def spend(keeper: Gatekeeper, caller: Caller, *images: int) -> int:
    """How many of the requests were let in."""

    async def ask() -> int:
        served = 0
        for n in images:
            try:
                await keeper.spend(caller, n)
                served += 1
            except RateLimited:
                pass
        return served

    return asyncio.run(ask())


def wait_s(keeper: Gatekeeper, caller: Caller, images: int = 1) -> float:
    """What a refused request is told to wait."""
    with pytest.raises(RateLimited) as caught:
        asyncio.run(keeper.spend(caller, images))
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keyring, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    text, _ = add_key(path, MOBILE)
    return Keyring(path), text


@pytest.mark.parametrize("header", [None, "", "Bearer gf_x", "Basic eDp5", "\0"])
def test_without_keys_everybody_is_anybody(header: str | None) -> None:
    assert asyncio.run(Gatekeeper(None).caller(header)) == ANYBODY


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   ", " Bearer "])
def test_a_bearers_key_tells_who_asks(keyring: tuple[Keyring, str], scheme: str) -> None:
    ring, text = keyring
    assert asyncio.run(Gatekeeper(ring).caller(scheme + text)) == MOBILE


@pytest.mark.parametrize(
    "header", ["{}", "Basic {}", "Bearer: {}", "Bearer{}", "Bearer\t{}", "Bearer {}\n", "{} Bearer"]
)
def test_another_header_is_refused_without_quoting_it(
    keyring: tuple[Keyring, str], header: str
) -> None:
    ring, text = keyring
    with pytest.raises(Unauthenticated) as caught:
        asyncio.run(Gatekeeper(ring).caller(header.format(text)))
    assert text not in str(caught.value)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer "])
def test_no_key_is_told_how_to_send_one(keyring: tuple[Keyring, str], header: str | None) -> None:
    with pytest.raises(Unauthenticated, match="there is no API key: send 'Authorization: Bearer"):
        asyncio.run(Gatekeeper(keyring[0]).caller(header))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.text(), st.sampled_from(["", "Bearer ", "Basic "]))
def test_any_text_is_refused_and_breaks_nothing(
    keyring: tuple[Keyring, str], text: str, scheme: str
) -> None:
    with pytest.raises(Unauthenticated):
        asyncio.run(Gatekeeper(keyring[0]).caller(scheme + text))


def test_a_key_made_while_the_server_runs_opens(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    add_key(path, MOBILE)
    clock = Clock()
    keeper = Gatekeeper(Keyring(path, clock=clock))
    text, _ = add_key(path, MOBILE)
    clock.time_s += 1
    assert asyncio.run(keeper.caller(f"Bearer {text}")) == MOBILE


def test_a_model_that_a_key_is_not_for_is_denied_by_name() -> None:
    with pytest.raises(PermissionDenied, match=r"'mobile' .* 'faces'; it is for: digits_\*") as e:
        Gatekeeper.check_model(MOBILE, "faces")
    assert e.value.param == "model"


def test_a_model_that_a_key_is_for_is_let_through() -> None:
    Gatekeeper.check_model(MOBILE, "digits_1")


def test_only_an_admin_may_change_what_is_served() -> None:
    Gatekeeper.check_admin(Caller("root", admin=True))
    with pytest.raises(PermissionDenied, match="'anybody' is no admin"):
        Gatekeeper.check_admin(ANYBODY)


def test_a_rate_counts_images_and_not_requests(wall: Clock) -> None:
    assert spend(Gatekeeper(None), MOBILE, 4, 4, 2, 1) == 3


def test_a_refused_request_costs_nothing(wall: Clock) -> None:
    assert spend(Gatekeeper(None), MOBILE, 9, 2, 2, 1) == 2


def test_who_has_no_rate_is_never_refused(wall: Clock) -> None:
    assert spend(Gatekeeper(None), ANYBODY, *[10**9] * 5) == 5


def test_keys_of_one_name_share_their_rate_and_others_do_not(tmp_path: Path, wall: Clock) -> None:
    path = tmp_path / "keys.yaml"
    texts = [add_key(path, caller)[0] for caller in (MOBILE, MOBILE, Caller("b", rate="10/minute"))]
    keeper = Gatekeeper(Keyring(path))
    callers = [asyncio.run(keeper.caller(f"Bearer {text}")) for text in texts]
    assert [spend(keeper, caller, 10) for caller in callers] == [1, 0, 1]


def test_a_used_up_rate_is_named_and_says_when_to_come_back(wall: Clock) -> None:
    keeper = Gatekeeper(None)
    spend(keeper, MOBILE, 10)
    with pytest.raises(RateLimited, match="'mobile' is used up: 10/minute") as caught:
        asyncio.run(keeper.spend(MOBILE))
    assert caught.value.retry_after_s == 60  # the window that it was used up in ends


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    spent=st.lists(st.integers(1, 10), min_size=1, max_size=8),
    n=st.integers(1, 10),
    pause_s=st.floats(0, 59),
)
def test_who_waits_as_told_gets_in(spent: list[int], n: int, pause_s: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        wall = Clock()
        wall.time_s = 6_000_000.0
        patch.setattr("time.time", wall)
        keeper = Gatekeeper(None)
        for images in spent:
            spend(keeper, MOBILE, images)
            wall.time_s += pause_s
        if not spend(keeper, MOBILE, n):
            wall.time_s += wait_s(keeper, MOBILE, n) + 1e-3
            assert spend(keeper, MOBILE, n) == 1


def test_a_wall_clock_that_goes_back_makes_nobody_wait_forever(wall: Clock) -> None:
    keeper = Gatekeeper(None)
    spend(keeper, MOBILE, 10)
    wall.time_s -= 30
    spend(keeper, MOBILE, 10)
    assert 0 < wait_s(keeper, MOBILE) <= 120


def test_more_images_than_the_whole_rate_are_never_to_be_had() -> None:
    with pytest.raises(InvalidRequest, match=r"n: 11 .* 10/minute: at most 10 per") as caught:
        asyncio.run(Gatekeeper(None).spend(MOBILE, 11))
    assert caught.value.param == "n"


def test_only_so_many_requests_are_in_flight_at_once() -> None:
    async def ask() -> None:
        keeper = Gatekeeper(None)
        async with keeper.place(MOBILE), keeper.place(MOBILE):
            with pytest.raises(RateLimited, match="2 requests in flight; its key allows 2") as e:
                await keeper.place(MOBILE).__aenter__()
            assert e.value.retry_after_s == module.PLACE_RETRY_S
            async with keeper.place(Caller("other", concurrency=1)):
                pass

    asyncio.run(ask())


@pytest.mark.parametrize("end", [ValueError("x"), asyncio.CancelledError()])
def test_a_place_is_free_again_however_its_request_ended(end: BaseException) -> None:
    caller = Caller("one", concurrency=1)

    async def ask() -> None:
        keeper = Gatekeeper(None)
        for _ in range(3):
            with pytest.raises(type(end)):
                async with keeper.place(caller):
                    raise end

    asyncio.run(ask())


@pytest.mark.parametrize("scheme", ["", "async+"])
def test_the_storage_gets_its_address(scheme: str) -> None:
    keeper = Gatekeeper(None, f"{scheme}flaky://user:secret@host:6379/3")
    assert FlakyStorage.uri == "async+flaky://user:secret@host:6379/3"
    asyncio.run(keeper.check())


def test_memory_is_always_there() -> None:
    asyncio.run(Gatekeeper(None).check())


@pytest.mark.parametrize("flaw", ["failing", "hanging"])
def test_a_storage_that_does_not_answer_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    keeper = Gatekeeper(None, "flaky://user:secret@host")
    setattr(FlakyStorage, flaw, True)
    with pytest.raises(ConfigError, match=r"^flaky://…@host, .*, doesn't answer; memory://"):
        asyncio.run(keeper.check())


@pytest.mark.parametrize("storage", ["nosuch://user:secret@host", "redis", "", "redis://h:port"])
def test_a_storage_that_is_not_one_is_refused_without_its_password(storage: str) -> None:
    with pytest.raises(ConfigError, match="can't count rates in") as caught:
        Gatekeeper(None, storage)
    assert "secret" not in str(caught.value)


def test_redis_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(
        ConfigError, match=r"^rates in redis://\S+ need redis: pip install 'ganforge\[redis\]' \("
    ):
        Gatekeeper(None, "redis://localhost:6379")


def test_a_redis_that_is_not_there_stops_the_start() -> None:
    pytest.importorskip("redis")
    with pytest.raises(ConfigError, match=r"^redis://127.0.0.1:9, .*, doesn't answer"):
        asyncio.run(Gatekeeper(None, "redis://127.0.0.1:9").check())


@pytest.mark.parametrize("flaw", ["failing", "hanging"])
def test_while_the_storage_is_away_the_process_counts_for_itself(
    monkeypatch: pytest.MonkeyPatch, wall: Clock, flaw: str
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.01)
    keeper = Gatekeeper(None, "flaky://host")
    setattr(FlakyStorage, flaw, True)
    assert spend(keeper, MOBILE, 6, 6, 4) == 2


def test_a_storage_that_failed_is_left_alone_for_a_while_and_then_asked_again(wall: Clock) -> None:
    clock = Clock()
    keeper = Gatekeeper(None, "flaky://host", clock=clock)
    FlakyStorage.failing = True
    spend(keeper, MOBILE, 1, 1, 1)
    assert FlakyStorage.asked == 1
    clock.time_s += module.RETRY_S
    FlakyStorage.failing = False
    spend(keeper, MOBILE, 1)
    assert FlakyStorage.asked == 2


def test_the_log_says_once_a_minute_that_the_storage_is_away_and_keeps_its_password(
    caplog: pytest.LogCaptureFixture, wall: Clock
) -> None:
    clock = Clock()
    keeper = Gatekeeper(None, "flaky://user:secret@host", clock=clock)
    FlakyStorage.failing = True
    for _ in range(120):
        spend(keeper, Caller("x", rate="1000/minute"), 1)
        clock.time_s += 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "flaky://…@host doesn't answer" in errors[0].getMessage()
    assert "secret" not in caplog.text
