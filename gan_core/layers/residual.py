"""Pre-activation residual blocks that double or halve the side of a feature map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, relu

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

__all__ = ["DownBlock", "UpBlock", "shortcuts_intact"]


class UpBlock(nn.Module):
    """norm, ReLU, nearest ×2, conv 3×3, norm, ReLU, conv 3×3; beside it nearest ×2, conv 1×1.

    The generator's block of Gulrajani et al. 2017, Miyato et al. 2018, SAGAN and BigGAN. No
    activation is in place: the shortcut takes x itself.

    Args:
        inside: channels in.
        outside: channels out.
        norm: channels -> a module called with (x, condition).
    """

    def __init__(self, inside: int, outside: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = norm(inside), norm(outside)
        self.conv_1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv_2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[N, inside, H, W] -> [N, outside, 2H, 2W]."""
        hidden = interpolate(relu(self.norm_1(x, condition)), scale_factor=2)
        hidden = relu(self.norm_2(self.conv_1(hidden), condition))
        # 1×1 convolution and nearest enlargement commute: the cheaper order
        skipped = interpolate(self.shortcut(x), scale_factor=2)
        summed: Tensor = self.conv_2(hidden) + skipped
        return summed


class DownBlock(nn.Module):
    """ReLU, conv 3×3, ReLU, conv 3×3, mean over 2×2; beside it conv 1×1, mean over 2×2.

    The discriminator's block of the same papers, without normalisation.

    Args:
        inside: channels in.
        outside: channels out.
        first: the network's first block, which doesn't rectify the image.
        down: halve the side.
    """

    def __init__(
        self, inside: int, outside: int, *, first: bool = False, down: bool = True
    ) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv_1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv_2 = nn.Conv2d(outside, outside, 3, padding=1)
        learned = down or first or inside != outside
        self.shortcut = nn.Conv2d(inside, outside, 1) if learned else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H/2, W/2], or of the same side."""
        hidden = self.conv_1(x if self.first else relu(x))
        hidden = self.conv_2(relu(hidden))
        # averaging first is the same for a 1×1 convolution, and cheaper
        skipped = self.shortcut(avg_pool2d(x, 2) if self.down else x)
        summed: Tensor = (avg_pool2d(hidden, 2) if self.down else hidden) + skipped
        return summed


def shortcuts_intact(networks: Iterable[nn.Module], run: Callable[[], object]) -> bool:
    """Whether no residual block of the networks changes its input while ``run`` runs.

    An activation in place would turn the shortcut's x into ReLU(x). False if no block ran.
    """
    kept: list[Tensor] = []
    intact: list[bool] = []

    def before(_block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].clone())

    def after(_block: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        intact.append(bool((inputs[0] == kept.pop()).all()))

    handles = []
    for network in networks:
        for block in (m for m in network.modules() if isinstance(m, (DownBlock, UpBlock))):
            handles += [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
    run()
    for handle in handles:
        handle.remove()
    return bool(intact) and all(intact)
