"""What makes a GAN conditional, as tests of a built trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gan_core.checks import norms
from gan_core.data import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gan_core.trainer import AdversarialStep

__all__ = [
    "conditional_losses",
    "fakes_have_real_labels",
    "label_changes_images",
    "label_changes_logits",
    "label_has_its_own_layer",
]

FIRST, SECOND = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 1, 1, 1])
SKEWED = torch.tensor([1, 0, 0, 0])


def label_changes_images(trainer: AdversarialStep) -> bool:
    """The same z gives another image in another class."""
    return _differ(_images(trainer, FIRST), _images(trainer, SECOND))


def label_changes_logits(trainer: AdversarialStep) -> bool:
    """The same image is judged otherwise as one of another class."""
    images = _images(trainer, FIRST)
    with torch.no_grad():
        return _differ(trainer.raw_D(images, FIRST), trainer.raw_D(images, SECOND))


def label_has_its_own_layer(trainer: AdversarialStep) -> bool:
    """What enters the joint layers depends on the label, and nothing before them normalises."""
    return all(
        _differ(_joint_input(trainer, network, FIRST), _joint_input(trainer, network, SECOND))
        and not norms(network.get_submodule("inputs"))
        for network in (trainer.raw_G, trainer.raw_D)
    )


def fakes_have_real_labels(trainer: AdversarialStep) -> bool:
    """In both steps G is asked for the classes of the real batch, in their proportions."""
    asked = _labels_of_a_step(trainer, trainer.raw_G)
    return len(asked) == 2 and all(torch.equal(label, SKEWED) for label in asked)


def conditional_losses(trainer: AdversarialStep) -> bool:
    """D judges reals and fakes, and fakes again for G's loss, as images of their classes."""
    asked = _labels_of_a_step(trainer, trainer.raw_D)
    return len(asked) == 3 and all(torch.equal(label, SKEWED) for label in asked)


def _images(trainer: AdversarialStep, label: Tensor) -> Tensor:
    """What a G in evaluation makes of one z, [4, C, H, W]."""
    z = torch.linspace(-1, 1, 4 * trainer.latent.dim).unflatten(0, (4, -1))
    training = trainer.raw_G.training
    with torch.no_grad():
        images: Tensor = trainer.raw_G.eval()(z, label)
    trainer.raw_G.train(training)
    return images


def _joint_input(trainer: AdversarialStep, network: nn.Module, label: Tensor) -> Tensor:
    """What G's or D's joint layer is given."""
    seen: list[Tensor] = []
    hook = network.get_submodule("joint").register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    images = _images(trainer, label if network is trainer.raw_G else FIRST)
    if network is trainer.raw_D:
        network(images, label)
    hook.remove()
    return seen[0]


def _labels_of_a_step(trainer: AdversarialStep, network: nn.Module) -> list[Tensor]:
    """The labels that a network is called with in a step on a batch labelled ``SKEWED``."""
    batch = Batch(_images(trainer, SKEWED), SKEWED)
    seen: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    trainer.step(batch)
    hook.remove()
    return seen


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether every sample does."""
    return bool(((a - b).abs().flatten(1) if a.ndim > 1 else (a - b).abs()[:, None]).amax(1).min())
