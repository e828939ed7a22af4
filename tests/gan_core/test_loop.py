"""The training loop with trainers made for the occasion: it knows no loss, so neither do they."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped] # comes without types
    EventAccumulator,
)
from torch import Tensor, nn

from gan_core import checkpoint, hookimpl
from gan_core.card import DataSource, LatentInput
from gan_core.data import Batch, Images
from gan_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TrainingDiverged,
    TrainingUnhealthy,
)
from gan_core.export import ServedGenerator
from gan_core.loop import fit
from gan_core.plugins import Plugins
from gan_core.progress import Silent
from gan_core.randomness import seed_everything
from gan_core.run import Run
from gan_core.stopping import Interrupted
from gan_core.variant import TrainConfig, Variant

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH = 10


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.level + z[:, :1, None, None]
        return images.expand(-1, 1, 8, 8)


class Scripted:
    """A trainer whose statistics are given, and whose weight counts its steps."""

    def __init__(self, stats: Callable[[int], dict[str, float]] = lambda step: {"loss/D": 1.0}):
        self.stats = stats
        self.steps = 0
        self.network = Generator()
        self.batches: list[Tensor] = []

    def step(self, batch: Batch) -> dict[str, Tensor]:
        self.steps += 1
        self.batches.append(batch.real)
        with torch.no_grad():
            self.network.level.add_(1)
        return {name: torch.tensor(value) for name, value in self.stats(self.steps).items()}

    def generator(self) -> nn.Module:
        return self.network

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def served(generator: nn.Module, config: TrainConfig) -> ServedGenerator:
    return ServedGenerator(generator, (LatentInput(dim=2),))


VARIANT = Variant(
    name="scripted",
    paper="",
    config=TrainConfig,
    build=lambda config, accelerator: Scripted(),
    served=served,
)


def images(n: int = 30) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    return Images(pixels, DataSource(name="noise", fingerprint="0"))


Train = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """A run of ``steps`` steps; its folder is made once."""

    def make(steps: float = 6, **settings: Any) -> Run:
        config = TrainConfig(
            batch_size=BATCH,
            resolution_px=8,
            kimg=steps * BATCH / 1000,
            **{"tick_kimg": 0.02, "sample_kimg": 1.0, "checkpoint_kimg": 1.0, **settings},
        )
        made = Run(tmp_path / "run", VARIANT, "noise", images().source, config)
        if not made.path.exists():
            made.create()
        return made

    return make


@pytest.fixture
def train(accelerator: Accelerator) -> Train:
    def trained(run: Run, trainer: Any = None, plugins: Plugins | None = None, **more: Any) -> Path:
        return fit(
            trainer or Scripted(),
            images(),
            run,
            accelerator,
            plugins=plugins or Plugins([]),
            **more,
        )

    return trained


def test_a_run_trains_for_its_budget(run: Callable[..., Run], train: Train) -> None:
    trainer = Scripted()
    train(run(steps=6), trainer)
    assert trainer.steps == 6


def test_a_budget_that_is_no_multiple_of_the_batch_is_rounded_up(
    run: Callable[..., Run], train: Train
) -> None:
    trainer = Scripted()
    train(run(steps=5.1), trainer)
    assert trainer.steps == 6


def test_the_last_checkpoint_is_named_by_the_images_seen(
    run: Callable[..., Run], train: Train
) -> None:
    assert train(run(steps=6)).name == "000000.060"


class Growing:
    """A training set whose batches grow."""

    source = DataSource(name="growing", fingerprint="0")
    classes = ()

    def __len__(self) -> int:
        return 1000

    def batches(
        self, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        n = 10 if start < 30 else 20
        yield Batch(torch.zeros(n, 1, 8, 8))
        yield from self.batches(batch_size, seed=seed, start=start + n)


def test_images_and_steps_are_counted_where_batches_change_size(
    run: Callable[..., Run], accelerator: Accelerator
) -> None:
    for steps in (5, 11):  # resumed in the middle
        trainer = Scripted()
        path = fit(trainer, Growing(), run(steps=steps), accelerator, plugins=Plugins([]))
    state = checkpoint.load(path)
    # 3 steps of 10 images, then 4 of 20
    assert (path.name, state["seen"], state["steps"], trainer.steps) == ("000000.110", 110, 7, 7)


class Sized(Generator):
    """Notes how many images it is asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, z: Tensor) -> Tensor:
        self.asked.append(len(z))
        return super().forward(z)


@pytest.mark.parametrize(("side_px", "chunks"), [(64, [64]), (256, [4] * 16), (1024, [1] * 64)])
def test_large_samples_are_made_a_few_at_a_time(
    run: Callable[..., Run], accelerator: Accelerator, side_px: int, chunks: list[int]
) -> None:
    made = run(steps=1)
    larger = replace(made, config=made.config.model_copy(update={"resolution_px": side_px}))
    trainer = Scripted()
    trainer.network = network = Sized()
    fit(trainer, images(), larger, accelerator, plugins=Plugins([]))
    assert network.asked == chunks * 2  # at the start and at the end


def test_statistics_are_means_per_tick(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=6)
    train(made, Scripted(lambda step: {"loss/D": float(step)}))
    assert [(row["kimg"], row["loss/D"]) for row in made.rows()] == [
        (0.02, 1.5),
        (0.04, 3.5),
        (0.06, 5.5),
    ]


def test_a_statistic_of_some_steps_is_the_mean_of_those(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=4, tick_kimg=0.04)
    train(made, Scripted(lambda step: {"loss/D": 0.0} | ({"loss/G": 7.0} if step == 3 else {})))
    assert [row["loss/G"] for row in made.rows()] == [7.0]


class Watched(Tensor):
    """Notes whatever would make the host wait for the device."""

    waits: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in {"tolist", "item", "__float__", "__bool__", "cpu", "numpy", "__int__"}:
            cls.waits.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call] # torch's


class ScriptedOnDevice(Scripted):
    def step(self, batch: Batch) -> dict[str, Tensor]:
        return {name: value.as_subclass(Watched) for name, value in super().step(batch).items()}


def test_the_device_is_waited_for_once_per_statistic_and_tick(
    run: Callable[..., Run], train: Train
) -> None:
    Watched.waits.clear()
    trainer = ScriptedOnDevice(lambda step: {"loss/D": 1.0, "loss/G": 2.0})
    train(run(steps=40, tick_kimg=0.1), trainer)  # 4 ticks of 10 steps
    assert Watched.waits == ["tolist"] * 2 * 4


def nan_at(step: int, term: str = "loss/G") -> Callable[[int], dict[str, float]]:
    return lambda now: {"loss/D": 1.0, term: math.nan if now == step else 1.0}


def test_a_nan_is_reported_with_its_step_and_term(run: Callable[..., Run], train: Train) -> None:
    with pytest.raises(TrainingDiverged, match="loss/G became nan at step 4") as caught:
        train(run(steps=9, tick_kimg=0.09), Scripted(nan_at(4)))
    assert (caught.value.step, caught.value.term) == (4, "loss/G")


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinity_is_a_divergence_too(
    run: Callable[..., Run], train: Train, value: float
) -> None:
    with pytest.raises(TrainingDiverged, match=f"loss/D became {value} at step 1"):
        train(run(), Scripted(lambda step: {"loss/D": value}))


def test_the_step_of_a_nan_counts_from_the_start_of_a_resumed_run(
    run: Callable[..., Run], train: Train
) -> None:
    train(run(steps=3))
    with pytest.raises(TrainingDiverged, match="at step 5"):
        train(run(steps=9), Scripted(nan_at(5)))


def test_nothing_is_saved_after_a_nan_even_between_ticks(
    run: Callable[..., Run], train: Train
) -> None:
    # checkpoints after steps 2, 4, …; statistics would be read at step 9 alone
    made = run(steps=9, tick_kimg=0.09, checkpoint_kimg=0.02)
    with pytest.raises(TrainingDiverged):
        train(made, Scripted(nan_at(3)))
    assert [path.name for path in made.checkpoints.iterdir()] == ["000000.020"]


def test_checkpoints_from_before_a_nan_are_intact(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=9, checkpoint_kimg=0.02)
    with pytest.raises(TrainingDiverged):
        train(made, Scripted(nan_at(3)))
    assert checkpoint.load(made.latest_checkpoint())["trainer"]["steps"] == 2


def test_a_resumed_run_sees_the_images_it_would_have_seen(
    run: Callable[..., Run], train: Train, tmp_path: Path
) -> None:
    halves = [Scripted(), Scripted()]
    for steps, trainer in zip((4, 9), halves, strict=True):
        train(run(steps=steps), trainer)
    whole = Scripted()
    (tmp_path / "run").rename(tmp_path / "other")
    train(run(steps=9), whole)
    assert torch.equal(
        torch.cat([b for half in halves for b in half.batches]), torch.cat(whole.batches)
    )


class Gambler(Scripted):
    """Draws from every generator of random numbers there is."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        super().step(batch)
        drawn = torch.rand(()) + random.random() + np.random.rand()
        return {"drawn": drawn}


def test_every_random_number_generator_goes_on_where_it_was(
    run: Callable[..., Run], train: Train, tmp_path: Path
) -> None:
    def rows(*budgets: int) -> list[float]:
        made = None
        for steps in budgets:
            seed_everything(3)
            made = run(steps=steps, tick_kimg=0.01)
            train(made, Gambler())
        assert made is not None
        found = [row["drawn"] for row in made.rows()]
        made.path.rename(tmp_path / f"{budgets}")
        return found

    assert rows(4, 9) == rows(9)


def test_a_finished_run_is_left_as_it_is(run: Callable[..., Run], train: Train) -> None:
    path = train(run())
    again = Scripted()
    assert (train(run(), again), again.batches) == (path, [])


def test_old_checkpoints_are_removed(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=6, checkpoint_kimg=0.01, keep_checkpoints=2)
    train(made)
    assert sorted(p.name for p in made.checkpoints.iterdir()) == ["000000.050", "000000.060"]


def test_the_rows_after_the_checkpoint_are_written_again(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=6, checkpoint_kimg=0.04)
    with pytest.raises(RuntimeError):
        train(made, Scripted(lambda step: {"loss/D": 1.0} if step < 6 else _crash()))
    made.append({"kimg": 0.05, "loss/D": 1.0})  # lived through, and lost
    train(made)
    assert [row["kimg"] for row in made.rows()] == [0.02, 0.04, 0.06]


def _crash() -> dict[str, float]:
    raise RuntimeError("the machine is gone")


def test_samples_are_written_at_the_start_on_time_and_at_the_end(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=5, sample_kimg=0.02)
    train(made)
    assert sorted(p.name for p in made.samples.iterdir()) == [
        f"000000.0{images}0.png" for images in (0, 2, 4, 5)
    ]


def test_sampling_leaves_the_generator_in_training_mode(
    run: Callable[..., Run], train: Train
) -> None:
    trainer = Scripted()
    train(run(), trainer)
    assert trainer.network.training


def test_sampling_uses_no_random_numbers_of_the_training(
    run: Callable[..., Run], train: Train, tmp_path: Path
) -> None:
    ends = []
    for sample_kimg in (0.01, 1.0):
        seed_everything(0)
        train(run(sample_kimg=sample_kimg))
        ends.append(torch.rand(4))
        (tmp_path / "run").rename(tmp_path / str(sample_kimg))
    assert torch.equal(*ends)


class Diary:
    """An observer that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    @hookimpl
    def ganforge_tick(self, stats: Mapping[str, float]) -> None:
        self.entries.append(f"tick {stats['kimg']}")

    @hookimpl
    def ganforge_checkpoint_saved(self, path: Path) -> None:
        assert checkpoint.load(path)
        self.entries.append(f"saved {path.name}")


class Breaks:
    """An observer that raises whenever it can."""

    @hookimpl
    def ganforge_tick(self) -> None:
        raise ValueError("the dashboard is down")

    @hookimpl
    def ganforge_checkpoint_saved(self) -> None:
        raise SystemExit(3)


def observed(*observers: object) -> Plugins:
    plugins = Plugins([])
    for observer in observers:
        plugins._manager.register(observer)
    return plugins


def test_observers_are_told_in_order(run: Callable[..., Run], train: Train) -> None:
    diary = Diary()
    train(run(steps=4, checkpoint_kimg=0.03), plugins=observed(diary))
    assert diary.entries == [
        "tick 0.02",
        "tick 0.03",
        "saved 000000.030",
        "tick 0.04",
        "saved 000000.040",
    ]


def test_an_observer_that_raises_does_not_end_the_run(
    run: Callable[..., Run], train: Train
) -> None:
    trainer = Scripted()
    train(run(steps=4), trainer, observed(Breaks()))
    assert trainer.steps == 4


class Shown:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.ticks: list[dict[str, float]] = []

    def step(self, images_seen: int) -> None:
        self.steps.append(images_seen)

    def tick(self, stats: dict[str, float]) -> None:
        self.ticks.append(stats)


def test_progress_is_told_of_every_step_and_tick(run: Callable[..., Run], train: Train) -> None:
    shown = Shown()
    train(run(steps=3), progress=shown)
    assert (shown.steps, len(shown.ticks)) == ([10, 20, 30], 2)


def test_a_tick_says_how_many_images_pass_in_a_second(
    run: Callable[..., Run], train: Train
) -> None:
    shown = Shown()
    train(run(steps=3), progress=shown)
    assert all(tick["img_per_s"] > 0 for tick in shown.ticks)


class Stopped(Scripted):
    """Sends its own process a signal in its third step."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def step(self, batch: Batch) -> dict[str, Tensor]:
        stats = super().step(batch)
        if self.steps == 3:
            os.kill(os.getpid(), self.number)
        return stats


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_stops(
    run: Callable[..., Run], train: Train, number: signal.Signals
) -> None:
    with pytest.raises(Interrupted, match="everything is saved in") as caught:
        train(run(steps=6), Stopped(number))
    assert checkpoint.load(caught.value.path)["trainer"]["steps"] == 3


class Impatient(Stopped):
    """Sends it three times at once, as a key that is pressed again."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        stats = super().step(batch)
        if self.steps == 3:
            for _ in range(2):
                os.kill(os.getpid(), self.number)
        return stats


def test_a_signal_that_is_repeated_at_once_still_saves(
    run: Callable[..., Run], train: Train
) -> None:
    with pytest.raises(Interrupted) as caught:
        train(run(steps=6), Impatient(signal.SIGINT))
    assert checkpoint.load(caught.value.path)["trainer"]["steps"] == 3


def test_a_later_second_signal_ends_at_once(
    run: Callable[..., Run], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_core.stopping.REPEATS_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(run(steps=6), Impatient(signal.SIGINT))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_act_as_before_once_training_has_ended(
    run: Callable[..., Run], train: Train, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted):
        train(run(steps=6), Stopped(number))
    assert signal.getsignal(number) is before


def test_a_signal_in_the_last_step_changes_nothing(run: Callable[..., Run], train: Train) -> None:
    assert train(run(steps=3), Stopped(signal.SIGINT)).name == "000000.030"


def test_a_checkpoint_of_more_processes_is_refused(run: Callable[..., Run], train: Train) -> None:
    path = train(run(steps=3))
    state = checkpoint.load(path)
    state["rng"] *= 2
    checkpoint.save(path.parent, path.name, state)
    with pytest.raises(ConfigError, match="was saved by 2 processes, not 1"):
        train(run(steps=6))


def test_a_damaged_checkpoint_stops_a_resumed_run(run: Callable[..., Run], train: Train) -> None:
    path = train(run(steps=3))
    (path / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"can't read checkpoint {path}"):
        train(run(steps=6))


def test_a_set_smaller_than_a_batch_is_refused(
    run: Callable[..., Run], accelerator: Accelerator
) -> None:
    with pytest.raises(DataError, match="fewer than the batch of 10"):
        fit(Scripted(), images(9), run(), accelerator, plugins=Plugins([]))


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_a_seed_decides_every_random_number(seed: int) -> None:
    drawn = []
    for _ in range(2):
        seed_everything(seed)
        drawn.append((torch.rand(()).item(), random.random(), float(np.random.rand())))
    assert drawn[0] == drawn[1]


def test_tensorboard_gets_every_statistic(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=4)
    train(made, Scripted(lambda step: {"loss/D": float(step)}))
    events = EventAccumulator(str(made.path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/D")] == [(20, 1.5), (40, 3.5)]


class Doubling(TrainConfig):
    """Twice the batch from 20 images on."""

    def batch_size_at(self, kimg: float) -> int:
        return BATCH if kimg < 0.02 else 2 * BATCH


def test_batches_are_as_large_as_the_configuration_says_for_the_moment(
    run: Callable[..., Run], train: Train
) -> None:
    config = Doubling.model_validate(run(steps=10).config.model_dump())
    trainer = Scripted()
    train(replace(run(steps=10), config=config), trainer)
    assert [len(batch) for batch in trainer.batches] == [10, 10, 20, 20, 20, 20]


def test_a_change_of_batch_size_leaves_out_no_image(run: Callable[..., Run], train: Train) -> None:
    one, two = Scripted(), Scripted()
    config = Doubling.model_validate(run(steps=10).config.model_dump())
    train(replace(run(steps=10), config=config), one)
    trained = replace(run(steps=10), path=run().path.parent / "other")
    trained.create()
    train(trained, two)
    assert torch.equal(torch.cat(one.batches), torch.cat(two.batches))


def unhealthy(step: int) -> dict[str, float]:
    """Fakes all alike from step 5 on, where it is the first time that those are reached."""
    return {"diversity": 0.0 if step > 4 else 1.0}


def events(run: Run) -> list[tuple[str, float]]:
    rows = map(json.loads, (run.path / "guard.jsonl").read_text().splitlines())
    return [(row["event"], row["kimg"]) for row in rows]


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_a_lasting_symptom_is_warned_of_once(run: Callable[..., Run], train: Train) -> None:
    told, made = Told(), run(steps=12, guard_patience_kimg=0.02)
    train(made, Scripted(unhealthy), progress=told)
    # seen at the ticks of 60, 80, 100 and 120 images
    assert events(made) == [("warning", 0.08)]
    assert told.said == [
        "at 0.08 kimg: fakes vary 0 times as much as reals, below 0.02: mode collapse"
    ]


def test_a_warning_is_not_repeated_by_a_resumed_run(run: Callable[..., Run], train: Train) -> None:
    for steps in (10, 14):
        made = run(steps=steps, guard_patience_kimg=0.02)
        train(made, Scripted(unhealthy))
    assert events(made) == [("warning", 0.08)]


def test_a_symptom_that_passes_is_none(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=12, guard_patience_kimg=0.03)
    train(made, Scripted(lambda step: {"diversity": 0.0 if step in (5, 6) else 1.0}))
    assert not (made.path / "guard.jsonl").exists()


def test_the_guard_can_be_off(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=12, guard="off", guard_patience_kimg=0)
    train(made, Scripted(unhealthy))
    assert not (made.path / "guard.jsonl").exists()


def test_the_guard_can_stop_a_run(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=12, guard="stop", guard_patience_kimg=0)
    with pytest.raises(TrainingUnhealthy, match="at step 6: fakes vary 0 times as much"):
        train(made, Scripted(unhealthy))
    assert events(made) == [("stop", 0.06)]


def test_a_symptom_counts_after_half_of_a_short_run(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=12, guard_patience_kimg=5.0)
    train(made, Scripted(unhealthy))
    assert events(made) == [("warning", 0.12)]


def test_a_configuration_that_was_edited_is_not_resumed(
    run: Callable[..., Run], train: Train
) -> None:
    train(run(steps=4))
    with pytest.raises(ConfigError, match=r"says tick_kimg 0.03, and .* was trained with 0.02"):
        train(run(steps=8, tick_kimg=0.03))


def test_what_may_change_on_resume_may(run: Callable[..., Run], train: Train) -> None:
    train(run(steps=4))
    assert train(run(steps=8, keep_checkpoints=7, guard="off")).name == "000000.080"


class Once:
    """Statistics that are bad at some steps, the first time they are reached."""

    def __init__(self, name: str, value: float, steps: set[int]) -> None:
        self.name, self.value, self.left = name, value, steps

    def __call__(self, step: int) -> dict[str, float]:
        bad = step in self.left
        self.left.discard(step)
        return {self.name: self.value if bad else 1.0}


ROLLBACK = {"guard": "rollback", "guard_patience_kimg": 0.0, "checkpoint_kimg": 0.02}


@pytest.mark.parametrize(("name", "value"), [("loss/D", math.nan), ("diversity", 0.0)])
def test_a_run_goes_back_to_the_last_healthy_checkpoint_and_on(
    run: Callable[..., Run], train: Train, name: str, value: float
) -> None:
    made, trainer = run(steps=10, **ROLLBACK), Scripted(Once(name, value, {5, 6}))
    path = train(made, trainer)
    assert (path.name, trainer.steps) == ("000000.100", 10)
    assert [event for event, _ in events(made)] == ["rollback"]
    assert len(trainer.batches) == 12  # steps 5 and 6 came twice


def test_what_was_rolled_back_is_purged_from_tensorboard(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=10, **ROLLBACK)
    train(made, Scripted(Once("diversity", 0.0, {5, 6})))
    board = EventAccumulator(str(made.path)).Reload()
    assert [event.step for event in board.Scalars("diversity")] == [20, 40, 60, 80, 100]
    assert [event.value for event in board.Scalars("diversity")] == [1.0] * 5


def test_the_noise_is_another_after_a_rollback(run: Callable[..., Run], train: Train) -> None:
    drawn: list[float] = []

    class Noisy(Scripted):
        def step(self, batch: Batch) -> dict[str, Tensor]:
            drawn.append(torch.rand(()).item())
            return super().step(batch)

    train(run(steps=8, **ROLLBACK), Noisy(Once("diversity", 0.0, {5, 6})))
    assert len(set(drawn)) == len(drawn) == 10


def test_checkpoints_saved_while_a_symptom_lasted_are_not_healthy(
    run: Callable[..., Run], train: Train
) -> None:
    settings = {**ROLLBACK, "guard_patience_kimg": 0.04, "keep_checkpoints": 9}
    made = run(steps=12, **settings)
    trainer = Scripted(Once("diversity", 0.0, {5, 6, 7, 8, 9, 10}))
    train(made, trainer)
    # seen first at 60 images, acted on at 100: back to 40
    assert len(trainer.batches) == 10 + 12 - 4


def test_a_run_that_keeps_failing_is_given_up(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=10, **ROLLBACK, guard_rollbacks=2)
    with pytest.raises(TrainingUnhealthy) as caught:
        train(made, Scripted(unhealthy))
    assert caught.value.__notes__ == ["rolled back 2 times already (guard_rollbacks)"]
    assert [event for event, _ in events(made)] == ["rollback", "rollback", "stop"]


def test_rollbacks_are_counted_through_a_resume(run: Callable[..., Run], train: Train) -> None:
    settings = {**ROLLBACK, "guard_rollbacks": 1}
    train(run(steps=8, **settings), Scripted(Once("diversity", 0.0, {5, 6})))
    with pytest.raises(TrainingUnhealthy):
        train(run(steps=12, **settings), Scripted(Once("diversity", 0.0, {9, 10})))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
    run: Callable[..., Run], train: Train
) -> None:
    with pytest.raises(TrainingDiverged, match="loss/D became nan at step 1"):
        train(run(guard="rollback"), Scripted(Once("loss/D", math.nan, {1})))


def test_a_rolled_back_run_that_is_resumed_is_the_uninterrupted_one(
    run: Callable[..., Run], train: Train
) -> None:
    def bad(step: int) -> dict[str, float]:
        return {"diversity": 0.0 if step in (5, 6) and len(seen) < 7 else 1.0}

    seen: list[Tensor] = []
    trainer = Scripted(bad)
    trainer.batches = seen
    whole = checkpoint.load(train(run(steps=10, **ROLLBACK), trainer))
    shutil.rmtree(run().path)
    seen.clear()
    for steps in (8, 10):
        again = Scripted(bad)
        again.batches = seen
        path = train(run(steps=steps, **ROLLBACK), again)
    state = checkpoint.load(path)
    assert torch.equal(state["rng"][0]["torch"], whole["rng"][0]["torch"])
    assert state["guard"] == whole["guard"]


def test_the_speed_after_a_rollback_is_measured_from_there(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=10, **ROLLBACK)
    train(made, Scripted(Once("diversity", 0.0, {5, 6})))
    assert min(row["img_per_s"] for row in made.rows()) > 0


def test_the_checkpoint_from_before_a_symptom_is_kept_while_it_lasts(
    run: Callable[..., Run], train: Train
) -> None:
    settings = {**ROLLBACK, "guard_patience_kimg": 0.06, "keep_checkpoints": 1}
    trainer = Scripted(Once("diversity", 0.0, set(range(5, 13))))
    # seen first at 60 images, acted on at 120, when those of 60 to 100 have been saved
    train(run(steps=14, **settings), trainer)
    assert trainer.steps == 14


def test_float16s_skipped_steps_do_not_hide_that_all_are(
    run: Callable[..., Run], accelerator: Accelerator
) -> None:
    class Half:
        """An accelerator in float16, which a CPU has not."""

        mixed_precision = "fp16"

        def __getattr__(self, name: str) -> Any:
            return getattr(accelerator, name)

    made = run(steps=4, guard="stop", guard_patience_kimg=0, tick_kimg=0.02)
    norms = {1: math.inf, 2: 1.0, 3: math.nan, 4: math.nan}
    with pytest.raises(TrainingUnhealthy, match="at step 4: D's gradient norm is inf"):
        fit(
            Scripted(lambda step: {"gradient_norm/D": norms[step]}),
            images(),
            made,
            Half(),
            plugins=Plugins([]),
        )
    assert [row["gradient_norm/D"] for row in made.rows()] == [1.0, math.inf]


class Scored(Silent):
    def __init__(self) -> None:
        self.scores: list[tuple[float, dict[str, float]]] = []

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        self.scores.append((kimg, dict(scores)))


def level(served: ServedGenerator) -> dict[str, float]:
    """A score that says which weights were measured."""
    return {"fid": served.network.get_parameter("level").item()}


def test_what_would_be_served_is_scored_in_time(run: Callable[..., Run], train: Train) -> None:
    told, made = Scored(), run(steps=7, score_kimg=0.03)
    train(made, scorer=level, progress=told)
    # after the third, the sixth and the last step
    assert told.scores == [(0.03, {"fid": 3.0}), (0.06, {"fid": 6.0}), (0.07, {"fid": 7.0})]
    rows = [json.loads(line) for line in made.scores.read_text().splitlines()]
    assert rows == [{"kimg": kimg, **scores} for kimg, scores in told.scores]


def test_scores_go_to_tensorboard(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=6, score_kimg=0.03)
    train(made, scorer=level)
    board = EventAccumulator(str(made.path)).Reload()
    assert [(e.step, e.value) for e in board.Scalars("score/fid")] == [(30, 3.0), (60, 6.0)]


def test_without_a_scorer_nothing_is_scored(run: Callable[..., Run], train: Train) -> None:
    made = run(steps=6, score_kimg=0.03)
    train(made)
    assert not made.scores.exists()


def test_a_resumed_run_scores_again_what_it_lives_through_again(
    run: Callable[..., Run], train: Train
) -> None:
    made = run(steps=6, score_kimg=0.02, checkpoint_kimg=0.03)
    train(made, scorer=level)
    shutil.rmtree(made.checkpoints / "000000.060")
    train(run(steps=6, score_kimg=0.02, checkpoint_kimg=0.03), scorer=level)
    assert [json.loads(line)["kimg"] for line in made.scores.read_text().splitlines()] == [
        0.02,
        0.04,
        0.06,
    ]


def test_the_network_trains_on_after_a_score(run: Callable[..., Run], train: Train) -> None:
    trainer = Scripted()
    trainer.network.train()
    seen: list[bool] = []

    def scorer(served: ServedGenerator) -> dict[str, float]:
        seen.append(served.network.training)
        return {"fid": 1.0}

    train(run(steps=4, score_kimg=0.02), trainer, scorer=scorer)
    assert (seen, trainer.network.training) == ([False, False], True)
