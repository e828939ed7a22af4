"""The in-process engine: onnxruntime over the same repository, with a batcher of its own.

Without process hops it is the fastest executor on a CPU. It doesn't wait for a batch: it takes
what is queued whenever the session is free.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict, deque
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.errors import DeadlineExceeded, InternalError, ModelNotFound, QueueFull, Unavailable

from .engine import Inference
from .repository import MAX_QUEUE_SIZE, Published, model_names, read

if TYPE_CHECKING:
    import onnxruntime

    from .engine import Inputs

__all__ = ["OrtEngine"]

log = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
Request = tuple["Inputs", int, "Future[Any]"]
_Key = tuple[str, int, str]
"""Model, version and sha256: a removed model may come back under the same number."""


class OrtEngine:
    """Serves a repository in this process. A newly published version is picked up by itself.

    Args:
        repository: a Triton model repository.
        threads: intra-op threads per session; 0 = all cores.

    Raises:
        Unavailable: onnxruntime isn't installed, or there is no such folder.
    """

    def __init__(self, repository: Path, threads: int = 0) -> None:
        try:
            import onnxruntime as _  # noqa: F401
        except ImportError as error:
            raise Unavailable(
                f"serving in process needs onnxruntime: pip install 'ganforge[serve]' ({error})"
            ) from error
        if not repository.is_dir():
            raise Unavailable(f"{repository} is not a model repository: no such folder")
        self._repository = repository
        self._threads = threads
        self._published: dict[str, tuple[int, Published]] = {}
        self._batchers: dict[_Key, _Batcher] = {}
        self._loading: defaultdict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def infer(
        self, model: str, inputs: Inputs, version: int | None, timeout_s: float
    ) -> Inference:
        """Run the graph; requests that wait together share a batch."""
        published = await self.published(model)
        chosen = published.version if version is None else version
        if chosen not in published.cards:
            raise ModelNotFound(
                f"model {model!r} has no version {chosen}; serving: {sorted(published.cards)}"
            )
        batcher = await self._batcher(published, chosen)
        try:
            image = await asyncio.wait_for(asyncio.wrap_future(batcher.submit(inputs)), timeout_s)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer within {timeout_s:g} s") from error
        return Inference(image, chosen)

    async def published(self, model: str) -> Published:
        """The versions that serve, read again when config.pbtxt changed."""
        try:
            changed_ns = (self._repository / model / "config.pbtxt").stat().st_mtime_ns
        except (OSError, ValueError):
            return read(self._repository, model)
        known = self._published.get(model)
        if known is None or known[0] != changed_ns:
            try:
                known = changed_ns, read(self._repository, model)
            except Unavailable:
                if known is None:
                    raise
                known = changed_ns, known[1]  # what serves goes on serving; the log has why
            self._published[model] = known
        return known[1]

    async def models(self) -> list[str]:
        """Every model in the repository."""
        return model_names(self._repository)

    async def close(self) -> None:
        """Stop the batchers and wait for them.

        onnxruntime aborts a process that ends while a thread still runs a graph.
        """
        batchers = list(self._batchers.values())
        self._batchers.clear()
        for batcher in batchers:
            batcher.close()
        for batcher in batchers:
            await asyncio.to_thread(batcher.join)

    async def _batcher(self, published: Published, version: int) -> _Batcher:
        model = published.name
        key = model, version, published.cards[version].sha256
        if key not in self._batchers:
            async with self._loading[key]:
                if key not in self._batchers:
                    path = self._repository / model / str(version) / "model.onnx"
                    session = await asyncio.to_thread(_session, path, self._threads)
                    self._forget_old(published)
                    batcher = _Batcher(session, f"{model}@{version}", published.max_batch_size)
                    self._batchers[key] = batcher
        return self._batchers[key]

    def _forget_old(self, published: Published) -> None:
        """Free the sessions of versions and models that don't serve any more."""
        warm = {(published.name, version, card.sha256) for version, card in published.cards.items()}
        names = set(model_names(self._repository)) - {published.name}
        for key in [key for key in self._batchers if key not in warm and key[0] not in names]:
            self._batchers.pop(key).close()
            self._loading.pop(key, None)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # spinning threads fight the rest of the process for its cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers())
    except Exception as error:  # onnxruntime raises what it likes
        log.exception("%s can't be loaded", path)
        raise Unavailable(
            f"version {path.parent.name} of {path.parent.parent.name!r} can't be loaded; "
            "the server's log says why"
        ) from error


def _providers() -> list[str]:
    import onnxruntime

    cuda = "CUDAExecutionProvider"
    if NVIDIA_DRIVER.exists() and cuda in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # CUDA's libraries from the wheels that torch uses
        return [cuda, "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


class _Batcher:
    """One session, one worker thread, one queue."""

    def __init__(
        self, session: onnxruntime.InferenceSession, name: str, max_batch_size: int
    ) -> None:
        self._session = session
        self._name = name
        self._max_batch_size = max_batch_size
        self._queue: deque[Request] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"onnxruntime {name}", daemon=True)
        self._thread.start()

    def submit(self, inputs: Inputs) -> Future[Any]:
        future: Future[Any] = Future()
        n = len(next(iter(inputs.values())))
        with self._wake:
            if self._closed:
                raise Unavailable(f"{self._name} is being replaced", retry_after_s=1)
            if len(self._queue) >= MAX_QUEUE_SIZE:  # callers that gave up hold no place
                self._queue = deque(one for one in self._queue if not one[2].cancelled())
            if len(self._queue) >= MAX_QUEUE_SIZE:
                raise QueueFull(
                    f"{self._name} has {MAX_QUEUE_SIZE} requests waiting", retry_after_s=1
                )
            self._queue.append((inputs, n, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def join(self) -> None:
        """Wait until the last batch is done."""
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            futures = [future for _, _, future in batch]
            try:
                images = self._run([inputs for inputs, _, _ in batch])
                ends = np.cumsum([n for _, n, _ in batch])
                if len(images) != ends[-1]:
                    raise ValueError(f"{len(images)} images for a batch of {ends[-1]}")
            except Exception as error:  # noqa: BLE001 onnxruntime raises what it likes
                self._one_by_one(batch, error)
                continue
            for future, image in zip(futures, np.split(images, ends[:-1]), strict=True):
                future.set_result(image)

    def _take(self) -> list[Request]:
        """What is queued and fits one run: at most max_batch_size rows of one shape."""
        batch: list[Request] = []
        rows = 0
        with self._wake:
            while not batch:
                while not self._queue:
                    if self._closed:
                        return []
                    self._wake.wait()
                while self._queue and self._fits(batch, rows):
                    inputs, n, future = self._queue.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((inputs, n, future))
                        rows += n
        return batch

    def _fits(self, batch: list[Request], rows: int) -> bool:
        inputs, n, _ = self._queue[0]
        return not batch or (
            rows + n <= self._max_batch_size and _shapes(inputs) == _shapes(batch[0][0])
        )

    def _run(self, requests: list[Inputs]) -> Any:
        together = {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}
        return self._session.run(None, together)[0]

    def _one_by_one(self, batch: list[Request], error: Exception) -> None:
        """Find out whose row failed, so that nobody else's does."""
        for inputs, _, future in batch:
            try:
                if len(batch) == 1:
                    raise error
                future.set_result(self._run([inputs]))
            except Exception:
                log.exception("%s failed", self._name)
                future.set_exception(InternalError(f"{self._name} failed"))


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in inputs.values()]
