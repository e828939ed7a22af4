"""The in-process engine: onnxruntime over the same repository, with a batcher of its own.

Without process hops it is the fastest executor on a CPU.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.card import OUTPUT_NAME
from gan_core.errors import DeadlineExceeded, ModelNotFound, Unavailable

from .batcher import Batcher, Plan, Run
from .cores import usable_cores
from .engine import Executions, Inference
from .published import Published
from .repository import model_names, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine import Inputs

__all__ = ["OrtEngine"]

log = logging.getLogger(__name__)

NVIDIA_DRIVER = Path("/proc/driver/nvidia")
CUDA = "CUDAExecutionProvider"
CPU_ROWS = 8
"""Most rows of a batch on a CPU: more gain little, and keep others waiting."""
_Key = tuple[str, int, str]
"""Model, version and sha256: a removed model may come back under the same number."""


class OrtEngine:
    """Serves a repository in this process. A newly published version is picked up by itself.

    Args:
        repository: a Triton model repository.
        cores: how many to use; 0 = all.

    Raises:
        Unavailable: onnxruntime isn't installed, or there is no such folder.
    """

    def __init__(self, repository: Path, cores: int = 0) -> None:
        try:
            import onnxruntime as _  # noqa: F401
        except ImportError as error:
            raise Unavailable(
                f"serving in process needs onnxruntime: pip install 'ganforge[serve]' ({error})"
            ) from error
        if not repository.is_dir():
            raise Unavailable(f"{repository} is not a model repository: no such folder")
        self._repository = repository
        self._cores = cores or usable_cores()
        self._published: dict[str, tuple[int, Published]] = {}
        self._batchers: dict[_Key, Batcher] = {}
        self._loading: defaultdict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def infer(
        self, model: str, inputs: Inputs, version: int | None, timeout_s: float
    ) -> Inference:
        """Run the graph; requests that wait together share a batch."""
        try:
            async with asyncio.timeout(timeout_s):
                published = await self.published(model)
                chosen = published.version if version is None else version
                batcher = await self._batcher(published, chosen)
                return Inference(await batcher.run(inputs), chosen)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{model} gave no answer within {timeout_s:g} s") from error

    async def published(self, model: str) -> Published:
        """The versions that serve, read again when config.pbtxt changed."""
        try:
            path = f"{self._repository}/{model}/config.pbtxt"
            changed_ns = os.stat(path).st_mtime_ns  # noqa: PTH116  for each request: Path is slow
        except (OSError, ValueError):
            return read(self._repository, model)
        known = self._published.get(model)
        if known is None:
            known = self._published[model] = changed_ns, read(self._repository, model)
        elif known[0] != changed_ns:
            self._published[model] = changed_ns, known[1]  # serves others until the new one can
            try:
                fresh = read(self._repository, model)
                await self._batcher(fresh, fresh.version)
                known = changed_ns, fresh
            except Unavailable:
                known = changed_ns, known[1]  # what serves goes on serving; the log has why
            finally:
                self._published[model] = known  # as it was, where the caller gave up
        return known[1]

    async def models(self) -> list[str]:
        """Every model in the repository."""
        return model_names(self._repository)

    async def executions(self, timeout_s: float) -> list[Executions]:
        """As the batchers count."""
        return [
            batcher.executions(model, version)
            for (model, version, _), batcher in self._batchers.items()
        ]

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

    async def _batcher(self, published: Published, version: int) -> Batcher:
        model = published.name
        if version not in published.cards:
            raise ModelNotFound(
                f"model {model!r} has no version {version}; serving: {sorted(published.cards)}"
            )
        key = model, version, published.cards[version].sha256
        if key not in self._batchers:
            async with self._loading[key]:
                if key not in self._batchers:
                    path = self._repository / model / str(version) / "model.onnx"
                    rows = _rows(published)
                    plan = await asyncio.to_thread(_plan, path, self._cores, rows)
                    self._forget_old(published)
                    self._batchers[key] = Batcher(plan, f"{model}@{version}")
        return self._batchers[key]

    def _forget_old(self, published: Published) -> None:
        """Free the sessions of versions and models that don't serve any more."""
        warm = {(published.name, version, card.sha256) for version, card in published.cards.items()}
        names = set(model_names(self._repository)) - {published.name}
        for key in [key for key in self._batchers if key not in warm and key[0] not in names]:
            self._batchers.pop(key).close()
            self._loading.pop(key, None)


def _rows(published: Published) -> int:
    """Most rows of a batch. On a CPU a picture is work enough for a core, and memory."""
    if CUDA in _providers():
        return published.max_batch_size
    return 1 if published.card.input("image") else min(CPU_ROWS, published.max_batch_size)


def _plan(path: Path, cores: int, rows: int) -> Plan:
    """One run at a time on a GPU; on a CPU as many as there are cores, each in one of them.

    Who is alone has all cores, from a session of its own: the graph is in memory twice.
    """
    providers = _providers()
    if cores == 1 or CUDA in providers:
        run = _run_of(path, cores, providers)
        return Plan(run, run, 1, rows)
    narrow = _run_of(path, 1, providers)
    return Plan(_run_of(path, cores, providers), narrow, cores, rows)


def _run_of(path: Path, threads: int, providers: list[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # threads that wait for each other spin, but after a run the rest of the process has the cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises what it likes
        log.exception("%s can't be loaded", path)
        raise Unavailable(
            f"version {path.parent.name} of {path.parent.parent.name!r} can't be loaded; "
            "the server's log says why"
        ) from error

    def run(inputs: Inputs) -> NDArray[Any]:
        found: NDArray[Any] = session.run([OUTPUT_NAME], inputs)[0]
        return found

    return run


def _providers() -> list[str]:
    import onnxruntime

    if NVIDIA_DRIVER.exists() and CUDA in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()  # CUDA's libraries from the wheels that torch uses
        return [CUDA, "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
