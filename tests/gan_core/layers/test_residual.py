"""Residual blocks: their shapes, and a shortcut that takes x itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from gan_core.layers import BatchNorm2d, ConditionalBatchNorm2d, DownBlock, UpBlock


def no_norm(channels: int) -> nn.Module:
    return Untouched()


class Untouched(nn.Module):
    """A norm that does nothing."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return x


@pytest.mark.parametrize(("inside", "outside"), [(4, 4), (4, 6), (6, 4)])
def test_an_up_block_doubles_the_side(inside: int, outside: int) -> None:
    made = UpBlock(inside, outside, BatchNorm2d)(torch.randn(2, inside, 3, 5))
    assert made.shape == (2, outside, 6, 10)


@pytest.mark.parametrize(("inside", "outside"), [(4, 4), (4, 6), (6, 4)])
@pytest.mark.parametrize(("down", "side"), [(True, 2), (False, 4)])
def test_a_down_block_halves_the_side_if_told(
    inside: int, outside: int, down: bool, side: int
) -> None:
    made = DownBlock(inside, outside, down=down)(torch.randn(2, inside, 4, 4))
    assert made.shape == (2, outside, side, side)


def test_a_condition_reaches_both_norms() -> None:
    block = UpBlock(4, 4, lambda channels: ConditionalBatchNorm2d(channels, classes=2))
    block(torch.randn(2, 4, 3, 3), torch.tensor([0, 0])).square().sum().backward()
    learns = [norm.bias.weight.grad.any(1).tolist() for norm in (block.norm_1, block.norm_2)]  # type: ignore[operator, union-attr] # embeddings
    assert learns == [[True, False]] * 2


def silent(block: Any) -> Any:
    """The block whose residual branch is 0: only its shortcut is left."""
    for parameter in (block.conv_2.weight, block.conv_2.bias):
        nn.init.zeros_(parameter)
    return block


BLOCKS: list[tuple[str, Any, Any]] = [
    ("up", lambda: UpBlock(4, 4, no_norm), lambda x: interpolate(x, scale_factor=2)),
    ("down", lambda: DownBlock(4, 4), lambda x: avg_pool2d(x, 2)),
    ("first", lambda: DownBlock(4, 4, first=True), lambda x: avg_pool2d(x, 2)),
    ("even", lambda: DownBlock(4, 4, down=False), lambda x: x),
]


@pytest.mark.parametrize(("name", "made", "resampled"), BLOCKS, ids=[name for name, *_ in BLOCKS])
def test_the_shortcut_takes_x_itself(name: str, made: Any, resampled: Any) -> None:
    block = silent(made())
    x = -torch.rand(2, 4, 4, 4) - 1  # rectified, nothing would be left of it
    # 1×1 convolution and resampling commute: the slower order is the paper's
    torch.testing.assert_close(block(x), resampled(block.shortcut(x)))


@pytest.mark.parametrize(("name", "made", "resampled"), BLOCKS, ids=[name for name, *_ in BLOCKS])
def test_a_block_leaves_its_input_alone(name: str, made: Any, resampled: Any) -> None:
    x = torch.randn(2, 4, 4, 4)
    before = x.clone()
    made()(x)
    assert torch.equal(x, before)


def test_an_up_block_is_norm_rectifier_enlargement_convolution_twice() -> None:
    block = UpBlock(3, 4, BatchNorm2d)
    x = torch.randn(2, 3, 4, 4)
    hidden = block.conv_1(interpolate(relu(nn.BatchNorm2d(3)(x)), scale_factor=2))
    hidden = block.conv_2(relu(nn.BatchNorm2d(4)(hidden)))
    expected = hidden + block.shortcut(interpolate(x, scale_factor=2))
    torch.testing.assert_close(block(x), expected)


def test_a_down_block_is_rectifier_convolution_twice_then_the_mean() -> None:
    block = DownBlock(3, 4)
    x = torch.randn(2, 3, 4, 4)
    hidden = block.conv_2(relu(block.conv_1(relu(x))))
    torch.testing.assert_close(block(x), avg_pool2d(hidden + block.shortcut(x), 2))


def test_the_first_block_does_not_rectify_the_image() -> None:
    block = DownBlock(3, 4, first=True)
    image = torch.randn(2, 3, 4, 4)
    hidden = block.conv_2(relu(block.conv_1(image)))
    torch.testing.assert_close(block(image), avg_pool2d(hidden + block.shortcut(image), 2))


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ({"inside": 4, "outside": 4, "down": False}, False),
        ({"inside": 4, "outside": 6, "down": False}, True),
        ({"inside": 4, "outside": 4, "down": True}, True),
        ({"inside": 4, "outside": 4, "down": False, "first": True}, True),
    ],
    ids=str,
)
def test_a_shortcut_is_learned_where_something_changes(
    settings: dict[str, Any], learned: bool
) -> None:
    assert isinstance(DownBlock(**settings).shortcut, nn.Conv2d) is learned
