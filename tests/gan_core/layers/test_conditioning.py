"""Classes in G and D: batch norm per class, and the projection, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gan_core.layers import BatchNorm2d, ConditionalBatchNorm2d, Head, Minibatch


def test_batch_norm_that_is_given_a_condition_does_not_use_it() -> None:
    ours, plain = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(ours(x, torch.arange(4)), plain(x))


def set_class(norm: ConditionalBatchNorm2d, label: int, gain: float, bias: float) -> None:
    nn.init.constant_(norm.gain.weight[label], gain)
    nn.init.constant_(norm.bias.weight[label], bias)


def test_each_class_has_a_gain_and_a_bias() -> None:
    norm = ConditionalBatchNorm2d(3, classes=2)
    set_class(norm, 0, gain=2.0, bias=1.0)
    set_class(norm, 1, gain=-3.0, bias=5.0)
    x = torch.randn(4, 3, 2, 2)
    label = torch.tensor([0, 1, 1, 0])
    normalised = nn.BatchNorm2d(3, affine=False)(x)
    factors, added = torch.tensor([2.0, -3.0, -3.0, 2.0]), torch.tensor([1.0, 5.0, 5.0, 1.0])
    expected = normalised * factors[:, None, None, None] + added[:, None, None, None]
    torch.testing.assert_close(norm(x, label), expected)


def test_a_conditional_norm_starts_as_a_plain_one() -> None:
    x, label = torch.randn(4, 3, 2, 2), torch.arange(4)
    norm = ConditionalBatchNorm2d(3, classes=4)
    torch.testing.assert_close(norm(x, label), nn.BatchNorm2d(3)(x))


def test_a_class_learns_from_its_own_images_alone() -> None:
    norm = ConditionalBatchNorm2d(3, classes=3)
    norm(torch.randn(4, 3, 2, 2), torch.tensor([0, 2, 2, 0])).square().sum().backward()
    gradient = norm.gain.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).bool().tolist() == [True, False, True]


def test_statistics_are_of_the_whole_batch() -> None:
    # not of each class: one mean for both halves leaves them apart
    norm = ConditionalBatchNorm2d(1, classes=2)
    x = torch.tensor([0.0, 0.0, 2.0, 2.0]).reshape(4, 1, 1, 1)
    made = norm(x, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(
        made.flatten(), torch.tensor([-1.0, -1.0, 1.0, 1.0]), rtol=0, atol=1e-5
    )


def filled(head: Head, weight: list[float], bias: float) -> Head:
    head.linear.weight.data = torch.tensor([weight])
    nn.init.constant_(head.linear.bias, bias)
    return head


FEATURES = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


def test_an_unconditional_head_is_an_affine_map() -> None:
    head = filled(Head(2), [2.0, 10.0], bias=0.5)
    assert head(FEATURES).tolist() == [22.5, -3.5]


def test_a_head_projects_the_features_on_the_class() -> None:
    head = filled(Head(2, classes=2), [2.0, 10.0], bias=0.5)
    assert head.embedding is not None
    head.embedding.weight.data = torch.tensor([[1.0, 0.0], [100.0, 7.0]])
    # 22.5 + ⟨(100, 7), (1, 2)⟩ and −3.5 + ⟨(1, 0), (3, −1)⟩
    assert head(FEATURES, torch.tensor([1, 0])).tolist() == [136.5, -0.5]


def test_a_head_without_classes_takes_no_label_into_account() -> None:
    head = Head(2)
    assert torch.equal(head(FEATURES, torch.tensor([0, 1])), head(FEATURES))


@pytest.mark.parametrize("kind", ["none", "discrimination", "stddev"])
@pytest.mark.parametrize("classes", [0, 3])
def test_there_is_one_logit_per_sample(kind: Minibatch, classes: int) -> None:
    head = Head(6, classes=classes, minibatch=kind)
    assert head(torch.randn(4, 6), torch.tensor([0, 1, 2, 0])).shape == (4,)


def test_what_a_minibatch_layer_appends_is_judged_and_not_projected() -> None:
    head = filled(Head(2, classes=1, minibatch="stddev"), [0.0, 0.0, 1.0], bias=0.0)
    assert head.embedding is not None
    nn.init.zeros_(head.embedding.weight)
    # σ over the batch, with 1/N: 1 and 3/2, on average 5/4
    torch.testing.assert_close(head(FEATURES, torch.tensor([0, 0])), torch.tensor([1.25, 1.25]))


def test_the_projections_gradient_equals_finite_differences() -> None:
    head = Head(3, classes=2).double()
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 1, 0])

    def logits(features: Tensor, *weights: Tensor) -> Tensor:
        made: Tensor = head(features, label)
        return made

    assert torch.autograd.gradcheck(logits, (features, *head.parameters()))


def test_a_head_with_classes_works_under_bf16_autocast() -> None:
    head, label = Head(6, classes=3), torch.tensor([0, 1, 2, 0])
    features = torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features.bfloat16(), label)
    torch.testing.assert_close(logits.float(), head(features, label), rtol=0.05, atol=0.05)
