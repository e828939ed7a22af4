"""The Triton engine: tensors over gRPC to a Triton server, and its errors told apart.

The repository isn't needed: the card travels in the model's configuration.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from gan_core.errors import (
    ConfigError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    Unavailable,
)

from . import tracing
from .engine import Executions, Inference
from .shared_memory import Regions, is_here
from .triton_config import described
from .triton_tensors import shared_bytes, through_memory, through_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tritonclient.grpc.aio import InferenceServerClient

    from .engine import Inputs
    from .published import Published
    from .triton_http import TritonHttp
    from .triton_tensors import Send

__all__ = ["SOCKET", "TritonEngine", "check_address", "no_model"]

log = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 120.0
RETRY_AFTER_S = 1.0
FRESH_S = 2.0
"""Somebody else may publish to the same Triton: what it serves is asked again after this."""
LONGEST_S = 3600.0
SOCKET = ",unix:"
"""Between a Triton's gRPC endpoint and its HTTP endpoint's socket."""
SMALL_BYTES = 1 << 20
"""Larger inputs that shared memory has no room for go by gRPC."""
HUNG_S = 20.0
"""A call that is so late won't be answered: it is given up."""
KEEPALIVE_MS = 5000
"""A call that hears nothing for so long asks whether the connection stands, and waits as long."""


def check_address(address: str) -> None:
    """Refuse what isn't ``host:port``.

    Raises:
        ConfigError: it isn't.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{address!r} is not HOST:PORT of a Triton's gRPC endpoint")


def no_model(model: str) -> ModelNotFound:
    """The error for a model that Triton doesn't know."""
    return ModelNotFound(f"no model is called {model!r}", param="model")


class TritonEngine:
    """Serves what a Triton server has loaded.

    Args:
        address: ``host:port`` of Triton's gRPC endpoint, and ``,unix:PATH`` of its HTTP one's
            socket where it has one: small calls go through that.
        expected: names of models that Triton should serve: while it doesn't know one of them
            it is being loaded, or Triton is starting.
        not_found: the error for any other that Triton doesn't know.
    """

    def __init__(
        self,
        address: str,
        expected: Callable[[], Collection[str]] = tuple,
        not_found: Callable[[str], ModelNotFound] = no_model,
    ) -> None:
        self._connected: InferenceServerClient | None = None
        self._published: dict[str, tuple[float, Published]] = {}
        self._expected = expected
        self._not_found = not_found
        self._regions: Regions | None = None
        self._calls: set[asyncio.Task[Inference]] = set()
        self._move(address)

    def _move(self, address: str) -> None:
        self._address, _, socket = address.partition(SOCKET)
        self._http: TritonHttp | None = None
        if socket:
            from .triton_http import TritonHttp

            self._http = TritonHttp(socket)

    async def infer(
        self, model: str, inputs: Inputs, version: int | None, timeout_s: float
    ) -> Inference:
        """Run the graph; Triton batches it with what else waits."""
        if version is not None:
            return await self._infer(model, inputs, version, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                current = (await self.published(model)).version
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer in time") from error
        try:
            return await self._infer(model, inputs, current, timeout_s)
        except (ModelNotFound, Unavailable):
            self.forget(model)  # somebody may have published since
            newer = (await self.published(model)).version
            if newer == current:
                raise
            return await self._infer(model, inputs, newer, timeout_s)

    async def _infer(self, model: str, inputs: Inputs, version: int, timeout_s: float) -> Inference:
        """The answer of a call that is never cancelled: Triton 2.51 may die of that.

        Who stops waiting keeps its place until Triton has answered; who is late is told so.
        """
        call = asyncio.create_task(self._call(model, inputs, version, min(timeout_s, LONGEST_S)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(call)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer in time") from error
        except asyncio.CancelledError:
            await asyncio.wait({call})
            raise

    async def _call(self, model: str, inputs: Inputs, version: int, wait_s: float) -> Inference:
        from tritonclient.utils import InferenceServerException

        headers = tracing.outgoing()
        send = partial(
            self._client.infer,
            model,
            model_version=str(version),
            timeout=int(wait_s * 1e6),
            headers=headers,
        )
        given_up_s = wait_s + HUNG_S
        is_small = sum(array.nbytes for array in inputs.values()) <= SMALL_BYTES
        try:
            if answer := await self._infer_here(send, model, inputs, version, wait_s):
                return answer
            if self._http is None or not is_small:
                return await through_socket(send, inputs, given_up_s)
            return await self._http.infer(
                model, version, inputs, timeout_s=wait_s, wait_s=given_up_s, headers=headers
            )
        except (InferenceServerException, asyncio.CancelledError) as error:
            self._refuse(error, model)

    async def _infer_here(
        self, send: Send, model: str, inputs: Inputs, version: int, wait_s: float
    ) -> Inference | None:
        """The answer by way of shared memory; None where that isn't offered or doesn't pay."""
        from tritonclient.utils import InferenceServerException

        if not is_here(self._address):
            return None
        card = (await self.published(model)).cards.get(version)
        output_bytes, size = shared_bytes(card.output, inputs) if card else (0, 0)
        regions = self._regions = self._regions or Regions(self._client)
        if not size:
            return None
        try:
            async with asyncio.timeout(wait_s):
                region = await regions.lease(size)
                if region is None:
                    return None
                work = through_memory(send, inputs, region, output_bytes)
                return await regions.run(region, work)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer in time") from error
        except InferenceServerException as error:
            if "shared memory" not in str(error.message()):
                raise
            if self._regions is regions:
                self._regions = None  # another Triton, which knows none of them
            return None

    async def published(self, model: str) -> Published:
        """The versions that serve, asked of Triton at most once in ``FRESH_S``."""
        asked_at, published = self._published.get(model, (float("-inf"), None))
        if published is None or time.monotonic() - asked_at > FRESH_S:
            published = await self._fetch(model)
            self._published[model] = time.monotonic(), published
        return published

    async def models(self) -> list[str]:
        """Names of the models that are ready, or that should be.

        Triton's index fails as a whole over one entry of the repository that it can't read;
        its statistics are of what is loaded.
        """
        ready = {one.model for one in await self.executions(CONTROL_TIMEOUT_S)}
        return sorted({*ready, *self._expected()})

    async def executions(self, timeout_s: float) -> list[Executions]:
        """Triton's own statistics."""
        from tritonclient.utils import InferenceServerException

        try:
            answer = await self._client.get_inference_statistics(client_timeout=timeout_s)
        except (InferenceServerException, asyncio.CancelledError) as error:
            self._refuse(error, "")
        return list(map(_executions, answer.model_stats))

    async def load(self, model: str) -> None:
        """Load a model, or what has changed of it.

        Raises:
            Unavailable: Triton refuses; the message is Triton's.
        """
        from tritonclient.utils import InferenceServerException

        self.forget(model)
        try:
            await self._client.load_model(model, client_timeout=LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            raise Unavailable(f"Triton can't load {model!r}: {error.message()}") from error
        except asyncio.CancelledError as error:
            self._refuse(error, model)

    async def reload(self, model: str) -> None:
        """Unload a model and load it: the one way to a new backend process.

        Raises:
            Unavailable: Triton refuses; the message is Triton's.
        """
        await self._unload(model)
        await self.load(model)

    async def unload(self, model: str) -> None:
        """Unload a model that isn't published any more.

        Raises:
            Unavailable: Triton refuses; the message is Triton's.
        """
        await self._unload(model)

    async def _unload(self, model: str) -> None:
        from tritonclient.utils import InferenceServerException

        self.forget(model)
        try:
            await self._client.unload_model(
                model, unload_dependents=False, client_timeout=CONTROL_TIMEOUT_S
            )
        except InferenceServerException as error:
            raise Unavailable(f"Triton can't unload {model!r}: {error.message()}") from error
        except asyncio.CancelledError as error:
            self._refuse(error, model)

    async def live(self) -> bool:
        """Whether Triton answers at all."""
        from tritonclient.utils import InferenceServerException

        try:
            return bool(await self._client.is_server_live(client_timeout=CONTROL_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def reconnect(self, address: str) -> None:
        """Talk to another server from now on."""
        await self.close()
        self._move(address)

    def forget(self, model: str) -> None:
        """Ask Triton again for what is published of a model."""
        self._published.pop(model, None)

    async def close(self) -> None:
        """Close the connection; calls that nobody waits for may end before."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=CONTROL_TIMEOUT_S)
        regions, self._regions = self._regions, None
        if regions is not None:
            await regions.close()
        client, self._connected = self._connected, None
        self._published.clear()
        if self._http is not None:
            self._http.close()
        if client is not None:
            await client.close()

    @property
    def _client(self) -> InferenceServerClient:
        if self._connected is None:
            from tritonclient.grpc.aio import InferenceServerClient

            self._connected = InferenceServerClient(
                self._address,
                channel_args=[
                    ("grpc.enable_http_proxy", 0),  # Triton is of the same cluster or machine
                    ("grpc.max_receive_message_length", -1),
                    ("grpc.max_send_message_length", -1),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 1000),
                    # a peer that is gone without a word: nothing else would ever notice
                    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
                    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),  # a minute, else it goes first
                ],
            )
        return self._connected

    async def _fetch(self, model: str) -> Published:
        from tritonclient.utils import InferenceServerException

        try:
            answer = await self._client.get_model_config(model, client_timeout=CONTROL_TIMEOUT_S)
            return described(model, answer.config)
        except (InferenceServerException, asyncio.CancelledError) as error:
            self._refuse(error, model)
        except ValueError as error:
            raise Unavailable(f"model {model!r} was not published by ganforge: {error}") from error

    def _refuse(self, error: Any, model: str) -> NoReturn:
        """Tell apart what Triton merges: overload, deadline, a dead backend, a dead server."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise error
            # a grpc call that ends because its server died or its channel was closed
            raise Unavailable("Triton closed the connection", retry_after_s=RETRY_AFTER_S)
        status, message = str(error.status()), str(error.message())
        if "Exceeds maximum queue size" in message:
            raise QueueFull(f"{model}'s queue is full", retry_after_s=RETRY_AFTER_S) from error
        if "Request timeout expired" in message or status.endswith("DEADLINE_EXCEEDED"):
            raise DeadlineExceeded(f"{model or 'Triton'} gave no answer in time") from error
        unknown = "unknown model" in message or status.endswith("NOT_FOUND")
        if unknown and model not in self._expected():
            raise self._not_found(model) from error
        if status.endswith("INVALID_ARGUMENT"):
            log.error("Triton refuses the tensors of %s: %s", model, message)
            raise InvalidRequest(f"{model} can't take these values") from error
        gone = status.endswith(("UNAVAILABLE", "CANCELLED")) or "tub process" in message
        if unknown or gone:  # unknown to Triton, but expected: it is being loaded
            raise Unavailable(
                f"{model or 'Triton'} is not available now", retry_after_s=RETRY_AFTER_S
            ) from error
        log.error("%s failed on Triton: %s", model, message)
        raise InternalError(f"{model} failed") from error


def _executions(of: Any) -> Executions:
    stats = of.inference_stats
    compute = (stats.compute_input, stats.compute_infer, stats.compute_output)
    return Executions(
        model=of.name,
        version=int(of.version),
        images=of.inference_count,
        runs=of.execution_count,
        succeeded=stats.success.count,
        failed=stats.fail.count,
        queue_s=stats.queue.ns / 1e9,
        compute_s=sum(step.ns for step in compute) / 1e9,
    )
