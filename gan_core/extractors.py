"""The built-in feature extractors: a small classifier of digits, and plain pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from .datasets import DATASETS, cache_dir
from .evaluation import Extractor, FeatureExtractor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .data import Images

__all__ = ["EXTRACTORS", "DigitsClassifier", "digits_classifier", "train_digits_classifier"]

FEATURES = 64
TRAINING_STEPS = 300
RECIPE = "3"
"""Goes into the cached file's name: change it with anything that changes the weights."""


class DigitsClassifier(nn.Module):
    """Images [N, 1, 32, 32] in [-1, 1] -> (features [N, 64], logits [N, 10])."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, FEATURES, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(FEATURES * 4, FEATURES),
            nn.LayerNorm(FEATURES),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class logits."""
        features = self.body(images)
        return features, self.head(features)


def digits_classifier() -> DigitsClassifier:
    """The classifier of the embedded digits: trained once with a fixed seed, then cached."""
    with torch.random.fork_rng(devices=[]):
        network = DigitsClassifier().eval()
    path = _weights()
    if not path.exists():
        _train(path)
    network.load_state_dict(load_file(path))
    return network


def _weights() -> Path:
    return cache_dir() / "extractors" / f"digits-classifier-{RECIPE}.safetensors"


def train_digits_classifier(images: Images) -> DigitsClassifier:
    """A classifier trained on labelled digits of 32 px, the same every time."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = DigitsClassifier().train()
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        source = images.batches(128, seed=0)
        for _ in range(TRAINING_STEPS):
            batch = next(source).to(torch.device("cpu"))
            _, logits = network(batch.real)
            optimizer.zero_grad()
            cross_entropy(logits, cast("Tensor", batch.label)).backward()
            optimizer.step()
    return network.eval()


def _train(path: Path) -> None:
    network = train_digits_classifier(DATASETS[0].open("", 32))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(network.state_dict(), temporary)
    temporary.replace(path)


def _load_digits_classifier() -> Extractor:
    network = digits_classifier()
    digest = hashlib.sha256(_weights().read_bytes()).hexdigest()[:12]

    @torch.no_grad()
    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        grey = torch.from_numpy(np.ascontiguousarray(pixels)).float().mean(3, keepdim=True)
        images = _to_side(grey.permute(0, 3, 1, 2) / 127.5 - 1, 32)
        return network(images)[0].double().numpy()  # type: ignore[no-any-return]

    return Extractor(f"digits-classifier {digest}", "bilinear, antialiased", features)


def _load_pixels() -> Extractor:
    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
        return _to_side(images, 8).flatten(1).double().numpy()

    return Extractor("pixels 8x8", "bilinear, antialiased", features)


def _to_side(images: Tensor, side_px: int) -> Tensor:
    if images.shape[-2:] == (side_px, side_px):
        return images
    return interpolate(images, size=(side_px, side_px), mode="bilinear", antialias=True)


EXTRACTORS = (
    FeatureExtractor(
        "digits-classifier",
        "64 features of a small classifier trained on the embedded digits",
        _load_digits_classifier,
    ),
    FeatureExtractor("pixels", "the image itself at 8x8 px: coarse, for any data", _load_pixels),
)
