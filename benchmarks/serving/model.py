"""The model of the comparison, a DCGAN of 64 × 64 pictures: graph, torch module, repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from gan_core.card import DataSource, LatentInput
from gan_core.export import export
from gan_core.latents import latents
from gan_core.plugins import Plugins
from gan_core.testing import built
from gan_serving.repository import publish
from gan_serving.triton_config import INSTANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gan_core.export import ServedGenerator

__all__ = ["NAME", "Files", "Z", "make"]

NAME = "dcgan64"
Z = LatentInput(dim=100, distribution="uniform")


def _network() -> ServedGenerator:
    """A generator of 64 × 64 pictures, untrained: z in, uint8 [N, 64, 64, 3] out.

    Of the width that most implementations of DCGAN have (64; the paper says 128): 3.5 M weights.
    """
    variant = Plugins().variant("dcgan")
    config = variant.config.model_validate({"resolution_px": 64, "width": 64})
    return variant.served(built(variant, config).generator().eval(), config).eval()


class Files:
    """Where the model is within a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.one_instance = folder / "repository_1"
        self.graph = self.repository / NAME / "1" / "model.onnx"
        self.network = folder / "network.pt"
        self.expected = folder / "expected.npy"


def make(folder: Path, pictures: int) -> Files:
    """Writes all of it, and the pictures of the first seeds as torch makes them one by one."""
    files = Files(folder)
    torch.manual_seed(0)
    served = _network()
    _settle(served)
    export(
        served,
        folder / "export",
        model=NAME,
        variant="dcgan",
        data=DataSource(name="none", fingerprint="0" * 12),
        trained_kimg=0.0,
    )
    for repository in (files.repository, files.one_instance):
        shutil.rmtree(repository, ignore_errors=True)
        publish(folder / "export", repository)
    config = files.one_instance / NAME / "config.pbtxt"
    config.write_text(config.read_text().replace(f"count: {INSTANCES}", "count: 1"))
    torch.save(served, files.network)
    z = latents(Z, range(pictures))
    np.save(files.expected, _pictures(served, z))
    return files


def _settle(served: nn.Module) -> None:
    """Normalisation as after training, so that seeds give pictures that differ."""
    norms = [module for module in served.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.reset_running_stats()
    served.train()
    with torch.no_grad():
        for _ in range(8):
            served(torch.rand(64, 100) * 2 - 1)
    served.eval()


def _pictures(served: nn.Module, z: NDArray[np.float32]) -> NDArray[np.uint8]:
    with torch.inference_mode():
        return np.concatenate([served(torch.from_numpy(row[None])).numpy() for row in z])
