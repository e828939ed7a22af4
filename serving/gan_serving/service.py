"""The image service: validate → latents → engine → pixels. Every face is thin over it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.card import ModelCard
from gan_core.errors import (
    DeadlineExceeded,
    InternalError,
    ModelNotFound,
    QueueFull,
    Unavailable,
)
from gan_core.latents import draw

from . import tracing
from .admission import Admission
from .canaries import Canaries
from .tensors import count_of, tensors_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import Engine, Inference
    from .published import Published
    from .schema import GenerationRequest

__all__ = ["ANYBODY", "Generation", "ImageService", "card_of", "late_answer"]

PARTS_AT_ONCE = 8
"""Batches of one request that may wait for a place: a large one leaves room for others."""
BATCHES_RUNNING = 2
"""Batches that an engine may have: one that runs, and the next."""
PLACE_PIXELS = 1 << 16
"""A picture that comes in takes a place in the engine for so many of its pixels."""
ANYBODY = "anybody"
"""Whose requests they are where nobody said."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated images, and all that is needed to make them again."""

    model: str
    version: int
    images: NDArray[Any]
    """uint8 [N, H, W, C]; uint16 where a picture of 16 bits was made larger."""
    seeds: tuple[int | None, ...]
    """Of each image; None where the request gave its latents, or a picture."""
    compute_ms: float
    profile: bytes = b""
    """ICC profile of the colours, where a picture came with one."""


class ImageService:
    """Generates images with an engine.

    Args:
        engine: runs the graphs.
        max_n: most images a request may ask for.
        timeout_s: longest that a request may take.
        max_waiting: most images that may wait for a model.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_n: int = 64,
        timeout_s: float = 30.0,
        max_waiting: int = 512,
    ) -> None:
        self.engine = engine
        self.max_n = max_n
        self.timeout_s = timeout_s
        self.admissions: dict[str, Admission] = {}
        """The gate of each model that was asked for."""
        self.canaries = Canaries()
        self.on_run: Callable[[str, int, float], None] = lambda model, images, seconds: None
        """Told of each part that an engine has answered: model, images, seconds."""
        self._max_waiting = max(max_waiting, max_n)
        self._leaving: set[asyncio.Task[Inference]] = set()
        self._answered_at: dict[str, float] = {}

    async def generate(
        self, request: GenerationRequest, timeout_s: float | None = None, caller: str = ANYBODY
    ) -> Generation:
        """Images for a request.

        Raises:
            ServiceError: the request can't be fulfilled; the subclass says why.
        """
        parts = [part async for part in self.stream(request, timeout_s, caller)]
        if len(parts) == 1:
            return parts[0]
        return replace(
            parts[-1],
            images=np.concatenate([part.images for part in parts]),
            seeds=tuple(seed for part in parts for seed in part.seeds),
        )

    async def stream(
        self, request: GenerationRequest, timeout_s: float | None = None, caller: str = ANYBODY
    ) -> AsyncGenerator[Generation, None]:
        """The same in parts of at most a batch, in order, each as soon as it is there.

        Raises:
            ServiceError: the request can't be fulfilled, or no further; the subclass says why.
        """
        started = time.perf_counter()
        limit_s = min(timeout_s or self.timeout_s, self.timeout_s)
        published = await self._published(request.model, limit_s)
        card = card_of(published, request.version)
        seeds, inputs = tensors_of(request, card, self.max_n)
        limit_s -= time.perf_counter() - started
        shown = [None] * len(seeds) if request.latents is not None else seeds
        done = 0
        answers = self.infer(published, inputs, limit_s, request.version, caller, seeds[0])
        async with aclosing(answers):
            async for answer in answers:
                n = len(answer.image)
                yield Generation(
                    model=request.model,
                    version=answer.version,
                    images=answer.image,
                    seeds=tuple(shown[done : done + n]),
                    compute_ms=(time.perf_counter() - started) * 1000,
                )
                done += n

    def count(self, request: GenerationRequest) -> int:
        """How many images a request asks for.

        Raises:
            InvalidRequest: more than it may, or as many as it contradicts.
        """
        return count_of(request, self.max_n)

    async def check_request(self, request: GenerationRequest) -> None:
        """Make sure that a request could be fulfilled, without doing so.

        Raises:
            ServiceError: it couldn't; the subclass says why.
        """
        published = await self.engine.published(request.model)
        tensors_of(request, card_of(published, request.version), self.max_n)

    async def _published(self, model: str, timeout_s: float) -> Published:
        try:
            async with asyncio.timeout(timeout_s):
                return await self.engine.published(model)
        except TimeoutError as error:
            raise late_answer(model, timeout_s) from error

    async def models(self) -> list[Published]:
        """Every model that can be asked for now, by name."""
        found = []
        for name in await self.engine.models():
            with suppress(Unavailable, ModelNotFound):  # it is being loaded, or isn't ganforge's
                found.append(await self.engine.published(name))
        return found

    async def check(self, model: str, timeout_s: float) -> None:
        """Prove that a model serves, by one real inference.

        Raises:
            ServiceError: it doesn't.
        """
        began = time.monotonic()
        try:
            published = await self._published(model, timeout_s)
            inputs = draw(published.card.inputs, [0])
            left_s = max(timeout_s - (time.monotonic() - began), 0.001)
            answer = await self.engine.infer(model, inputs, None, left_s)
            _verify(published.card, answer.image, 1)
        except (DeadlineExceeded, QueueFull):
            # others get their answers: it is busy, not broken
            if self._answered_at.get(model, float("-inf")) < began - timeout_s:
                raise
        else:
            self._answered_at[model] = time.monotonic()

    async def infer(
        self,
        published: Published,
        inputs: dict[str, NDArray[Any]],
        timeout_s: float,
        version: int | None,
        caller: str,
        seed: int,
    ) -> AsyncGenerator[Inference, None]:
        """Answers of the version asked for, or of a canary, for which the other stands in.

        Requests of one ``seed`` have the same share in a canary.

        Raises:
            ServiceError: there is none, or not in time.
        """
        chosen = version or self.canaries.choose(published, seed)
        if chosen != (version or published.version):
            answered = False
            try:
                async with aclosing(
                    self._infer(published, inputs, timeout_s, chosen, caller)
                ) as answers:
                    async for answer in answers:
                        answered = True
                        yield answer
            except (InternalError, Unavailable):
                if answered:
                    raise
            else:
                return
        async with aclosing(self._infer(published, inputs, timeout_s, version, caller)) as answers:
            async for answer in answers:
                yield answer

    async def _infer(
        self,
        published: Published,
        inputs: dict[str, NDArray[Any]],
        timeout_s: float,
        version: int | None,
        caller: str,
    ) -> AsyncGenerator[Inference, None]:
        n = len(next(iter(inputs.values())))
        size = published.max_batch_size
        deadline = time.monotonic() + timeout_s
        if n <= size:
            yield await self._run(published, inputs, version, deadline, caller)
            return
        parts = [
            {name: array[start : start + size] for name, array in inputs.items()}
            for start in range(0, n, size)
        ]
        if version is None:
            # all parts come from one version, even if another is published meanwhile
            version = published.version
        places = asyncio.Semaphore(PARTS_AT_ONCE)

        async def run(part: dict[str, NDArray[Any]]) -> Inference:
            async with places:
                return await self._run(published, part, version, deadline, caller)

        tasks = [asyncio.create_task(run(part)) for part in parts]
        try:
            for task in tasks:
                try:
                    async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                        answer = await asyncio.shield(task)
                except TimeoutError as error:
                    raise late_answer(published.name, timeout_s) from error
                yield answer
        finally:
            for task in tasks:
                self._let_go(task)

    def _let_go(self, task: asyncio.Task[Inference]) -> None:
        """Nobody waits for it any more: it ends as soon as its engine lets it."""
        if task.cancel():
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _run(
        self,
        published: Published,
        part: dict[str, NDArray[Any]],
        version: int | None,
        deadline: float,
        caller: str,
    ) -> Inference:
        n = len(next(iter(part.values())))
        admission = self._admission(published)
        async with admission.place(caller, _places(part), max(deadline - time.monotonic(), 0)):
            began = time.monotonic()
            left_s = max(deadline - began, 0.001)
            try:
                with tracing.span("engine", model=published.name, images=n):
                    answer = await self.engine.infer(published.name, part, version, left_s)
                    tracing.note(version=answer.version)
                _verify(published.card, answer.image, n)
            except (InternalError, Unavailable, DeadlineExceeded):
                self.canaries.failed(published, version or published.version)
                raise
        now = self._answered_at[published.name] = time.monotonic()
        self.on_run(published.name, n, now - began)
        self.canaries.answered(published, answer.version, answer.image, now - began)
        return answer

    def _admission(self, published: Published) -> Admission:
        found = self.admissions.get(published.name)
        if found is None:
            running = BATCHES_RUNNING * published.max_batch_size
            found = self.admissions[published.name] = Admission(running, self._max_waiting)
        return found


def _places(part: dict[str, NDArray[Any]]) -> int:
    """One per image, and of a picture that comes in one for every PLACE_PIXELS."""
    tiles = (
        -(-a.shape[1] * a.shape[2] // PLACE_PIXELS) if a.ndim == 4 else 1 for a in part.values()
    )
    return len(next(iter(part.values()))) * max(tiles)


def late_answer(model: str, timeout_s: float) -> DeadlineExceeded:
    """The error of a model that gave none."""
    return DeadlineExceeded(f"{model} gave no answer within {timeout_s:.3g} s")


def card_of(published: Published, version: int | None) -> ModelCard:
    """The card of a version; the newest one's by default.

    Raises:
        ModelNotFound: that version doesn't serve.
    """
    if version is None:
        return published.card
    if version not in published.cards:
        raise ModelNotFound(
            f"model {published.name!r} has no version {version}; "
            f"serving: {', '.join(map(str, sorted(published.cards)))}",
            param="version",
        )
    return published.cards[version]


def _verify(card: ModelCard, images: NDArray[Any], n: int) -> None:
    """Whatever went wrong below, a picture that isn't what the card says never leaves."""
    spec = card.output.tensor
    sizes = zip(images.shape[1:], spec.shape, strict=False)
    fits = images.ndim == 4 and len(images) == n and all(s in (-1, a) for a, s in sizes)
    if not fits or images.dtype != np.dtype(spec.dtype):
        raise InternalError(f"{card.model} gave {images.dtype}{images.shape} for {n} images")
