"""Streams of samples for training sets, resumed by themselves over every transport."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from gan_core.errors import ConnectionFailed, DeadlineExceeded, ServiceError

from .asking import plain
from .runner import Runner, next_of

if TYPE_CHECKING:
    from gan_serving.augmenting import Origin
    from gan_serving.schema import AugmentRequest

    from .images import GeneratedImage
    from .transports import Transport

__all__ = ["AsyncAugmentation", "Augmentation", "PerClass", "Sample"]

PerClass = Mapping[str, int] | Mapping[int, int] | Mapping[str | int, int]
"""Samples of each class, by name or index."""
BACKOFF_S = 0.25
LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One generated image of a stream, and where it comes from."""

    index: int
    """In the stream, whatever its offset."""
    image: GeneratedImage
    """``.pil()``, ``.numpy()``, ``.save(path)``."""
    label: int | None
    """Class index; None where the model has no classes."""
    class_name: str | None
    origin: Origin
    """Model, version, sha256 of its graph, licence of its data."""

    @property
    def seed(self) -> int | None:
        """``generate`` with it and the class makes this image again."""
        return self.image.seed


class AsyncAugmentation:
    """A stream of samples: ``async for``. It never ends early without an error.

    Also an asynchronous context manager, which closes it.
    """

    def __init__(self, transport: Transport, request: AugmentRequest, timeout_s: float) -> None:
        self._transport, self._timeout_s = transport, timeout_s
        self._request = request
        self._samples = self._run()
        self.count = request.total
        """Samples of the whole stream, whatever its offset."""

    @property
    def seed(self) -> int:
        """Of the first sample."""
        return self._request.seed or 0

    @property
    def version(self) -> int | None:
        """The model's; None until the first sample where nobody named one."""
        return self._request.version

    @property
    def offset(self) -> int:
        """Samples received: with ``seed`` and ``version`` it resumes the stream anywhere."""
        return self._request.offset

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sample:
        try:
            return await anext(self._samples)
        except StopAsyncIteration:
            if self.offset < self.count:
                raise ConnectionFailed(
                    f"the stream was closed after {self.offset} of {self.count} samples; "
                    "augment() with its seed, version and offset resumes it"
                ) from None
            raise

    async def close(self) -> None:
        """End it; what makes its images stops too."""
        await self._samples.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self) -> AsyncGenerator[Sample, None]:
        heard, retries = time.monotonic(), 0
        while True:
            try:
                source = self._transport.augment(self._request, self._timeout_s)
                async with aclosing(source):
                    async for sample in source:
                        self._note(sample)
                        yield sample
                        heard, retries = time.monotonic(), 0  # its reader may have taken hours
                return
            except ServiceError as error:
                backoff_s = min(BACKOFF_S * 2**retries, LONGEST_WAIT_S)
                wait_s = max(error.retry_after_s or 0.0, backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 no secret
                passes = error.retryable or isinstance(error, DeadlineExceeded)
                if not passes or time.monotonic() + wait_s > heard + self._timeout_s:
                    raise
            retries += 1
            await asyncio.sleep(wait_s)

    def _note(self, sample: Sample) -> None:
        origin = sample.origin
        resumed = {
            "version": origin.version,
            "sha256": origin.sha256,
            "offset": sample.index + 1,
        }
        self._request = self._request.model_copy(update=resumed)


class Augmentation:
    """``AsyncAugmentation`` for code that doesn't await: an iterator, and a context manager."""

    def __init__(self, stream: AsyncAugmentation, runner: Runner) -> None:
        self._stream, self._runner = stream, runner

    @property
    def count(self) -> int:
        """Samples of the whole stream, whatever its offset."""
        return self._stream.count

    @property
    def seed(self) -> int:
        """Of the first sample."""
        return self._stream.seed

    @property
    def version(self) -> int | None:
        """The model's; None until the first sample where nobody named one."""
        return self._stream.version

    @property
    def offset(self) -> int:
        """Samples received: with ``seed`` and ``version`` it resumes the stream anywhere."""
        return self._stream.offset

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sample:
        sample = self._runner.call(next_of(self._stream))
        if sample is None:
            raise StopIteration
        return sample

    def close(self) -> None:
        """End it; what makes its images stops too."""
        self._runner.call(self._stream.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def augment_request(
    *, seed: int | None, per_class: PerClass | None, offset: int, **fields: Any
) -> AugmentRequest:
    """The request, with a seed.

    Raises:
        InvalidRequest: a field is missing, unknown or out of range.
    """
    from gan_core.latents import random_seed
    from gan_serving.schema import AugmentRequest, validated

    given = {
        **fields,
        "seed": random_seed() if seed is None else plain(seed),
        "per_class": per_class and {str(name): plain(n) for name, n in per_class.items()},
        "offset": offset,
    }
    return validated(AugmentRequest, given)


async def in_parts(
    transport: Transport, request: AugmentRequest, timeout_s: float
) -> AsyncGenerator[Sample, None]:
    """A stream over a transport that has none: generations of a part each."""
    from gan_serving.augmenting import PART, plan_of

    card = await transport.model(request.model, request.version)
    plan = plan_of(request, card, request.version)
    for start in range(request.offset, plan.count, PART):
        stop = min(start + PART, plan.count)
        batch = await transport.generate(plan.part(start, stop), timeout_s)
        if plan.version is None:
            card = await transport.model(request.model, batch.version)
            plan = replace(plan, version=batch.version, card=card)
        for index, image in zip(range(start, stop), batch, strict=True):
            label, name = plan.label_of(index), plan.class_name_of(index)
            yield Sample(index, image, label, name, plan.origin)
