"""The adversarial step: who learns when, from what, and what is left of it in ``state()``."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest
import torch
from accelerate.state import PartialState
from torch import Tensor, nn

from gan_core.card import LatentInput
from gan_core.data import Batch
from gan_core.losses import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Wasserstein,
)
from gan_core.penalties import Penalty, PenaltyInputs, r1
from gan_core.schedules import linear
from gan_core.stabilisers import EMA, ClipGradients, ClipWeights, InstanceNoise, Stabiliser
from gan_core.trainer import AdversarialStep, Opponent, Player, sample_prior

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator

    from gan_core.schedules import Schedule


class Generator(nn.Module):
    """Notes the labels it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.labels: list[Tensor | None] = []

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        self.labels.append(label)
        images: Tensor = torch.tanh(self.layer(z)).unflatten(1, (1, 2, 2))
        return images


class Shown(NamedTuple):
    """One batch that D saw, and whether its own weights would learn from it."""

    images: Tensor
    label: Tensor | None
    learns: bool


class Discriminator(nn.Module):
    """Notes every batch it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen: list[Shown] = []

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(Shown(images, label, self.layer.weight.requires_grad))
        logits: Tensor = self.layer(images.flatten(1)).flatten()
        return logits


class Comparing(Relativistic):
    """Notes what G was given of the reals."""

    given: ClassVar[list[Tensor | None]] = []

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        self.given.append(real_logits)
        return super().generator(fake_logits, real_logits)


def once(g_steps: int) -> int:
    return 1


def step_of(
    accelerator: Accelerator,
    *,
    loss: AdversarialLoss | None = None,
    lr: float = 0.1,
    penalties_D: Sequence[Penalty] = (),
    penalties_G: Sequence[Penalty] = (),
    stabilisers: Sequence[Stabiliser] = (),
    ema: bool = False,
    n_critic: Callable[[int], int] = once,
    n_generator: Callable[[int], int] = once,
    lr_factor_D: Schedule | None = None,
    beta2_D: Schedule | None = None,
    batch_size_G: int | None = None,
    opponent: Opponent | None = None,
    adversarial: float = 1.0,
    G: nn.Module | None = None,
    D: nn.Module | None = None,
) -> AdversarialStep:
    G, D = G or Generator(), D or Discriminator()
    player_G = Player(
        G,
        torch.optim.Adam(G.parameters(), lr),
        penalties=penalties_G,
        steps=n_generator,
        batch_size=batch_size_G,
    )
    player_D = Player(
        D,
        torch.optim.Adam(D.parameters(), lr),
        penalties=penalties_D,
        steps=n_critic,
        lr_factor=lr_factor_D,
        beta2=beta2_D,
    )
    return AdversarialStep(
        player_G,
        player_D,
        loss=loss or NonSaturating(),
        latent=LatentInput(dim=3),
        accelerator=accelerator,
        stabilisers=stabilisers,
        ema=EMA(G, 1.0) if ema else None,
        opponent=opponent,
        adversarial=adversarial,
    )


def batch(n: int = 4, label: list[int] | None = None) -> Batch:
    labels = None if label is None else torch.tensor(label)
    return Batch(torch.linspace(-1, 1, n * 4).reshape(n, 1, 2, 2), labels)


def seen(trainer: AdversarialStep) -> list[Shown]:
    found: list[Shown] = trainer.raw_D.seen  # type: ignore[assignment] # the fake's
    return found


def gradient(network: nn.Module) -> Tensor:
    """What its first weight was left with."""
    found = next(network.parameters()).grad
    assert found is not None
    return found


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def test_real_and_fake_go_through_the_discriminator_separately(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    real, fake, _ = (shown.images for shown in seen(trainer))
    assert (torch.equal(real, batch().real), fake.shape) == (True, real.shape)


def test_fakes_are_detached_in_the_discriminator_step(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    assert [shown.images.requires_grad for shown in seen(trainer)] == [False, False, True]


def test_the_discriminator_is_frozen_in_the_generator_step_alone(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    trainer.step(batch())
    assert [shown.learns for shown in seen(trainer)] == [True, True, False] * 2


def test_the_generator_step_leaves_no_gradient_on_the_discriminator(
    accelerator: Accelerator,
) -> None:
    trainer = step_of(accelerator, lr=0.0, loss=Wasserstein())
    trainer.step(batch())
    # lr 0: what D's own step left, ∂/∂w (D(fake) − D(real)), is all that may be there
    real, fake, _ = (shown.images for shown in seen(trainer))
    expected = (fake.flatten(1).mean(0) - real.flatten(1).mean(0)).detach()
    torch.testing.assert_close(gradient(trainer.raw_D), expected[None])


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
    _, in_D, in_G = (shown.images for shown in seen(trainer))
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


@pytest.mark.parametrize("n", [1, 3])
def test_the_generator_may_take_several_steps_in_its_turn(accelerator: Accelerator, n: int) -> None:
    trainer = step_of(accelerator, n_generator=lambda g_steps: n)
    trainer.step(batch())
    trainer.step(batch())
    assert (trainer.d_steps, trainer.g_steps, len(seen(trainer))) == (2, 2 * n, 2 * (2 + n))


def test_several_steps_of_a_turn_report_their_mean(accelerator: Accelerator) -> None:
    numbers = itertools.count(1.0)
    penalty = Penalty("number", 1.0, lambda inputs: torch.tensor(next(numbers)))
    trainer = step_of(accelerator, n_generator=lambda g_steps: 3, penalties_G=[penalty])
    assert trainer.step(batch())["penalty/number_G"].item() == 2.0


def test_the_state_of_other_stabilisers_is_refused(accelerator: Accelerator) -> None:
    saved = step_of(accelerator, stabilisers=[InstanceNoise(0.1)]).state()
    trainer = step_of(accelerator, stabilisers=[ClipGradients(1.0)])
    message = r"it has stabilisers \['InstanceNoise'.*these settings \['ClipGradients'"
    with pytest.raises(ValueError, match=message):
        trainer.load(saved)


def test_each_step_of_a_turn_draws_fresh_z(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, lr=0.0, n_generator=lambda g_steps: 2)
    trainer.step(batch())
    *_, first, second = (shown.images for shown in seen(trainer))
    assert not torch.equal(first, second)


def test_a_loss_that_needs_reals_gets_their_logits(accelerator: Accelerator) -> None:
    loss = Comparing()
    trainer = step_of(accelerator, loss=loss)
    loss.given.clear()
    trainer.step(batch())
    real_in_G_step = seen(trainer)[3].images
    assert (loss.given[0] is not None, torch.equal(real_in_G_step, batch().real)) == (True, True)


def test_a_loss_that_needs_no_reals_costs_no_pass_for_them(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch())
    assert len(seen(trainer)) == 3


def constant(value: float, interval: int) -> Penalty:
    """A penalty that is ``value`` times D's weights summed: its gradient is known."""

    def term(inputs: PenaltyInputs) -> Tensor:
        (logits,) = inputs.discriminator(torch.ones(1, 1, 2, 2), None)
        terms: Tensor = (value * logits).expand(len(inputs.real))
        return terms

    return Penalty("constant", 1.0, term, interval)


def test_a_lazy_penalty_is_evaluated_every_interval_steps(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, penalties_D=[constant(1.0, 3)])
    due = ["penalty/constant" in trainer.step(batch()) for _ in range(7)]
    assert due == [True, False, False, True, False, False, True]


def test_a_lazy_penalty_is_scaled_by_its_interval(accelerator: Accelerator) -> None:
    gradients = []
    for interval in (1, 4):
        torch.manual_seed(0)
        trainer = step_of(accelerator, lr=0.0, loss=Zero(), penalties_D=[constant(1.0, interval)])
        trainer.step(batch())
        gradients.append(gradient(trainer.raw_D))
    assert torch.equal(gradients[1], 4 * gradients[0])


class Zero:
    """Nobody learns anything from the loss itself."""

    needs_real = False
    boundary = 0.0

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0 * (real_logits + fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return 0 * fake_logits


def test_the_statistic_of_a_lazy_penalty_is_not_scaled(accelerator: Accelerator) -> None:
    values = []
    for interval in (1, 4):
        torch.manual_seed(0)
        trainer = step_of(accelerator, penalties_D=[constant(1.0, interval)])
        values.append(trainer.step(batch())["penalty/constant"].item())
    assert values[0] == values[1]


class Marks(Stabiliser):
    """Writes down the order in which it is called."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.images = 0

    def attach(self, trainer: AdversarialStep) -> None:
        assert trainer.generator()  # complete by now
        self.log.append("attach")

    def before_step(self, batch: Batch, kimg: float) -> Batch:
        self.log.append(f"before, at {kimg:g} kimg")
        return batch

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
    trainer = step_of(accelerator, stabilisers=[marks])
    trainer.step(batch())
    trainer.step(batch())
    step = [
        *("view", "view", "Discriminator", "Discriminator updated"),
        *("view", "Generator", "Generator updated"),
        "after",
    ]
    assert marks.log == ["attach", "before, at 0 kimg", *step, "before, at 0.004 kimg", *step]


class Blank(Stabiliser):
    """Replaces what there is to learn from."""

    def before_step(self, batch: Batch, kimg: float) -> Batch:
        return Batch(torch.full_like(batch.real, 7.0), batch.label)


def test_a_step_learns_from_what_a_stabiliser_makes_of_the_batch(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, stabilisers=[Blank()], loss=Comparing())
    trainer.step(batch())
    in_D_step, _, _, in_G_step = (shown.images for shown in seen(trainer))
    assert (in_D_step.unique().item(), in_G_step.unique().item()) == (7.0, 7.0)


def test_weights_clipped_after_an_update_are_those_the_generator_learns_from(
    accelerator: Accelerator,
) -> None:
    D = Discriminator()
    trainer = step_of(accelerator, loss=Wasserstein(), D=D, stabilisers=[ClipWeights(D, 0.01)])
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


@pytest.mark.parametrize("side", ["penalties_D", "penalties_G"])
def test_a_penalty_computes_in_float32_under_autocast(
    bf16_accelerator: Accelerator, side: str
) -> None:
    dtypes: list[torch.dtype] = []

    def term(inputs: PenaltyInputs) -> Tensor:
        images = inputs.generator(inputs.z)
        logits = inputs.discriminator(images)
        dtypes.extend([images.dtype, logits.dtype])
        exact = torch.tanh(inputs.z @ trainer.raw_G.layer.weight.T + trainer.raw_G.layer.bias)  # type: ignore[operator, union-attr] # the fake's
        torch.testing.assert_close(images.flatten(1), exact)
        return logits

    trainer = step_of(bf16_accelerator, **{side: [Penalty("exact", 1.0, term)]})  # type: ignore[arg-type] # one of two
    trainer.step(batch())
    assert dtypes == [torch.float32] * 2


def test_all_that_the_discriminator_sees_is_viewed(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, stabilisers=[Marks()])
    trainer.step(batch())
    assert all(shown.images.min() > 90 for shown in seen(trainer))


def test_stabilisers_are_told_of_the_images_of_a_step(accelerator: Accelerator) -> None:
    marks = Marks()
    step_of(accelerator, stabilisers=[marks]).step(batch(6))
    assert marks.images == 6


def test_images_of_all_processes_are_counted(accelerator: Accelerator) -> None:
    PartialState().num_processes = 2  # forgotten with the accelerator
    marks = Marks()
    trainer = step_of(accelerator, stabilisers=[marks])
    trainer.step(batch(6))
    assert (trainer.seen, marks.images) == (12, 12)


def test_statistics_are_scalars_without_a_graph(accelerator: Accelerator) -> None:
    stats = step_of(
        accelerator, penalties_D=[constant(1.0, 1)], penalties_G=[constant(1.0, 1)]
    ).step(batch())
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


RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema": True},
    "in a critic's round": {"n_critic": lambda g_steps: 2},
    "critic first": {"n_critic": lambda g_steps: 2 if g_steps < 2 else 1},
    "several G steps": {"n_generator": lambda g_steps: 1 + g_steps % 2},
    "lazy penalty": {"penalties_D": [r1(1.0, interval=2)]},
    "learning rate": {"lr_factor_D": linear(1.0, 0.0, over_kimg=0.02)},
    "beta2": {"beta2_D": linear(0.9, 0.99, over_kimg=0.02)},
}


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_loaded_trainer_goes_on_exactly_as_the_saved_one(
    accelerator: Accelerator, settings: dict[str, Any]
) -> None:
    ours, theirs = step_of(accelerator, **settings), step_of(accelerator, **settings)
    for _ in range(3):
        ours.step(batch())
    theirs.load(copy.deepcopy(ours.state()))  # live tensors, until they are saved
    ends = []
    for trainer in (ours, theirs):
        torch.manual_seed(1)
        for _ in range(3):
            trainer.step(batch())
        networks = (trainer.raw_G, trainer.raw_D, trainer.generator())
        ends.append(torch.cat([weights(network) for network in networks]))
    assert torch.equal(*ends)


def rates(trainer: AdversarialStep) -> tuple[float, float]:
    """Learning rates of G and D."""
    G, D = (o.param_groups[0]["lr"] for o in (trainer.optimizer_G, trainer.optimizer_D))
    return G, D


def test_a_learning_rate_follows_its_schedule_by_the_images_seen(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, lr=0.1, lr_factor_D=linear(1.0, 0.0, over_kimg=0.016))
    found = []
    for _ in range(5):
        trainer.step(batch(4))
        found.append(rates(trainer)[1])
    assert found == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0])


def test_each_player_has_its_own_schedule(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, lr=0.1, lr_factor_D=lambda kimg: 0.5)
    trainer.step(batch())
    assert rates(trainer) == (0.1, 0.05)


def test_a_step_uses_the_learning_rate_that_is_due(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, lr_factor_D=lambda kimg: 0.0)
    before = weights(trainer.raw_D)
    trainer.step(batch())
    assert torch.equal(weights(trainer.raw_D), before)


def test_beta2_follows_its_schedule_and_beta1_stays(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator, beta2_D=linear(0.9, 0.99, over_kimg=0.008))
    found = []
    for _ in range(3):
        trainer.step(batch(4))
        found.append(trainer.optimizer_D.param_groups[0]["betas"])
    assert found == [(0.9, pytest.approx(beta2)) for beta2 in (0.9, 0.945, 0.99)]


def test_a_generators_penalty_is_in_its_loss_alone(accelerator: Accelerator) -> None:
    def term(inputs: PenaltyInputs) -> Tensor:
        return inputs.fake.flatten(1).sum(1) * inputs.real.sum()

    trainer = step_of(accelerator, lr=0.0, loss=Zero(), penalties_G=[Penalty("mine", 1.0, term)])
    stats = trainer.step(batch())
    assert "penalty/mine_G" in stats
    learns = [bool(gradient(network).any()) for network in (trainer.raw_G, trainer.raw_D)]
    assert learns == [True, False]


def test_a_generators_lazy_penalty_counts_its_own_steps(accelerator: Accelerator) -> None:
    trainer = step_of(
        accelerator, n_critic=lambda g_steps: 2, penalties_G=[constant(1.0, interval=2)]
    )
    due = ["penalty/constant_G" in trainer.step(batch()) for _ in range(8)]
    assert due == [False, True, False, False, False, True, False, False]


def test_penalties_of_a_side_add_up(accelerator: Accelerator) -> None:
    gradients = []
    for penalties in ([constant(3.0, 1)], [constant(1.0, 1), constant(2.0, 1)]):
        trainer = step_of(accelerator, lr=0.0, loss=Zero(), penalties_D=penalties)
        trainer.step(batch())
        gradients.append(gradient(trainer.raw_D))
    torch.testing.assert_close(*gradients)


def test_a_penalty_is_told_of_the_images_seen_before_the_step(accelerator: Accelerator) -> None:
    told: list[float] = []

    def term(inputs: PenaltyInputs) -> Tensor:
        told.append(inputs.kimg)
        return torch.zeros(1)

    trainer = step_of(accelerator, penalties_D=[Penalty("told", 1.0, term)])
    trainer.step(batch(4))
    trainer.step(batch(4))
    assert told == [0.0, 0.004]


class Adds(Stabiliser):
    """Shifts what D sees by one more each time."""

    def __init__(self) -> None:
        self.views = 0

    def view(self, images: Tensor) -> Tensor:
        self.views += 1
        return images + 10 * self.views


def test_a_generators_penalty_sees_reals_as_the_discriminator_does(
    accelerator: Accelerator,
) -> None:
    given: list[Tensor] = []

    def term(inputs: PenaltyInputs) -> Tensor:
        given.append(inputs.real - batch().real)
        return torch.zeros(1)

    penalty = Penalty("given", 1.0, term)
    step_of(accelerator, stabilisers=[Adds()], penalties_G=[penalty]).step(batch())
    torch.testing.assert_close(given[0], torch.full((4, 1, 2, 2), 40.0))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_adversarial_term_of_the_generator_has_a_weight(
    accelerator: Accelerator, weight: float
) -> None:
    gradients = []
    for adversarial in (1.0, weight):
        torch.manual_seed(0)
        trainer = step_of(accelerator, lr=0.0, adversarial=adversarial)
        trainer.step(batch())
        gradients.append(gradient(trainer.raw_G))
    torch.testing.assert_close(gradients[1], weight * gradients[0])


def test_the_weight_of_the_adversarial_term_is_not_in_its_statistic(
    accelerator: Accelerator,
) -> None:
    values = []
    for adversarial in (1.0, 0.5):
        torch.manual_seed(0)
        values.append(step_of(accelerator, adversarial=adversarial).step(batch())["loss/G"].item())
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("n", "expected"),
    [(2, [0, 1]), (4, [0, 1, 2, 0]), (6, [0, 1, 2, 0, 0, 1]), (9, [0, 1, 2, 0] * 2 + [0])],
)
def test_the_generators_own_batch_takes_the_labels_of_the_data(
    accelerator: Accelerator, n: int, expected: list[int]
) -> None:
    trainer = step_of(accelerator, batch_size_G=n)
    trainer.step(batch(4, label=[0, 1, 2, 0]))
    *_, in_G_step = seen(trainer)
    assert in_G_step.label is not None
    assert (in_G_step.label.tolist(), len(in_G_step.images)) == (expected, n)


def test_fakes_have_the_labels_of_the_reals(accelerator: Accelerator) -> None:
    trainer = step_of(accelerator)
    trainer.step(batch(4, label=[0, 1, 2, 0]))
    given = [shown.label for shown in seen(trainer)] + trainer.raw_G.labels  # type: ignore[operator] # the fake's
    assert [label.tolist() for label in given] == [[0, 1, 2, 0]] * 5


def test_a_loss_of_pairs_refuses_batches_of_different_sizes(accelerator: Accelerator) -> None:
    with pytest.raises(ValueError, match="a relativistic loss pairs fakes with reals"):
        step_of(accelerator, loss=Relativistic(), batch_size_G=8)


class Elsewhere:
    """An opponent that isn't D: notes whom it was asked for, and what it judged."""

    def __init__(self) -> None:
        self.asked: list[tuple[AdversarialStep, Batch, Tensor]] = []
        self.judged: list[Tensor] = []

    def __call__(
        self, trainer: AdversarialStep, batch: Batch, fake: Tensor
    ) -> Callable[[Tensor, Tensor | None], Tensor]:
        self.asked.append((trainer, batch, fake))

        def judge(images: Tensor, label: Tensor | None) -> Tensor:
            self.judged.append(images)
            return 5 * images.flatten(1).mean(1)

        return judge


def test_the_generator_learns_from_its_opponent(accelerator: Accelerator) -> None:
    opponent = Elsewhere()
    trainer = step_of(accelerator, loss=Wasserstein(), opponent=opponent)
    stats = trainer.step(batch())
    (fake,) = opponent.judged
    assert stats["loss/G"].item() == pytest.approx(-5 * fake.mean().item())
    assert len(seen(trainer)) == 2  # D itself judged in its own step alone


def test_an_opponent_is_chosen_by_trainer_batch_and_fakes(accelerator: Accelerator) -> None:
    opponent, given = Elsewhere(), batch()
    trainer = step_of(accelerator, opponent=opponent, n_generator=lambda g_steps: 2)
    trainer.step(given)
    assert [(asked[0], asked[1]) for asked in opponent.asked] == [(trainer, given)] * 2
    pairs = zip(opponent.asked, opponent.judged, strict=True)
    assert all(fake is judged for (_, _, fake), judged in pairs)


def test_an_opponent_judges_the_reals_as_well_where_the_loss_compares(
    accelerator: Accelerator,
) -> None:
    opponent = Elsewhere()
    step_of(accelerator, loss=Relativistic(), opponent=opponent).step(batch())
    assert torch.equal(opponent.judged[1], batch().real)


class Scripted(Discriminator):
    """Its logits for reals and for fakes are known."""

    REAL, FAKE = torch.tensor([1.0, -1.0, 2.0, 3.0]), torch.tensor([0.25, 1.5, 1.5, -2.0])

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        logits = super().forward(images, label) * 0
        return logits + (self.REAL if len(self.seen) == 1 else self.FAKE)


@pytest.mark.parametrize(
    ("loss", "real", "fake"),
    [
        (NonSaturating(), 0.75, 0.25),  # above and below 0
        (Hinge(), 0.75, 0.25),
        (LeastSquares(), 0.75, 0.5),  # above and below ½
        (Wasserstein(), 0.75, 0.75),  # only the pairs tell: 1 > ¼, 2 > 1½, 3 > −2
        (Relativistic(), 0.75, 0.75),
    ],
    ids=lambda item: type(item).__name__,
)
def test_accuracy_is_the_share_on_the_right_side_of_the_losses_boundary(
    accelerator: Accelerator, loss: AdversarialLoss, real: float, fake: float
) -> None:
    stats = step_of(accelerator, loss=loss, D=Scripted()).step(batch())
    assert (stats["accuracy/real"].item(), stats["accuracy/fake"].item()) == (real, fake)


def test_mean_logits_are_reported(accelerator: Accelerator) -> None:
    stats = step_of(accelerator, D=Scripted()).step(batch())
    assert (stats["logits/real"].item(), stats["logits/fake"].item()) == (1.25, 0.3125)


class Gives(Generator):
    """Makes the images it is told to."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.images + 0 * super().forward(z, label)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 3.0])
def test_diversity_compares_how_much_pixels_vary(accelerator: Accelerator, share: float) -> None:
    stats = step_of(accelerator, G=Gives(share * batch().real + 0.5)).step(batch())
    assert stats["diversity"].item() == pytest.approx(share, abs=1e-6)


def test_diversity_is_of_the_images_and_not_of_what_the_discriminator_sees(
    accelerator: Accelerator,
) -> None:
    trainer = step_of(accelerator, G=Gives(batch().real), stabilisers=[InstanceNoise(5.0)])
    assert trainer.step(batch())["diversity"].item() == pytest.approx(1.0)


def test_diversity_is_finite_where_the_reals_are_all_the_same(accelerator: Accelerator) -> None:
    stats = step_of(accelerator).step(Batch(torch.zeros(4, 1, 2, 2)))
    assert torch.isfinite(stats["diversity"])


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
