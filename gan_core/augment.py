"""Differentiable augmentation of all that D sees, so that small training sets aren't memorised.

Real and fake images are augmented alike, in G's steps as well: what D learns not to mind must
not become a goal of G's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.nn.functional import affine_grid, grid_sample, pad

from .stabilisers import Stabiliser

if TYPE_CHECKING:
    from torch import Tensor

    from .trainer import AdversarialStep

__all__ = ["AdaptiveAugment", "DiffAugment", "blit_geometry_colour"]

ADAPT_EVERY = 4
"""D steps between two changes of ADA's strength, as in the paper."""


class DiffAugment(Stabiliser):
    """Colour, translation and cutout of every image (Zhao et al. 2020, the authors' magnitudes)."""

    def view(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] augmented, each on its own."""
        return _cutout(_translated(_jittered(images)))


class AdaptiveAugment(Stabiliser):
    """ADA: augmentation whose probability follows D's overfitting (Karras et al. 2020).

    p rises while r_t = E[sign D(real)] is above the target and falls while it is below (§3.1).
    Where only differences of logits mean anything, sign(D(real) − D(fake)) stands in. The
    probability is reported as ``augment/p``; above about 0.8 augmentations leak into G's images.

    Args:
        target: of r_t. Paper: 0.6.
        kimg: 10³ images in which p can go from 0 to 1. Paper: 500.
    """

    def __init__(self, target: float = 0.6, kimg: float = 500.0) -> None:
        self.target = target
        self.kimg = kimg
        self.p = torch.zeros(())
        self.signs = torch.zeros(())
        self.steps = 0

    def attach(self, trainer: AdversarialStep) -> None:
        """Keep the state where the images are: p is never waited for."""
        self.p, self.signs = (t.to(trainer.accelerator.device) for t in (self.p, self.signs))

    def view(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], each transformation applied with probability p."""
        return blit_geometry_colour(images, self.p)

    @torch.no_grad()
    def after_step(self, stats: MutableMapping[str, Tensor], n: int) -> None:
        """Adapt p, every fourth step."""
        signs = 2 * stats["accuracy/real"] - 1
        if distributed.is_initialized():  # at once: a checkpoint holds one rank's state for all
            distributed.all_reduce(signs)
        self.signs = self.signs + signs / _world()
        self.steps += 1
        if self.steps % ADAPT_EVERY == 0:
            change = torch.sign(self.signs / ADAPT_EVERY - self.target)
            self.p = (self.p + change * ADAPT_EVERY * n / (1000 * self.kimg)).clamp(0, 1)
            self.signs = torch.zeros_like(self.signs)
        stats["augment/p"] = self.p

    def state(self) -> dict[str, Any]:
        """The probability and the signs since it last changed."""
        return {"p": self.p, "signs": self.signs, "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state()`` returned."""
        self.p, self.signs = state["p"].to(self.p.device), state["signs"].to(self.signs.device)
        self.steps = state["steps"]


def blit_geometry_colour(images: Tensor, p: Tensor) -> Tensor:
    """The paper's ``bgc`` pipe on [N, C, H, W] in [-1, 1], each step with probability p (0-dim).

    Flips, right-angled rotations, translations, scalings, rotations; then brightness, contrast
    and, for RGB, luma flip, hue and saturation (Karras et al. 2020, appendix B).
    """
    # Paper: wavelet low-pass filters around the resampling. Here bilinear: a parameter-free op.
    n, device = len(images), images.device
    inverse = _geometry(n, p, device)
    grid: Tensor = affine_grid(
        inverse[:, :2].to(images.dtype), list(images.shape), align_corners=False
    )
    moved = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if images.shape[1] == 3:
        matrix = _colour(n, p, device).to(images.dtype)
        flat = moved.flatten(2)
        coloured: Tensor = matrix[:, :3, :3] @ flat + matrix[:, :3, 3:]
        return coloured.reshape(moved.shape)
    brightness = _normal(n, device) * 0.2 * _chosen(n, p, device)
    contrast = _log_normal(n, 0.5, p, device)
    changed: Tensor = moved * contrast[:, None, None, None] + brightness[:, None, None, None]
    return changed


def _geometry(n: int, p: Tensor, device: torch.device) -> Tensor:
    """Inverse transformations in the plane of [-1, 1]², [N, 3, 3]."""
    quarter = math.pi / 2
    flip = 1 - 2 * _coin(n, device) * _chosen(n, p, device)
    turn = torch.randint(0, 4, (n,), device=device) * quarter * _chosen(n, p, device)
    # Paper: whole pixels. Here: any distance, as resampling follows anyway.
    shifted = _chosen(n, p, device)
    shift = [_uniform(n, device) * 0.25 * shifted for _ in "xy"]
    scale = _log_normal(n, 0.2, p, device)
    # two rotations of probability 1 − √(1 − p) make one of p
    p_rotate = 1 - (1 - p).clamp_min(0).sqrt()
    angles = [_uniform(n, device) * math.pi * _chosen(n, p_rotate, device) for _ in "ab"]
    stretch = _log_normal(n, 0.2, p, device)
    nudged = _chosen(n, p, device)
    fraction = [_normal(n, device) * 0.25 * nudged for _ in "xy"]
    one = torch.ones(n, device=device)
    matrix = _diagonal(flip, one) @ _rotation(turn) @ _translation(*shift)
    matrix = matrix @ _diagonal(1 / scale, 1 / scale) @ _rotation(angles[0])
    return matrix @ _diagonal(1 / stretch, stretch) @ _rotation(angles[1]) @ _translation(*fraction)


def _colour(n: int, p: Tensor, device: torch.device) -> Tensor:
    """Transformations of homogeneous RGB, [N, 4, 4]."""
    identity = torch.eye(4, device=device)
    brightness = identity.repeat(n, 1, 1)
    brightness[:, :3, 3] = (_normal(n, device) * 0.2 * _chosen(n, p, device))[:, None]
    contrast = _log_normal(n, 0.5, p, device)
    contrasted = torch.diag_embed(torch.stack([contrast] * 3 + [torch.ones_like(contrast)], 1))
    grey = torch.full((3,), 3**-0.5, device=device)
    along = torch.zeros(4, 4, device=device)
    along[:3, :3] = torch.outer(grey, grey)
    flip = _coin(n, device) * _chosen(n, p, device)
    luma = identity - 2 * along * flip[:, None, None]
    hue = _about(grey, _uniform(n, device) * math.pi * _chosen(n, p, device))
    saturation = _log_normal(n, 1.0, p, device)[:, None, None]
    last = torch.zeros(4, 4, device=device)
    last[3, 3] = 1
    saturated = along + last + (identity - along - last) * saturation
    return saturated @ hue @ luma @ contrasted @ brightness


def _about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotation about an axis of RGB space (Rodrigues), [N, 4, 4]."""
    x, y, z = axis
    zero = torch.zeros((), device=axis.device)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    eye = torch.eye(3, device=axis.device)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    rotation = torch.eye(4, device=axis.device).repeat(len(angle), 1, 1)
    rotation[:, :3, :3] = eye + sine * cross + (1 - cosine) * (cross @ cross)
    return rotation


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _rotation(angle: Tensor) -> Tensor:
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [cosine, -sine, zero, sine, cosine, zero, zero, zero, torch.ones_like(angle)]
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.eye(3, device=x.device).repeat(len(x), 1, 1)
    matrix[:, :2, 2] = torch.stack([x, y], 1)
    return matrix


def _chosen(n: int, p: Tensor, device: torch.device) -> Tensor:
    return (torch.rand(n, device=device) < p).float()


def _coin(n: int, device: torch.device) -> Tensor:
    return torch.randint(0, 2, (n,), device=device).float()


def _uniform(n: int, device: torch.device) -> Tensor:
    return torch.rand(n, device=device) * 2 - 1


def _normal(n: int, device: torch.device) -> Tensor:
    return torch.randn(n, device=device)


def _log_normal(n: int, octaves: float, p: Tensor, device: torch.device) -> Tensor:
    """2^N(0, octaves²) where chosen, else 1."""
    return torch.exp2(_normal(n, device) * octaves * _chosen(n, p, device))


def _world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _jittered(images: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation × 0 to 2 about the pixel's grey, contrast × 0.5 to 1.5."""
    amounts = torch.rand(3, len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    images = images + amounts[0] - 0.5
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * amounts[1] * 2 + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (amounts[2] + 0.5) + mean


def _translated(images: Tensor) -> Tensor:
    """By up to an eighth of each side; what comes in is 0."""
    n, _, height, width = images.shape
    rows, y = _offsets(n, height, images.device)
    columns, x = _offsets(n, width, images.device)
    padded = pad(images, [1, 1, 1, 1])
    rows = (rows + y).clamp(-1, height) + 1
    columns = (columns + x).clamp(-1, width) + 1
    index = torch.arange(n, device=images.device)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _offsets(n: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    most = round(side / 8)
    return torch.arange(side, device=device)[None], torch.randint(
        -most, most + 1, (n, 1), device=device
    )


def _cutout(images: Tensor) -> Tensor:
    """A square of half the side, anywhere, is 0."""
    n, _, height, width = images.shape
    masks = []
    for side in (height, width):
        first = torch.randint(0, side + 1, (n, 1), device=images.device) - side // 4
        place = torch.arange(side, device=images.device)[None]
        masks.append((place >= first) & (place < first + side // 2))
    hole = masks[0][:, :, None] & masks[1][:, None, :]
    return images * ~hole[:, None]
