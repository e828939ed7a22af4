"""The adversarial step: who learns when, from what, and what is left of it in ``state()``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.losses import AdversarialLoss, NonSaturating, Wasserstein
from gan_core.penalties import Penalty, PenaltyInputs
from gan_core.stabilisers import EMA, Stabiliser
from gan_core.trainer import AdversarialStep, Player, sample_prior

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = torch.tanh(self.layer(z)).unflatten(1, (1, 2, 2))
        return images


class Discriminator(nn.Module):
    """Notes every batch it is shown, and whether its own weights would learn from it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append((images, self.layer.weight.requires_grad))
        logits: Tensor = self.layer(images.flatten(1)).flatten()
        return logits


class Relativistic:
    """G compares with the reals' logits; notes what it was given."""

    needs_real = True

    def __init__(self) -> None:
        self.given: list[Tensor | None] = []

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return nn.functional.softplus(fake_logits - real_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        self.given.append(real_logits)
        assert real_logits is not None
        return nn.functional.softplus(real_logits - fake_logits)


def step_of(
    accelerator: Accelerator,
    *,
    loss: AdversarialLoss | None = None,
    lr: float = 0.1,
    penalties: Sequence[Penalty] = (),
    stabilisers: Sequence[Stabiliser] = (),
    ema: bool = False,
    n_critic: Callable[[int], int] = lambda g_steps: 1,
    D: Discriminator | None = None,
) -> AdversarialStep:
    G, D = Generator(), D or Discriminator()
    return AdversarialStep(
        Player(G, torch.optim.Adam(G.parameters(), lr)),
        Player(D, torch.optim.Adam(D.parameters(), lr)),
        loss=loss or NonSaturating(),
        latent=LatentInput(dim=3),
        accelerator=accelerator,
        penalties=penalties,
        stabilisers=stabilisers,
        ema=EMA(G, 1.0) if ema else None,
        n_critic=n_critic,
    )


def batch(n: int = 4) -> Batch:
    return Batch(torch.linspace(-1, 1, n * 4).reshape(n, 1, 2, 2))


def seen(trainer: AdversarialStep) -> list[tuple[Tensor, bool]]:
    found: list[tuple[Tensor, bool]] = trainer.raw_D.seen  # type: ignore[assignment] # the fake's
    return found


def gradient(trainer: AdversarialStep) -> Tensor:
    """What D's weight was left with."""
    found = next(trainer.raw_D.parameters()).grad
    assert found is not None
    return found


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def test_real_and_fake_go_through_the_discriminator_separately(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    (real, _), (fake, _), _ = seen(trainer)
    assert (torch.equal(real, batch().real), fake.shape) == (True, real.shape)


def test_fakes_are_detached_in_the_discriminator_step(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    assert [images.requires_grad for images, _ in seen(trainer)] == [False, False, True]


def test_the_discriminator_is_frozen_in_the_generator_step_alone(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    trainer.step(batch())
    assert [learns for _, learns in seen(trainer)] == [True, True, False] * 2


def test_the_generator_step_leaves_no_gradient_on_the_discriminator(
    accelerator: Accelerator,
) -> None:
    trainer = step_of(accelerator, lr=0.0, loss=Wasserstein())
    trainer.step(batch())
    # lr 0: what D's own step left, ∂/∂w (D(fake) − D(real)), is all that may be there
    (real, _), (fake, _), _ = seen(trainer)
    expected = (fake.flatten(1).mean(0) - real.flatten(1).mean(0)).detach()
    torch.testing.assert_close(gradient(trainer), expected[None])


def test_a_step_searches_for_no_package(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # accelerate's optimiser does, four times a step of both networks, for 1.2 ms in all
    trainer = step_of(accelerator)
    searched: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", searched.append)
    trainer.step(batch())
    assert searched == []


def test_each_step_draws_fresh_z(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, lr=0.0)
    trainer.step(batch())
    _, (in_D, _), (in_G, _) = seen(trainer)
    assert not torch.equal(in_D, in_G)


@pytest.mark.parametrize("side", ["raw_G", "raw_D"])
def test_one_step_changes(accelerator: Accelerator, side: str) -> None:
    trainer = step_of(accelerator)
    before = weights(getattr(trainer, side))
    trainer.step(batch())
    assert not torch.equal(before, weights(getattr(trainer, side)))


def test_the_generator_learns_on_every_nth_step(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, n_critic=lambda g_steps: 3)
    assert ["loss/G" in trainer.step(batch()) for _ in range(7)] == [
        *(False, False, True),
        *(False, False, True),
        False,
    ]


def test_n_critic_follows_the_generator_steps_done(accelerator: Accelerator) -> None:
    # as WGAN does: more critic steps while the game is young
    trainer = step_of(accelerator, n_critic=lambda g_steps: 3 if g_steps < 1 else 1)
    assert ["loss/G" in trainer.step(batch()) for _ in range(5)] == [
        *(False, False, True),
        *(True, True),
    ]


def test_a_loss_that_needs_reals_gets_their_logits(accelerator: Accelerator) -> None:
    loss = Relativistic()
    trainer = step_of(accelerator, loss=loss)
    trainer.step(batch())
    real_in_G_step, _ = seen(trainer)[3]
    assert (loss.given[0] is not None, torch.equal(real_in_G_step, batch().real)) == (True, True)


def test_a_loss_that_needs_no_reals_costs_no_pass_for_them(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    assert len(seen(trainer)) == 3


def constant(value: float, interval: int, calls: list[int]) -> Penalty:
    """A penalty that is ``value`` times D's weights summed: its gradient is known."""

    def term(inputs: PenaltyInputs) -> Tensor:
        calls.append(1)
        (logits,) = inputs.discriminator(torch.ones(1, 1, 2, 2), None)
        terms: Tensor = (value * logits).expand(len(inputs.real))
        return terms

    return Penalty("constant", 1.0, term, interval)


def test_a_lazy_penalty_is_evaluated_every_interval_steps(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, penalties=[constant(1.0, 3, [])])
    due = ["penalty/constant" in trainer.step(batch()) for _ in range(7)]
    assert due == [True, False, False, True, False, False, True]


def test_a_lazy_penalty_is_scaled_by_its_interval(accelerator: Accelerator) -> None:
    gradients = []
    for interval in (1, 4):
        torch.manual_seed(0)
        trainer = step_of(accelerator, lr=0.0, loss=Zero(), penalties=[constant(1.0, interval, [])])
        trainer.step(batch())
        gradients.append(gradient(trainer))
    assert torch.equal(gradients[1], 4 * gradients[0])


class Zero:
    """Nobody learns anything from the loss itself."""

    needs_real = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * (real_logits + fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return 0 * fake_logits


def test_the_statistic_of_a_lazy_penalty_is_not_scaled(accelerator: Accelerator) -> None:
    values = []
    for interval in (1, 4):
        torch.manual_seed(0)
        trainer = step_of(accelerator, penalties=[constant(1.0, interval, [])])
        values.append(trainer.step(batch())["penalty/constant"].item())
    assert values[0] == values[1]


class Marks(Stabiliser):
    """Writes down the order in which it is called."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.images = 0

    def view(self, images: Tensor) -> Tensor:
        self.log.append("view")
        return images + 100

    def on_gradients(self, module: nn.Module) -> None:
        assert all(p.grad is not None for p in module.parameters())
        self.log.append(type(module).__name__)

    def after_update(self, module: nn.Module) -> None:
        self.log.append(f"{type(module).__name__} updated")

    def after_step(self, stats: Any, n: int) -> None:
        self.log.append("after")
        self.images += n


def test_stabilisers_are_called_in_the_order_of_a_step(accelerator: Accelerator) -> None:
    marks = Marks()
    step_of(accelerator, stabilisers=[marks]).step(batch())
    assert marks.log == [
        *("view", "view", "Discriminator", "Discriminator updated"),
        *("view", "Generator", "Generator updated"),
        "after",
    ]


class ClipWeights(Stabiliser):
    def after_update(self, module: nn.Module) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.clamp_(-0.01, 0.01)


def test_weights_clipped_after_an_update_are_those_the_generator_learns_from(
    accelerator: Accelerator,
) -> None:
    trainer = step_of(accelerator, loss=Wasserstein(), stabilisers=[ClipWeights()])
    stats = trainer.step(batch())
    # |D(x)| of four pixels within [-1, 1]: four weights and a bias of at most 0.01 each
    assert abs(stats["loss/G"].item()) <= 0.05


def test_what_an_author_froze_stays_frozen(accelerator: Accelerator) -> None:
    D = Discriminator()
    D.layer.bias.requires_grad = False
    trainer = step_of(accelerator, D=D)
    before = D.layer.bias.clone()
    for _ in range(2):
        trainer.step(batch())
    assert (D.layer.bias.requires_grad, torch.equal(D.layer.bias, before)) == (False, True)


def test_a_penalty_computes_in_float32_under_autocast(bf16_accelerator: Accelerator) -> None:
    dtypes: list[torch.dtype] = []

    def term(inputs: PenaltyInputs) -> Tensor:
        images = inputs.generator(inputs.z)
        logits = inputs.discriminator(images)
        dtypes.extend([images.dtype, logits.dtype])
        exact = torch.tanh(inputs.z @ trainer.raw_G.layer.weight.T + trainer.raw_G.layer.bias)  # type: ignore[operator, union-attr] # the fake's
        torch.testing.assert_close(images.flatten(1), exact)
        return logits

    trainer = step_of(bf16_accelerator, penalties=[Penalty("exact", 1.0, term)])
    trainer.step(batch())
    assert dtypes == [torch.float32] * 2


def test_all_that_the_discriminator_sees_is_viewed(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, stabilisers=[Marks()])
    trainer.step(batch())
    assert all(images.min() > 90 for images, _ in seen(trainer))


def test_stabilisers_are_told_of_the_images_of_a_step(accelerator: Accelerator) -> None:
    marks = Marks()
    step_of(accelerator, stabilisers=[marks]).step(batch(6))
    assert marks.images == 6


def test_statistics_are_scalars_without_a_graph(accelerator: Accelerator) -> None:
    stats = step_of(accelerator, penalties=[constant(1.0, 1, [])]).step(batch())
    assert {(v.ndim, v.requires_grad) for v in stats.values()} == {(0, False)}


def test_the_average_is_what_is_sampled_from_if_one_is_kept(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, ema=True)
    assert trainer.ema is not None
    assert trainer.generator() is trainer.ema.module


def test_the_network_itself_is_sampled_from_if_no_average_is_kept(
    accelerator: Accelerator,
) -> None:
    trainer = step_of(accelerator)
    assert trainer.generator() is trainer.raw_G


def test_a_loaded_trainer_goes_on_exactly_as_the_saved_one(accelerator: Accelerator) -> None:
    ours = step_of(accelerator, ema=True, n_critic=lambda g_steps: 2)
    for _ in range(3):  # in the middle of a critic round
        ours.step(batch())
    theirs = step_of(accelerator, ema=True, n_critic=lambda g_steps: 2)
    theirs.load(copy.deepcopy(ours.state()))  # live tensors, until they are saved
    ends = []
    for trainer in (ours, theirs):
        torch.manual_seed(1)
        for _ in range(3):
            trainer.step(batch())
        ends.append(torch.cat([weights(trainer.raw_G), weights(trainer.generator())]))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("distribution", "low", "high", "std"),
    [("uniform", -1.0, 1.0, 3**-0.5), ("normal", -6.0, 6.0, 1.0)],
)
def test_the_prior_is_the_one_that_is_served(
    distribution: str, low: float, high: float, std: float
) -> None:
    latent = LatentInput.model_validate({"dim": 10, "distribution": distribution})
    z = sample_prior(latent, 10_000, torch.device("cpu"))
    # 1e5 draws: six standard errors of the standard deviation are below 0.02
    assert (z.shape, bool(low <= z.min()), bool(z.max() <= high)) == ((10_000, 10), True, True)
    assert z.std().item() == pytest.approx(std, abs=0.02)
