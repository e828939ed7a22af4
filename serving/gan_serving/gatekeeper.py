"""Who may ask for what, and how often: the one object that every face of a server asks."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from gan_core.errors import (
    ConfigError,
    InvalidRequest,
    PermissionDenied,
    RateLimited,
    Unauthenticated,
)

from .keys import ANYBODY, Caller, parse_rate

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import SlidingWindowCounterSupport, Storage

    from .keys import Keyring

__all__ = ["Gatekeeper"]

log = logging.getLogger(__name__)

ANSWER_S = 1.0
"""Longest that a storage may take to count a request."""
RETRY_S = 5.0
"""A storage that failed is left alone for so long."""
COMPLAINT_S = 60.0
"""The log is told of it as seldom as that."""
CALLERS = "ganforge"
"""Keeps the counts apart from those that others have in the same storage."""
PLACE_RETRY_S = 1.0


class Gatekeeper:
    """Lets callers in, each as often as its key says.

    Rates are counted in a storage that server processes may share. One that stops answering
    neither shuts the doors nor opens them: until it answers again each process counts for
    itself, so that a caller gets at most its rate times the number of processes, and the log
    says so once a minute. Pictures are worth more than exact counts, and what a server can do
    at once is bounded by its engine's queue in any case.

    Args:
        keyring: tells whose a key is; None lets in anybody, whatever they show.
        storage: where rates are counted, as a URI of the ``limits`` library: ``memory://`` for
            this process alone, ``redis://HOST:PORT/DB`` for all that name the same.
        clock: seconds that pass.

    Raises:
        ConfigError: there is no such storage, or its package isn't installed.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        storage: str = "memory://",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._address = _without_password(storage)
        self._storage = _storage(storage)
        self._shared = SlidingWindowCounterRateLimiter(self._storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._clock = clock
        self._shared_from = self._complained_at = float("-inf")
        self._in_flight: Counter[str] = Counter()

    @property
    def counts_apart(self) -> bool:
        """Whether there are rates, and each process counts them for itself."""
        rated = self._keyring is not None and self._keyring.has_rates
        return rated and isinstance(self._storage, MemoryStorage)

    async def check(self) -> None:
        """Prove that the storage of the rates answers, before a server starts.

        Raises:
            ConfigError: it doesn't.
        """
        try:
            async with asyncio.timeout(RETRY_S):
                answers = await self._storage.check()
        except (StorageError, OSError):
            answers = False
        if not answers:
            raise ConfigError(
                f"{self._address}, where rates are to be counted, doesn't answer; memory:// "
                "needs nothing else, and counts for one process"
            )

    async def caller(self, authorization: str | None) -> Caller:
        """Who sends that ``Authorization`` header.

        Raises:
            Unauthenticated: it holds no key, or one that isn't known or has expired.
        """
        if self._keyring is None:
            return ANYBODY
        scheme, _, token = (authorization or "").strip(" ").partition(" ")
        if scheme and scheme.lower() != "bearer":
            raise Unauthenticated("the Authorization header isn't 'Bearer gf_…'")
        if self._keyring.is_due:
            await asyncio.to_thread(self._keyring.follow)
        return self._keyring.caller(token.strip(" "))

    @staticmethod
    def check_model(caller: Caller, model: str) -> None:
        """Refuse a model that the caller's key isn't for, whether or not there is such a one.

        Raises:
            PermissionDenied: it isn't.
        """
        if not caller.may_use(model):
            given = ", ".join(caller.models or ()) or "none"
            raise PermissionDenied(
                f"the key of {caller.name!r} is not for model {model!r}; it is for: {given}",
                param="model",
            )

    @staticmethod
    def check_admin(caller: Caller) -> None:
        """Refuse who may not change what is served.

        Raises:
            PermissionDenied: the key isn't an admin's.
        """
        if not caller.admin:
            raise PermissionDenied(f"{caller.name!r} is no admin: this needs an admin's key")

    @staticmethod
    def most_at_once(caller: Caller) -> int | None:
        """Images that the caller's rate can ever allow in one request; None = any number."""
        return None if caller.rate is None else parse_rate(caller.rate).amount

    async def spend(self, caller: Caller, images: int = 1) -> None:
        """Charge images to the caller's rate; a request that is refused costs nothing.

        Raises:
            RateLimited: too few are left; it says after how long there may be enough.
            InvalidRequest: there are never as many at once.
        """
        if caller.rate is None:
            return
        rate = parse_rate(caller.rate)
        if images > rate.amount:
            raise InvalidRequest(
                f"n: {images} images are asked for; the rate of {caller.name!r} is {caller.rate}: "
                f"at most {rate.amount} per request",
                param="n",
            )
        wait_s = await self._charge(rate, caller.name, images)
        if wait_s is not None:
            raise RateLimited(
                f"the rate of {caller.name!r} is used up: {caller.rate}, in images",
                retry_after_s=wait_s,
            )

    @asynccontextmanager
    async def place(self, caller: Caller) -> AsyncIterator[None]:
        """One of the caller's requests in flight, of which this process keeps count.

        Raises:
            RateLimited: it has as many already as it may.
        """
        name = caller.name
        if caller.concurrency is not None and self._in_flight[name] >= caller.concurrency:
            raise RateLimited(
                f"{name!r} has {self._in_flight[name]} requests in flight; its key allows "
                f"{caller.concurrency} at once",
                retry_after_s=PLACE_RETRY_S,
            )
        self._in_flight[name] += 1
        try:
            yield
        finally:
            self._in_flight[name] -= 1

    @asynccontextmanager
    async def admitted(self, caller: Caller, images: int) -> AsyncIterator[None]:
        """One of the caller's requests in flight, with its images charged.

        Raises:
            RateLimited: it has as many as it may, or its rate is used up.
            InvalidRequest: its rate never allows so many at once.
        """
        async with self.place(caller):
            await self.spend(caller, images)
            yield

    async def _charge(self, rate: RateLimitItem, name: str, images: int) -> float | None:
        """Seconds to wait; None where the images are charged."""
        if self._clock() >= self._shared_from:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await _charge(self._shared, rate, name, images)
            except (StorageError, OSError) as error:
                self._do_without(error)
        return await _charge(self._own, rate, name, images)

    def _do_without(self, error: Exception) -> None:
        now = self._clock()
        self._shared_from = now + RETRY_S
        if now - self._complained_at >= COMPLAINT_S:
            self._complained_at = now
            log.error(
                "%s doesn't answer (%s): each process counts rates for itself",
                self._address,
                _without_password(repr(error.__cause__ or error)),
            )


def _storage(uri: str) -> Storage:
    # limits prefers coredis of old; redis is what others have installed
    options = (
        {"implementation": "redispy"} if uri.removeprefix("async+").startswith("redis") else {}
    )
    try:
        found = storage_from_string(
            f"async+{uri.removeprefix('async+')}", wrap_exceptions=True, **options
        )
    except (ConfigurationError, ValueError) as error:
        if "'redis'" in str(error):  # the package is missing, or too old
            raise ConfigError(
                f"rates in {_without_password(uri)} need redis: pip install 'ganforge[redis]' "
                f"({error})"
            ) from error
        raise ConfigError(
            f"can't count rates in {_without_password(uri)}: {_without_password(str(error))}; "
            "accepted are memory:// and, with the package redis, redis://HOST:PORT/DB"
        ) from error
    return cast("Storage", found)  # async+… names those that can be awaited


def _without_password(text: str) -> str:
    return re.sub(r"//\S*@", "//…@", text)


async def _charge(
    limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, name: str, images: int
) -> float | None:
    if await limiter.hit(rate, CALLERS, name, cost=images):
        return None
    storage = cast("SlidingWindowCounterSupport", limiter.storage)
    key = rate.key_for(CALLERS, name)
    return _wait_s(rate, images, await storage.get_sliding_window(key, rate.get_expiry()))


def _wait_s(rate: RateLimitItem, images: int, counts: tuple[int, float, int, float]) -> float:
    """Seconds after which there is room, if nobody else asks.

    What is counted is the last window's images, of them the part whose time isn't over, and
    this window's. (The library's own answer is about one image, and of no use for more.)
    """
    previous, previous_ends_s, current, current_ends_s = counts
    window_s = rate.get_expiry()
    enough = rate.amount - images + 1  # room is where the count is below it
    if current < enough:
        wait_s = previous_ends_s - (enough - current) * window_s / max(previous, 1)
    else:
        wait_s = current_ends_s - window_s * enough / current
    return min(max(wait_s, 0.001), 2.0 * window_s)  # the wall clock may jump
