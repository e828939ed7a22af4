"""Canaries: which requests a version on trial answers, and when its trial has failed.

A trial compares the canary with the version that serves, over the same time: how many requests
fail, how many images are blank (what isn't finite becomes one value in uint8), and how long the
engine takes. A canary that does worse gets no more requests, at once; whoever listens ends its
release.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .published import Published

__all__ = ["Canaries"]

log = logging.getLogger(__name__)

ENOUGH_FAULTS = 3
"""Fewer prove nothing."""
MORE_FAULTS = 0.05
"""Share of faults that a canary may have beyond those of the version that serves."""
ENOUGH_TIMES = 20
SLOWER, SLOWER_S = 2.0, 0.005
"""A canary's median time may be so many times the other's, or so much above it."""
REMEMBERED = 200


@dataclass(slots=True)
class _Record:
    """How a version has done."""

    answers: int = 0
    failures: int = 0
    blanks: int = 0
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def share(self, faults: int) -> float:
        return faults / max(self.answers, 1)


@dataclass(slots=True)
class _Trial:
    stable: _Record = field(default_factory=_Record)
    canary: _Record = field(default_factory=_Record)

    def verdict(self) -> str | None:
        """Why the canary has failed; None as long as it hasn't."""
        for name, ours, theirs in (
            ("requests failed", self.canary.failures, self.stable.failures),
            ("answers held blank images", self.canary.blanks, self.stable.blanks),
        ):
            share, usual = self.canary.share(ours), self.stable.share(theirs)
            if ours >= ENOUGH_FAULTS and share > usual + MORE_FAULTS:
                return f"{share:.0%} of its {name}, {usual:.0%} of the other's"
        if min(len(self.canary.times_s), len(self.stable.times_s)) >= ENOUGH_TIMES:
            took, usual = map(statistics.median, (self.canary.times_s, self.stable.times_s))
            if took > max(SLOWER * usual, usual + SLOWER_S):
                return f"it takes {took * 1000:.3g} ms an image, the other {usual * 1000:.3g}"
        return None


Ended = Callable[[str, int, str], None]
"""Told of a trial that failed: the model, the canary's version, and why."""


class Canaries:
    """Shares requests out between a model's version and its canary, and watches both."""

    def __init__(self) -> None:
        self.on_failed: Ended = lambda model, version, why: None
        self._trials: dict[tuple[str, int, int], _Trial] = {}
        self._failed: set[tuple[str, int, str]] = set()

    def choose(self, published: Published, seed: int) -> int:
        """The version that answers a request; with the same seed the same."""
        release = published.release
        if release.canary is None or release.weight is None:
            return release.version
        if self._has_failed(published, release.canary):
            return release.version
        digest = hashlib.blake2b(f"{published.name} {seed}".encode(), digest_size=8).digest()
        return release.canary if _fraction(digest) < release.weight else release.version

    def answered(
        self, published: Published, version: int, images: NDArray[Any], seconds: float
    ) -> None:
        """A version gave images [N, H, W, C]."""
        record = self._record(published, version)
        if record is None:
            return
        record.answers += 1
        record.times_s.append(seconds / len(images))
        flat = images.reshape(len(images), -1)
        record.blanks += bool((flat.min(axis=1) == flat.max(axis=1)).any())
        self._judge(published)

    def failed(self, published: Published, version: int) -> None:
        """A version gave nothing, by a fault of its own."""
        record = self._record(published, version)
        if record is not None:
            record.answers += 1
            record.failures += 1
            self._judge(published)

    def _record(self, published: Published, version: int) -> _Record | None:
        release = published.release
        if release.canary is None:
            return None
        key = published.name, release.version, release.canary
        trial = self._trials.setdefault(key, _Trial())
        return {release.version: trial.stable, release.canary: trial.canary}.get(version)

    def _judge(self, published: Published) -> None:
        release, name = published.release, published.name
        if release.canary is None or self._has_failed(published, release.canary):
            return
        why = self._trials[name, release.version, release.canary].verdict()
        if why is not None:
            self._failed.add((name, release.canary, published.cards[release.canary].sha256))
            log.error("version %d of %s gets no more requests: %s", release.canary, name, why)
            self.on_failed(name, release.canary, why)

    def _has_failed(self, published: Published, version: int) -> bool:
        return (published.name, version, published.cards[version].sha256) in self._failed


def _fraction(digest: bytes) -> float:
    return int.from_bytes(digest, "big") / 2.0 ** (8 * len(digest))
