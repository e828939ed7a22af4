"""Augmentation: a long stream of images, planned before its first and made in parts.

Image i is a function of the model's version, the seed and i alone, so a stream that ended early
goes on at any offset as if it hadn't. Servers and clients share the plan.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gan_core.card import LabelInput
from gan_core.errors import DeadlineExceeded, InvalidRequest, ServiceError
from gan_core.latents import SEED_LIMIT, random_seed

from .schema import MAX_COUNT, GenerationRequest, parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_core.card import ModelCard

    from .schema import AugmentRequest

__all__ = ["PART", "Origin", "Plan", "Sample", "class_order", "plan_of", "samples"]

T = TypeVar("T")

PART = 16
"""Images that are asked for at once: a stream leaves room for others."""
PARTS_AHEAD = 3
"""Parts of a stream in memory, whatever its reader does: enough to keep an engine busy."""
PATIENCE_S = 120.0
"""How long a model that is busy or down is waited for, in each part anew."""
LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose images a stream's are."""

    model: str
    version: int | None
    """None where nobody knows it before the first part."""
    sha256: str
    """Of the version's graph."""
    licence: str
    """Of what it was trained on."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a stream is of."""

    model: str
    version: int | None
    """None where nobody knows it before the first part."""
    card: ModelCard
    """The version's."""
    seed: int
    count: int
    """Images of the whole stream, whatever its offset."""
    truncation: float | None
    labels: NDArray[np.int32] | None
    """Class of each image [count]; None where classes go round with the seeds."""

    @property
    def origin(self) -> Origin:
        """Whose images these are."""
        card = self.card
        return Origin(self.model, self.version, card.sha256, card.data.licence)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; empty where the model has no classes."""
        item = self.card.input("label")
        return item.classes if isinstance(item, LabelInput) else ()

    def seed_of(self, index: int) -> int:
        """Of an image."""
        return (self.seed + index) % SEED_LIMIT

    def label_of(self, index: int) -> int | None:
        """Class index of an image; None where the model has no classes."""
        if self.labels is not None:
            return int(self.labels[index])
        return self.seed_of(index) % len(self.classes) if self.classes else None

    def class_name_of(self, index: int) -> str | None:
        """Class name of an image; None where the model has no classes."""
        label = self.label_of(index)
        return None if label is None else self.classes[label]

    def part(self, start: int, stop: int) -> GenerationRequest:
        """The request for images start to stop."""
        return parsed(
            model=self.model,
            version=self.version,
            n=stop - start,
            seed=self.seed_of(start),
            labels=None if self.labels is None else self.labels[start:stop].tolist(),
            truncation=self.truncation,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image of a stream, as a file."""

    index: int
    seed: int
    label: int | None
    class_name: str | None
    file: bytes


def plan_of(request: AugmentRequest, card: ModelCard, version: int | None) -> Plan:
    """The plan of a request, for a version and its card.

    Raises:
        InvalidRequest: fields contradict one another, or the model has no such classes.
    """
    if (request.count is None) == (request.per_class is None):
        raise InvalidRequest("count: give either count or per_class", param="count")
    if request.offset and (request.seed is None or request.version is None):
        raise InvalidRequest(
            f"offset: {request.offset} without the seed and the version that the stream began with",
            param="offset",
        )
    if request.sha256 not in (None, card.sha256):
        raise InvalidRequest(
            f"sha256: version {version} of {request.model!r} has another graph now: {card.sha256}",
            param="sha256",
        )
    count = request.total
    if not request.offset <= count <= MAX_COUNT:
        raise InvalidRequest(
            f"offset: {request.offset} of {count} images; at most {MAX_COUNT} are one stream, and "
            "it is resumed within them",
            param="offset" if request.offset > count else "per_class",
        )
    seed = random_seed() if request.seed is None else request.seed
    plan = Plan(request.model, version, card, seed, count, request.truncation, None)
    if request.per_class is None:
        return plan
    return replace(plan, labels=class_order(_counts(request.per_class, plan)))


def class_order(counts: Mapping[int, int]) -> NDArray[np.int32]:
    """Class of each image, from the images of each class: int32 [sum of counts].

    The j-th of a class's c images lies (j + ½)/c of the way through the stream, the lower class
    first where two coincide: seats as Sainte-Laguë gives them out. Any beginning of the stream
    has the whole's proportions to within an image or so per class.
    """
    indices = sorted(counts)
    # quotients that differ do so by far more than float64's rounding
    places = [(2 * np.arange(counts[index]) + 1) / (2 * counts[index]) for index in indices]
    labels = np.repeat(np.array(indices, np.int32), [counts[index] for index in indices])
    return labels[np.argsort(np.concatenate(places), kind="stable")]


def _counts(per_class: Mapping[str, int], plan: Plan) -> dict[int, int]:
    counts: dict[int, int] = {}
    for name, n in per_class.items():
        index = _class_index(name, plan)
        if index in counts:
            raise InvalidRequest(
                f"per_class: {name!r} is the class of another key too", param="per_class"
            )
        counts[index] = n
    return counts


def _class_index(name: str, plan: Plan) -> int:
    classes = plan.classes
    if name in classes:  # a name first: digits may be called 0 to 9 in any order
        return classes.index(name)
    if re.fullmatch(r"[0-9]{1,9}", name) and int(name) < len(classes):
        return int(name)
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise InvalidRequest(
        f"per_class: {name!r} is no class of {plan.model!r}; it has {known or 'none'}",
        param="per_class",
    )


async def samples(
    plan: Plan,
    offset: int,
    *,
    part: int,
    admit: Callable[[int], Awaitable[None]],
    made: Callable[[GenerationRequest], Awaitable[list[bytes]]],
) -> AsyncGenerator[Sample, None]:
    """The stream from an offset on, in order; at most PARTS_AHEAD parts are made or kept.

    Args:
        plan: of what.
        offset: first index.
        part: images that are made at once.
        admit: returns when so many images may be asked for.
        made: files for a request.

    Raises:
        ServiceError: ``admit`` did; or ``made``, and patience didn't help.
    """

    async def work(start: int) -> list[Sample]:
        stop = min(start + part, plan.count)
        request = plan.part(start, stop)
        await admit(stop - start)
        files = await _patiently(lambda: made(request))
        return [
            Sample(i, plan.seed_of(i), plan.label_of(i), plan.class_name_of(i), file)
            for i, file in zip(range(start, stop), files, strict=True)
        ]

    starts = iter(range(offset, plan.count, part))
    tasks: deque[asyncio.Task[list[Sample]]] = deque()
    try:
        while True:
            for start in islice(starts, PARTS_AHEAD - len(tasks)):
                tasks.append(asyncio.create_task(work(start)))
            if not tasks:
                return
            found = await tasks[0]
            tasks.popleft()
            for sample in found:
                yield sample
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, once the model has time for it."""
    deadline, wait_s = time.monotonic() + PATIENCE_S, 0.25
    while True:
        try:
            return await attempt()
        except ServiceError as error:
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            pause_s = max(error.retry_after_s or 0.0, wait_s)
            passes = error.retryable or isinstance(error, DeadlineExceeded)
            if not passes or time.monotonic() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s)
