"""The conformance kit: every installed variant passes, and each check catches what it is for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gan_core import PaperCheck
from gan_core.data import Batch
from gan_core.export import ServedGenerator
from gan_core.plugins import Plugins
from gan_core.testing import (
    Check,
    check_variant,
    checks,
    exported,
    noise_images,
    run_checks,
    tiny_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gan_core.trainer import Trainer
    from gan_core.variant import Variant

TRAINS = "both networks change in two steps, all finite"
IMAGES = "images are NHWC of the configured size and depth"
STATE = "state survives a checkpoint"
RESUME = "resumed after any step, it goes on bit for bit the same"
SEED = "the same seed gives the same image in any batch"
EXPORT = "exports to ONNX with parity and no random op; card is valid"
CONFIG = "every config field says what it is"


def test_an_installed_variant_conforms(ganforge_check: Callable[[], None]) -> None:
    ganforge_check()


class Changed:
    """A trainer that does as another one does, unless a subclass says otherwise."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def step(self, batch: Batch) -> dict[str, Tensor]:
        stats: dict[str, Tensor] = self.trainer.step(batch)
        return stats

    def generator(self) -> nn.Module:
        network: nn.Module = self.trainer.generator()
        return network

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.trainer.state()
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        self.trainer.load(state)


class LearnsNothing(Changed):
    def step(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss/D": torch.zeros(())}


class LearnsWithD(Changed):
    """G stays as it is."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        before = {k: v.clone() for k, v in self.trainer.raw_G.state_dict().items()}
        stats = super().step(batch)
        self.trainer.raw_G.load_state_dict(before)
        return stats


class PerSampleStatistic(Changed):
    def step(self, batch: Batch) -> dict[str, Tensor]:
        return super().step(batch) | {"loss/x": torch.zeros(len(batch.real))}


class AttachedStatistic(Changed):
    def step(self, batch: Batch) -> dict[str, Tensor]:
        return super().step(batch) | {"loss/x": torch.zeros((), requires_grad=True)}


class NaNStatistic(Changed):
    def step(self, batch: Batch) -> dict[str, Tensor]:
        return super().step(batch) | {"loss/x": torch.tensor(float("nan"))}


class InfiniteInTheEnd(Changed):
    """Its second step is the one that goes wrong, after its loss was computed."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        stats = super().step(batch)
        if self.trainer.d_steps == 2:
            with torch.no_grad():
                next(self.trainer.raw_D.parameters()).fill_(float("inf"))
        return stats


class ForgetsOnLoad(Changed):
    """Takes over the networks and leaves the optimisers as they are."""

    def load(self, state: Mapping[str, Any]) -> None:
        self.trainer.raw_G.load_state_dict(state["G"])
        self.trainer.raw_D.load_state_dict(state["D"])


class SavesNoOptimiser(Changed):
    """What it saves it restores; what it doesn't save is lost."""

    def state(self) -> dict[str, Any]:
        return {key: super(SavesNoOptimiser, self).state()[key] for key in ("G", "D")}

    def load(self, state: Mapping[str, Any]) -> None:
        self.trainer.raw_G.load_state_dict(state["G"])
        self.trainer.raw_D.load_state_dict(state["D"])


class DrawsElsewhere(Changed):
    """Uses a generator of random numbers that no checkpoint knows of."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self.random = torch.Generator().manual_seed(0)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        noise = torch.randn(batch.real.shape, generator=self.random)
        return super().step(Batch(batch.real + noise, batch.label))


class DriftsLate(Changed):
    """Keeps something to itself, which matters from the ninth step on."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self.drift = 0.0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        self.drift += 0.1 * (self.trainer.d_steps >= 8)
        return super().step(Batch(batch.real + self.drift, batch.label))


class Pickled(Changed):
    def state(self) -> dict[str, Any]:
        return super().state() | {"more": object()}


class Adapted(nn.Module):
    """A generator that changes its z first."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.change = change

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.network(self.change(z))
        return images


def with_z(variant: Variant, change: Callable[[Tensor], Tensor]) -> Variant:
    def served(generator: nn.Module, config: Any) -> ServedGenerator:
        plain = variant.served(generator, config)
        return ServedGenerator(Adapted(plain.network, change), plain.inputs)

    return replace(variant, served=served)


def trained_by(change: Callable[[Any], Trainer]) -> Callable[[Variant], Variant]:
    def changed(variant: Variant) -> Variant:
        return replace(variant, build=lambda *given: change(variant.build(*given)))

    return changed


def wrong_scale(variant: Variant) -> Variant:
    def served(generator: nn.Module, config: Any) -> ServedGenerator:
        plain = variant.served(generator, config)
        return ServedGenerator(plain.network, plain.inputs, scale=2)

    return replace(variant, served=served)


class Floating(ServedGenerator):
    """Leaves the scaling to whoever asks."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return super().forward(*tensors).float() / 255


def floating(variant: Variant) -> Variant:
    def served(generator: nn.Module, config: Any) -> ServedGenerator:
        plain = variant.served(generator, config)
        return Floating(plain.network, plain.inputs)

    return replace(variant, served=served)


def undocumented(variant: Variant) -> Variant:
    class Config(variant.config):  # type: ignore[misc, name-defined] # of any variant
        extra: int = 1

    return replace(variant, config=Config)


COUNTER = itertools.count()
MUTATIONS: list[tuple[str, Callable[[Variant], Variant], str]] = [
    (CONFIG, undocumented, "config fields without a docstring: extra"),
    (TRAINS, trained_by(LearnsNothing), "G didn't change"),
    (TRAINS, trained_by(LearnsWithD), "G didn't change"),
    (TRAINS, trained_by(PerSampleStatistic), "statistic loss/x has shape (32,), not 0-dim"),
    (TRAINS, trained_by(AttachedStatistic), "statistic loss/x is not detached"),
    (TRAINS, trained_by(NaNStatistic), "statistic loss/x is nan"),
    (TRAINS, trained_by(InfiniteInTheEnd), "is not finite after two steps"),
    (IMAGES, wrong_scale, "image is (3, 8, 8, 3), not (3, 16, 16, 3)"),
    (IMAGES, floating, "image is torch.float32, not torch.uint8"),
    (STATE, trained_by(ForgetsOnLoad), "tensors differ"),
    (STATE, trained_by(Pickled), "state holds a object at '/more'"),
    (RESUME, trained_by(SavesNoOptimiser), "tensors differ"),
    (RESUME, trained_by(DrawsElsewhere), "tensors differ"),
    (RESUME, trained_by(DriftsLate), "from 000000.288 to 000000.320 kimg: "),
    (SEED, lambda v: with_z(v, lambda z: z - z.mean(0)), "depends on who shares its batch"),
    (SEED, lambda v: with_z(v, lambda z: z + next(COUNTER)), "depends on who shares its batch"),
    (EXPORT, lambda v: with_z(v, lambda z: z + torch.randn_like(z)), "draws random numbers"),
    (
        EXPORT,
        lambda v: with_z(v, lambda z: z if z.sum().item() > 0 else -z),
        "can't export to ONNX",
    ),
]


def named(variant: Variant, name: str) -> Check:
    (check,) = [check for check in checks(variant, Plugins([])) if check.name == name]
    return check


@pytest.mark.parametrize(
    ("name", "broken", "message"), MUTATIONS, ids=[f"{m[0][:14]}-{m[2][:20]}" for m in MUTATIONS]
)
def test_a_check_fails_for_what_it_is_for(
    vanilla: Variant, name: str, broken: Callable[[Variant], Variant], message: str
) -> None:
    variant = replace(vanilla, tiny={**vanilla.tiny, "batch_size": 32})
    (result,) = run_checks(broken(variant), [named(variant, name)])
    assert message in (result.error or "")


def test_a_run_whose_batch_grows_is_resumed_after_each_of_its_steps(vanilla: Variant) -> None:
    class Growing(vanilla.config):  # type: ignore[misc, name-defined] # of any variant
        def batch_size_at(self, kimg: float) -> int:
            return 4 if kimg < 0.012 else 8

    (result,) = run_checks(replace(vanilla, config=Growing), [named(vanilla, RESUME)])
    assert result.error is None


def test_every_check_of_the_kit_is_broken_above(vanilla: Variant) -> None:
    kit = {check.name for check in checks(replace(vanilla, paper_checks=()), Plugins([]))}
    assert kit == {name for name, _, _ in MUTATIONS}


def test_a_paper_check_that_does_not_hold_fails_by_its_claim(vanilla: Variant) -> None:
    claim = PaperCheck("D is a transformer", lambda trainer: False)
    variant = replace(vanilla, paper_checks=(claim,))
    (result,) = run_checks(variant, [named(variant, "paper: D is a transformer")])
    assert (result.error or "").startswith("not so: D is a transformer")


def test_an_exception_in_a_check_is_its_result(vanilla: Variant) -> None:
    def explode(variant: Variant) -> None:
        raise KeyError("width")

    (result,) = run_checks(vanilla, [Check("explodes", explode)])
    assert result.error == "KeyError: 'width'"


def test_a_variant_that_fails_is_told_all_at_once(vanilla: Variant) -> None:
    wrong = tuple(PaperCheck(claim, lambda trainer: False) for claim in ("one", "two"))
    with pytest.raises(AssertionError, match=r"(?s)vanilla fails 2 checks:.*one.*two"):
        check_variant(replace(vanilla, paper_checks=wrong), Plugins([]))


def test_a_variant_that_conforms_returns_every_result(vanilla: Variant) -> None:
    plugins = Plugins([])
    results = check_variant(vanilla, plugins)
    assert [result.name for result in results] == [c.name for c in checks(vanilla, plugins)]


def test_a_tiny_configuration_can_be_changed(vanilla: Variant) -> None:
    assert tiny_config(vanilla, resolution_px=16).resolution_px == 16


def test_noise_has_the_shape_and_classes_of_the_configuration(vanilla: Variant) -> None:
    images = noise_images(tiny_config(vanilla), 6)
    assert images.labels is not None
    assert (images.pixels.shape, images.labels.tolist()) == ((6, 3, 8, 8), [0, 1, 2] * 2)


def test_a_check_runs_on_the_cpu_whatever_this_process_trains_on(vanilla: Variant) -> None:
    # as on a machine with a GPU, where the process has chosen it already
    from accelerate import Accelerator
    from accelerate.state import PartialState

    accelerator = Accelerator()
    before = PartialState().device
    accelerator.state.device = PartialState().device = torch.device("meta")
    try:
        (result,) = run_checks(vanilla, [named(vanilla, TRAINS)])
        after = Accelerator().device
    finally:
        accelerator.state.device = PartialState().device = before
    assert (result.error, after) == (None, torch.device("meta"))


def test_an_exported_variant_is_named_as_asked(vanilla: Variant, tmp_path: Any) -> None:
    card, graph = exported(vanilla, tmp_path, model="toy")
    assert (card.model, card.variant, graph.is_file()) == ("toy", "vanilla", True)
