"""The training loop: ticks, budget, checkpoints, samples and observers. It knows no loss."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from . import checkpoint
from .crops import Crops
from .errors import ConfigError, TrainingDiverged, TrainingUnhealthy
from .export import ServedGenerator, rendered
from .grid import grid, scatter
from .guard import Guard
from .held_out import enlarged_by, is_upscaler, shown
from .progress import Progress, Silent
from .randomness import rng_state, seed_everything, set_rng_state
from .stopping import Interrupted, stop_signal
from .variant import is_points

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image

    from .data import Batch, TrainingData
    from .plugins import Plugins
    from .run import Run
    from .trainer import Trainer

T = TypeVar("T")

__all__ = ["Scorer", "fit"]

SAMPLES = 64
POINTS = 2048
Scorer = Callable[[ServedGenerator], Mapping[str, float]]
"""What would be served -> values by metric."""


def fit(
    trainer: Trainer,
    data: TrainingData,
    run: Run,
    accelerator: Accelerator,
    *,
    plugins: Plugins,
    progress: Progress | None = None,
    scorer: Scorer | None = None,
) -> Path:
    """Train until the run's budget is used up; returns the last checkpoint.

    A run that has checkpoints is continued from the newest, with everything restored: on a CPU
    the result is the same, bit for bit, as without the interruption. Statistics are means over
    all processes. Several processes agree once per tick on whether to stop, and do it together.
    Each ``score_kimg`` the ``scorer`` measures what would be served.

    Raises:
        TrainingDiverged: a statistic stopped being finite, and nothing was saved after it; or the
            divergence guard stopped the run.
        CheckpointError: a checkpoint can't be written or read.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved first.
    """
    return _Loop(
        trainer, data, run, accelerator, plugins, progress or Silent(), scorer
    ).run_to_end()


class _Loop:
    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        run: Run,
        accelerator: Accelerator,
        plugins: Plugins,
        progress: Progress,
        scorer: Scorer | None,
    ) -> None:
        self.scorer = scorer
        self.trainer, self.data, self.run = trainer, data, run
        self.accelerator, self.plugins, self.progress = accelerator, plugins, progress
        self.world = accelerator.num_processes
        self.steps = 0
        self.seen_before = self.seen = 0
        self.pending: list[dict[str, torch.Tensor]] = []
        self.tick_started = (time.perf_counter(), 0)
        self.guard = Guard(run.config)
        self.rollbacks = 0

    def run_to_end(self) -> Path:
        budget = round(self.run.config.kimg * 1000)
        path = self._resume()
        self.tick_started = (time.perf_counter(), self.seen)
        self._write_samples()
        with stop_signal(patient=self.world > 1) as stopped:
            while self.seen < budget:
                try:
                    with self._events() as events:
                        path = self._train(budget, events, stopped) or path
                except TrainingDiverged as error:
                    self._roll_back(error)
        return path or self._save()

    def _train(
        self, budget: int, events: SummaryWriter | None, stopped: Callable[[], bool]
    ) -> Path | None:
        """Train to the end of the budget; returns the last checkpoint."""
        config, path = self.run.config, None
        for batch in self._batches():
            self._step(batch)
            done = self.seen >= budget
            stopping = self.world == 1 and stopped() and not done
            saving = self._due(config.checkpoint_kimg) or done or stopping
            if self._due(config.tick_kimg) or saving:  # nothing unread is ever saved
                stopping = self._tick(events, stopped=stopped()) and not done
                saving = saving or stopping
            if self._due(config.sample_kimg) or done:
                self._write_samples()
            if self.scorer and config.score_kimg and (self._due(config.score_kimg) or done):
                self._score(self.scorer, events)
            if saving:
                path = self._save()
                if stopping:
                    raise Interrupted(path)
            if done:
                break
        return path

    def _batches(self) -> Iterator[Batch]:
        """Batches from here on, of the size that is due."""
        config = self.run.config
        while True:
            size = config.batch_size_at(self.seen / 1000)
            source = self.data.batches(
                size,
                seed=config.seed,
                start=self.seen,
                rank=self.accelerator.process_index,
                world=self.world,
            )
            while config.batch_size_at(self.seen / 1000) == size:
                yield next(source)

    def _step(self, batch: Batch) -> None:
        self.pending.append(self.trainer.step(batch.to(self.accelerator.device)))
        self.steps += 1
        self.seen_before = self.seen
        self.seen += len(batch.real) * self.world
        self.progress.step(self.seen)

    def _due(self, every_kimg: float) -> bool:
        every = every_kimg * 1000
        return bool(self.seen // every > self.seen_before // every)

    def _tick(self, events: SummaryWriter | None, *, stopped: bool) -> bool:
        """Report the means over all ranks; returns whether one of them was told to stop."""
        mine, diverged = self._read_pending()
        ranks = self._of_all_ranks((mine, diverged, stopped))
        for _, diverged, _ in ranks:
            if diverged:
                raise TrainingDiverged(*diverged)
        stats = _means([stats for stats, _, _ in ranks])
        self._report(stats, events)
        self._guard(stats)
        return any(stopped for _, _, stopped in ranks)

    def _report(self, stats: dict[str, float], events: SummaryWriter | None) -> None:
        now, (then, seen_then) = time.perf_counter(), self.tick_started
        self.tick_started = (now, self.seen)
        stats |= {"img_per_s": (self.seen - seen_then) / max(now - then, 1e-9)}
        self.progress.tick(stats)
        if events is None:
            return
        kimg = self.seen / 1000
        self.run.append({"kimg": kimg, **stats})
        for name, value in stats.items():
            events.add_scalar(name, value, self.seen)
        self.plugins.notify("ganforge_tick", run=self.run, stats={"kimg": kimg, **stats})

    def _guard(self, stats: Mapping[str, float]) -> None:
        """Warn of what is wrong, once, or stop because of it."""
        if self.run.config.guard == "off":
            return
        found = self.guard.examine(stats, self.seen / 1000)
        if found and self.run.config.guard != "warn":
            raise TrainingUnhealthy(self.steps, "; ".join(found.values()), self.guard.healthy_until)
        for symptom in found.keys() - self.guard.told:
            self._note("warning", found[symptom])
        self.guard.told = set(found)

    def _note(self, kind: str, text: str) -> None:
        kimg = self.seen / 1000
        self.progress.warn(f"at {kimg:g} kimg: {text}")
        if self.accelerator.is_main_process:
            self.run.note({"kimg": kimg, "event": kind, "text": text})

    def _roll_back(self, error: TrainingDiverged) -> None:
        """Go on from the last healthy checkpoint with other noise, or give up."""
        config = self.run.config
        bad = self.guard.healthy_until
        path = checkpoint.latest(self.run.checkpoints, before_kimg=bad)
        if config.guard == "rollback" and path is None:
            error.add_note("there is no healthy checkpoint to go back to")
        if config.guard != "rollback" or path is None:
            self._note("stop", str(error))
            raise error
        if self.rollbacks >= config.guard_rollbacks:
            error.add_note(f"rolled back {self.rollbacks} times already (guard_rollbacks)")
            self._note("stop", str(error))
            raise error
        rollbacks = self.rollbacks + 1
        self._note("rollback", f"{error}; going back to {path.name} kimg")
        if self.accelerator.is_main_process:
            checkpoint.remove_after(self.run.checkpoints, path)
        self._restore(path)
        self.rollbacks = rollbacks
        self.pending.clear()
        self.tick_started = (time.perf_counter(), self.seen)
        self.guard = Guard(config)
        # the same noise would lead to the same place
        seed_everything(config.seed + 1_000_003 * rollbacks + self.accelerator.process_index)
        self._save()  # so that a run that is killed now doesn't start over

    def _read_pending(self) -> tuple[dict[str, float], tuple[int, str, float] | None]:
        """Means since the last tick, and what stopped being finite, where something did.

        The only place that waits for the device.
        """
        stats: dict[str, float] = {}
        diverged: tuple[int, str, float] | None = None
        first_step = self.steps - len(self.pending) + 1
        names = dict.fromkeys(name for row in self.pending for name in row)
        for name in names:
            steps = [(i, row[name]) for i, row in enumerate(self.pending) if name in row]
            values = torch.stack([value.float() for _, value in steps]).tolist()
            for (i, _), value in zip(steps, values, strict=True):
                if not math.isfinite(value) and not self._is_scaled(name):
                    diverged = diverged or (first_step + i, name, value)
            if self._is_scaled(name):  # unless all steps were skipped, skipped ones don't count
                values = [value for value in values if math.isfinite(value)] or [math.inf]
            stats[name] = sum(values) / len(values)
        self.pending.clear()
        return stats, diverged

    def _is_scaled(self, name: str) -> bool:
        """float16's loss scaling overflows now and then, and skips that step."""
        fp16 = self.accelerator.mixed_precision == "fp16"
        return bool(fp16 and name.startswith("gradient_norm/"))

    def _write_samples(self) -> None:
        if not self.accelerator.is_main_process:
            return
        path = self.run.samples / f"{_kimg(self.seen)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._served() as served, torch.no_grad():
            self._samples(served).save(path)

    def _samples(self, served: ServedGenerator) -> Image:
        """Points or images of seeds; of an upscaler held-out photographs, where there are any."""
        if is_upscaler(served.inputs) and isinstance(self.data, Crops) and self.data.held_out:
            return shown(self.data, enlarged_by(served), served.scale)
        points = is_points(self.run.config)
        side_px, n = self.run.config.resolution_px, POINTS if points else SAMPLES
        images = np.concatenate(list(rendered(served, side_px, 0, n)))
        return scatter(images[:, 0, 0]) if points else grid(images)

    def _score(self, scorer: Scorer, events: SummaryWriter | None) -> None:
        """Only the main process scores; the others wait for it where they next meet."""
        if events is None:
            return
        kimg, began = self.seen / 1000, time.perf_counter()
        with self._served() as served:
            scores = dict(scorer(served))
        self.run.note_scores({"kimg": kimg, **scores})
        for name, value in scores.items():
            events.add_scalar(f"score/{name}", value, self.seen)
        started, seen = self.tick_started
        self.tick_started = (started + time.perf_counter() - began, seen)  # not training
        self.progress.score(kimg, scores)

    @contextmanager
    def _served(self) -> Iterator[ServedGenerator]:
        """What would be exported now, in evaluation."""
        generator = self.trainer.generator()
        training = generator.training
        try:
            yield self.run.variant.served(generator.eval(), self.run.config)
        finally:
            generator.train(training)

    def _save(self) -> Path:
        trained = self.trainer.state()
        infinite = [k for k, v in checkpoint.tensors(trained).items() if not v.isfinite().all()]
        ranks = self._of_all_ranks((rng_state(), infinite))
        for _, infinite in ranks:
            if infinite:
                raise TrainingDiverged(self.steps, f"trainer/{infinite[0]}", math.nan)
        state = {
            "trainer": trained,
            "seen": self.seen,
            "steps": self.steps,
            "guard": self.guard.state(),
            "rollbacks": self.rollbacks,
            "config": self.run.config.model_dump(mode="json"),
            "rng": [rng for rng, _ in ranks],
        }
        path = self.run.checkpoints / _kimg(self.seen)
        if self.accelerator.is_main_process:
            checkpoint.save(self.run.checkpoints, path.name, state)
            healthy = checkpoint.latest(self.run.checkpoints, self.guard.healthy_until)
            complete = sorted(self.run.checkpoints.glob("[0-9]*"))
            for old in complete[: -self.run.config.keep_checkpoints]:
                if old != healthy:  # the guard may have to go back to it
                    shutil.rmtree(old)
            self.plugins.notify("ganforge_checkpoint_saved", run=self.run, path=path)
        self.accelerator.wait_for_everyone()
        return path

    def _resume(self) -> Path | None:
        path = checkpoint.latest(self.run.checkpoints)
        if path is not None:
            self._restore(path)
        return path

    def _restore(self, path: Path) -> None:
        state = checkpoint.restore(self.trainer, path)
        now = self.run.config.model_dump(mode="json")
        for name, then in state["config"].items():
            if now.get(name) != then and not self.run.config.may_change(name):
                raise ConfigError(
                    f"{self.run.path / 'config.yaml'} says {name} {now.get(name)}, and {path} was "
                    f"trained with {then}: a run keeps its settings"
                )
        self.seen_before = self.seen = state["seen"]
        self.steps = state["steps"]
        self.guard.load(state["guard"])
        self.rollbacks = state["rollbacks"]
        ranks = state["rng"]
        if len(ranks) != self.world:
            raise ConfigError(f"{path} was saved by {len(ranks)} processes, not {self.world}")
        set_rng_state(ranks[self.accelerator.process_index])
        if self.accelerator.is_main_process:
            self.run.forget_after(self.seen / 1000)

    def _of_all_ranks(self, mine: T) -> list[T]:
        """What each rank has, in their order, on every rank; they wait for one another here."""
        if self.world == 1:
            return [mine]
        from accelerate.utils import gather_object

        everyones: list[T] = gather_object([mine])
        return everyones

    @contextmanager
    def _events(self) -> Iterator[SummaryWriter | None]:
        if not self.accelerator.is_main_process:
            yield None
            return
        with SummaryWriter(str(self.run.path), purge_step=self.seen + 1) as events:
            yield events


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each name over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _kimg(images: int) -> str:
    return f"{images / 1000:010.3f}"
