"""Self-attention against a loop over places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gan_core.layers import PlainSelfAttention, SelfAttention
from gan_core.layers.attention import _attention

KINDS = [SelfAttention, PlainSelfAttention]


def awake(layer: nn.Module) -> nn.Module:
    """With γ = 1, so that there is something to see."""
    layer.gamma.data.fill_(1.0)  # type: ignore[operator] # a parameter
    return layer.double()


def looped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Σ_k softmax_k(⟨q, k⟩)·v for each query, of [N, d, queries], [N, d, keys] and [N, C, keys]."""
    n, _, places = query.shape
    made = torch.zeros(n, value.shape[1], places, dtype=query.dtype)
    for i in range(n):
        for q in range(places):
            energy = [torch.dot(query[i, :, q], key[i, :, k]) for k in range(key.shape[2])]
            weights = torch.stack(energy).softmax(0)
            for k, weight in enumerate(weights):
                made[i, :, q] += weight * value[i, :, k]
    return made


def pooled(x: Tensor) -> Tensor:
    """Largest of each 2×2, [N, C, HW/4]."""
    blocks: Tensor = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [N, C, H/2, 2, W/2, 2]
    return blocks.amax((3, 5)).flatten(2)


def test_attention_with_pooled_keys_equals_a_loop_over_places() -> None:
    layer = awake(SelfAttention(16))
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    query, key, value = (getattr(layer, name)(x) for name in ("query", "key", "value"))
    attended = looped(query.flatten(2), pooled(key), pooled(value))
    expected = x + layer.out(attended.unflatten(2, (4, 6)))  # type: ignore[operator] # a module
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("scaled", [True, False])
def test_plain_attention_equals_a_loop_over_places(scaled: bool) -> None:
    layer = awake(PlainSelfAttention(16, scaled=scaled))
    x = torch.randn(2, 16, 2, 3, dtype=torch.float64)
    query, key, value = (getattr(layer, n)(x).flatten(2) for n in ("query", "key", "value"))
    scale = 2**-0.5 if scaled else 1.0  # d = 16 / 8
    expected = x + looped(query * scale, key, value).unflatten(2, (2, 3))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_starts_as_the_identity(kind: type[nn.Module]) -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(kind(8)(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_learns_from_the_first_step_on(kind: type[nn.Module]) -> None:
    layer = kind(8)
    layer(torch.randn(2, 8, 4, 4)).square().sum().backward()
    gradient = layer.gamma.grad
    assert isinstance(gradient, Tensor)
    assert gradient.item() != 0.0


@pytest.mark.parametrize("channels", [8, 64])
def test_channels_are_the_papers(channels: int) -> None:
    layer = SelfAttention(channels)
    made = [getattr(layer, name).out_channels for name in ("query", "key", "value", "out")]
    assert made == [channels // 8, channels // 8, channels // 2, channels]


def test_weights_sum_to_one_over_the_keys() -> None:
    weights = _attention(torch.randn(2, 4, 10), torch.randn(2, 4, 7))
    assert weights.shape == (2, 10, 7)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 10))


def test_places_are_treated_alike() -> None:
    # 1×1 convolutions know no position: mirrored in, mirrored out
    layer = awake(PlainSelfAttention(8))
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x.flip(3)), layer(x).flip(3))


def test_attention_gradient_equals_finite_differences() -> None:
    layer = awake(SelfAttention(8))
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    # the weights are float32 even here: 1e-7 over a step of 1e-3
    assert torch.autograd.gradcheck(layer, (x,), eps=1e-3, atol=1e-3, rtol=1e-2)


def test_softmax_is_in_float32_under_bf16_autocast() -> None:
    query, key = torch.randn(1, 2, 8).bfloat16(), torch.randn(1, 2, 4096).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        weights = _attention(query, key)
        energy = query.transpose(1, 2) @ key
    assert torch.equal(weights, energy.float().softmax(2).bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_large_energies_stay_finite_under_bf16_autocast(kind: type[nn.Module]) -> None:
    layer = kind(8)
    layer.gamma.data.fill_(1.0)  # type: ignore[operator] # a parameter
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(1e3 * torch.randn(2, 8, 4, 4))
    assert torch.isfinite(made).all()
