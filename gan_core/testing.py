"""The conformance kit: what every variant must fulfil, as ``check_estimator`` is for estimators.

``check_variant(variant)`` in a test, ``ganforge check NAME`` on the command line, or the
``ganforge_check`` fixture of the pytest plugin.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import checkpoint
from .card import DataSource, ModelCard
from .data import Batch, Images, fingerprint
from .errors import GanforgeError
from .export import export
from .latents import draw, seed_range
from .loop import fit
from .plugins import Plugins
from .randomness import seed_everything
from .run import Run

if TYPE_CHECKING:
    from .trainer import Trainer
    from .variant import PaperCheck, TrainConfig, Variant

__all__ = [
    "Check",
    "CheckResult",
    "built",
    "check_variant",
    "checks",
    "exported",
    "noise_images",
    "run_checks",
    "tiny_config",
]


RESUMED_STEPS = 12
"""Steps of the run whose every checkpoint is gone on from."""


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement; ``run`` raises where the variant doesn't meet it."""

    name: str
    run: Callable[[Variant], None]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of a check; ``error`` is None where it passed."""

    name: str
    error: str | None


def checks(variant: Variant, plugins: Plugins | None = None) -> list[Check]:
    """Every check that applies to a variant: the kit's, other plugins', and its own paper's."""
    paper = [
        Check(f"paper: {one.claim}", partial(_paper_check, check=one))
        for one in variant.paper_checks
    ]
    users = (plugins or Plugins()).implementations("ganforge_check_export")
    used = [
        Check(f"{name} takes what is exported", partial(_used, check=check))
        for name, check in users.items()
    ]
    return [Check(one.name, partial(_on_cpu, run=one.run)) for one in (*_KIT, *used, *paper)]


def check_variant(variant: Variant, plugins: Plugins | None = None) -> list[CheckResult]:
    """Run every check and return what came of each.

    Raises:
        AssertionError: one or more failed; the message lists them all.
    """
    results = list(run_checks(variant, checks(variant, plugins)))
    failed = [f"{result.name}: {result.error}" for result in results if result.error]
    if failed:
        raise AssertionError(f"{variant.name} fails {len(failed)} checks:\n" + "\n".join(failed))
    return results


def run_checks(variant: Variant, chosen: Iterable[Check]) -> Iterable[CheckResult]:
    """Run checks one by one; an exception in one is its result."""
    for check in chosen:
        try:
            check.run(variant)
        except Exception as error:  # noqa: BLE001 the plugin's code: anything may come
            text = str(error).strip() if isinstance(error, GanforgeError | AssertionError) else ""
            yield CheckResult(check.name, text or f"{type(error).__name__}: {error}")
        else:
            yield CheckResult(check.name, None)


def tiny_config(variant: Variant, **settings: Any) -> TrainConfig:
    """The variant's configuration with its ``tiny`` overrides: seconds, not hours."""
    defaults = {"resolution_px": 16, "channels": 3, "classes": ("a", "b", "c"), "batch_size": 4}
    return variant.config.model_validate({**defaults, **variant.tiny, **settings})


def noise_images(config: TrainConfig, n: int = 64) -> Images:
    """Random images of the configured shape, for tests that need data and no meaning."""
    rng = np.random.default_rng(0)
    shape = (n, config.channels, config.resolution_px, config.resolution_px)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(n) % max(len(config.classes), 1)
    source = DataSource(name="noise", fingerprint=fingerprint(pixels, labels))
    return Images(pixels, source, labels, config.classes)


def built(variant: Variant, config: TrainConfig) -> Trainer:
    """A trainer with the config's seed, where this process trains: in a check, on the CPU."""
    from accelerate import Accelerator

    seed_everything(config.seed)
    return variant.build(config, Accelerator())


def exported(variant: Variant, directory: Path, model: str = "checked") -> tuple[ModelCard, Path]:
    """A freshly initialised generator, exported; returns its card and graph."""
    config = tiny_config(variant)
    served = variant.served(built(variant, config).generator(), config)
    source = noise_images(config).source
    card = export(
        served, directory, model=model, variant=variant.name, data=source, trained_kimg=0.0
    )
    return card, directory / "model.onnx"


def _on_cpu(variant: Variant, run: Callable[[Variant], None]) -> None:
    """Run a check on the CPU, where results repeat bit for bit, wherever this process trains."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # accelerate keeps one device per process, in these, and refuses another
    kinds = (PartialState, AcceleratorState, GradientState)
    states = [kind._shared_state for kind in kinds]  # noqa: SLF001 (there is no other way)
    kept = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        Accelerator(cpu=True)
        run(variant)
    finally:
        for state, before in zip(states, kept, strict=True):
            state.clear()
            state.update(before)


def _batch(config: TrainConfig) -> Batch:
    images = noise_images(config, config.batch_size)
    return images.batch(np.arange(config.batch_size)).to(torch.device("cpu"))


def _trains(variant: Variant) -> None:
    config = tiny_config(variant)
    trainer = built(variant, config)
    before = {k: v.clone() for k, v in checkpoint.tensors(trainer.state()).items()}
    for _ in range(2):
        for name, value in trainer.step(_batch(config)).items():
            assert value.ndim == 0, f"statistic {name} has shape {tuple(value.shape)}, not 0-dim"
            assert not value.requires_grad, f"statistic {name} is not detached"
            assert torch.isfinite(value), f"statistic {name} is {value.item()}"
    after = checkpoint.tensors(trainer.state())
    for side in ("G", "D"):
        mine = [k for k in before if k.startswith(f"{side}/")]
        if mine:
            assert any(not torch.equal(before[k], after[k]) for k in mine), f"{side} didn't change"
    assert any(not torch.equal(before[k], after[k]) for k in before), "nothing changed"
    for name, tensor in after.items():
        assert torch.isfinite(tensor.float()).all(), f"{name} is not finite after two steps"


def _images_in_range(variant: Variant) -> None:
    config = tiny_config(variant)
    generator = built(variant, config).generator().eval()
    served = variant.served(generator, config)
    values = draw(served.inputs, seed_range(0, 3)).values()
    with torch.no_grad():
        pixels = served(*map(torch.from_numpy, values))
    side = config.resolution_px
    expected = (3, side * served.scale, side * served.scale, config.channels)
    assert tuple(pixels.shape) == expected, f"image is {tuple(pixels.shape)}, not {expected}"
    wanted = torch.uint8 if served.bit_depth == 8 else torch.uint16
    assert pixels.dtype == wanted, f"image is {pixels.dtype}, not {wanted}"


def _state_round_trip(variant: Variant) -> None:
    config = tiny_config(variant)
    trainer, other = built(variant, config), built(variant, tiny_config(variant, seed=1))
    trainer.step(_batch(config))
    with tempfile.TemporaryDirectory() as folder:
        saved = checkpoint.load(checkpoint.save(Path(folder), "1", trainer.state()))
    other.load(saved)
    _assert_equal(checkpoint.tensors(trainer.state()), checkpoint.tensors(other.state()))


def _resume_is_exact(variant: Variant) -> None:
    """By induction: going on from each checkpoint gives the next, in every phase of a schedule."""
    from accelerate import Accelerator

    with tempfile.TemporaryDirectory() as folder:
        whole = _short_run(variant, Path(folder) / "whole")
        images = noise_images(whole.config)
        whole.create()
        fit(built(variant, whole.config), images, whole, Accelerator(), plugins=Plugins([]))
        saved = sorted(whole.checkpoints.iterdir())
        assert len(saved) == RESUMED_STEPS, f"{len(saved)} checkpoints of {RESUMED_STEPS} steps"
        for before, after in pairwise(saved):
            part = _short_run(variant, Path(folder) / before.name)
            shutil.copytree(before, part.checkpoints / before.name)
            seed_everything(1)  # whatever the process did before must not matter
            trainer = variant.build(part.config, Accelerator())
            with suppress(_Killed):
                fit(trainer, _OneBatch(images), part, Accelerator(), plugins=Plugins([]))
            ours = checkpoint.load(part.latest_checkpoint())
            theirs = checkpoint.load(after)
            try:
                _assert_equal(checkpoint.tensors(ours), checkpoint.tensors(theirs))
            except AssertionError as error:
                raise AssertionError(f"from {before.name} to {after.name} kimg: {error}") from None


def _short_run(variant: Variant, path: Path) -> Run:
    """A run of a few steps with a checkpoint after each; its schedules end with it."""
    config = tiny_config(variant)
    images, kimg = noise_images(config), 0.0
    for _ in range(RESUMED_STEPS):
        kimg += config.batch_size_at(kimg) / 1000
    settings = {"kimg": kimg, "checkpoint_kimg": 0.001, "keep_checkpoints": RESUMED_STEPS}
    config = tiny_config(variant, **settings, sample_kimg=kimg)
    return Run(path, variant, "noise", images.source, config)


class _Killed(Exception):  # noqa: N818 (it stands for a signal)
    pass


class _OneBatch:
    """A training set that lets a run take one step, and ends it as if it were killed."""

    def __init__(self, images: Images) -> None:
        self.images, self.source, self.classes = images, images.source, images.classes
        self.left = 1

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        for batch in self.images.batches(
            batch_size, seed=seed, start=start, rank=rank, world=world
        ):
            if not self.left:
                raise _Killed
            self.left -= 1
            yield batch


def _exports(variant: Variant) -> None:
    with tempfile.TemporaryDirectory() as folder:
        card, _ = exported(variant, Path(folder))
        assert ModelCard.model_validate_json(card.model_dump_json()) == card


def _used(variant: Variant, check: Callable[..., None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        card, graph = exported(variant, Path(folder))
        check(card=card, directory=graph.parent)


def _seed_decides(variant: Variant) -> None:
    config = tiny_config(variant)
    served = variant.served(built(variant, config).generator().eval(), config)

    def images(seed: int, n: int) -> np.ndarray[Any, Any]:
        values = draw(served.inputs, seed_range(seed, n)).values()
        with torch.no_grad():
            pixels: np.ndarray[Any, Any] = served(*map(torch.from_numpy, values)).numpy()
        return pixels.astype(int)

    together = images(5, 3)
    alone = np.concatenate([images(5 + i, 1) for i in range(3)])
    assert np.abs(together - alone).max() <= 1, "an image depends on who shares its batch"


def _config_has_units(variant: Variant) -> None:
    bare = [name for name, f in variant.config.model_fields.items() if not f.description]
    assert not bare, f"config fields without a docstring: {', '.join(bare)}"


def _paper_check(variant: Variant, check: PaperCheck) -> None:
    config = tiny_config(variant)
    assert check.test(built(variant, config)), f"not so: {check.claim}"


_KIT = (
    Check("every config field says what it is", _config_has_units),
    Check("both networks change in two steps, all finite", _trains),
    Check("images are NHWC of the configured size and depth", _images_in_range),
    Check("state survives a checkpoint", _state_round_trip),
    Check("resumed after any step, it goes on bit for bit the same", _resume_is_exact),
    Check("the same seed gives the same image in any batch", _seed_decides),
    Check("exports to ONNX with parity and no random op; card is valid", _exports),
)


def _assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys(), f"tensors differ: {ours.keys() ^ theirs.keys()}"
    different = [k for k in ours if not torch.equal(ours[k], theirs[k])]
    assert not different, f"{len(different)} tensors differ, first {different[0]}"
