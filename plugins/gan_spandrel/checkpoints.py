"""Weights of PyTorch that spandrel recognises: .pth, .pt, .ckpt and .safetensors.

A pickle may hold code. Here torch's weights-only reader refuses whatever isn't a tensor, and
spandrel tells the architecture from the tensors' names and shapes alone.
"""

from __future__ import annotations

import pickle
import re
import warnings
from typing import TYPE_CHECKING, Any

import safetensors.torch
import spandrel
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gan_core.errors import ConfigError

from .weights import Weights

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read"]

PURPOSES = ("SR", "Restoration")
CHANNELS = (1, 3, 4)
FORBIDDEN = re.compile(r"GLOBAL (\S+) was not an allowed global")


def read(path: Path) -> Weights:
    """The network that a checkpoint is of.

    Raises:
        ConfigError: it holds code, is damaged, is of no known architecture, or of one that
            doesn't turn a single picture into another.
    """
    tensors = spandrel.canonicalize_state_dict(_loaded(path))
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ConfigError(f"{path} isn't the weights of one network: a state dict is accepted")
    found = _recognised(path, tensors)
    name = found.architecture.name
    size = found.size_requirements
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose not in PURPOSES:
        raise ConfigError(
            f"{path} is {name}, for {found.purpose}: super-resolution (SR) and Restoration of "
            "single pictures are accepted"
        )
    if found.input_channels != found.output_channels or found.input_channels not in CHANNELS:
        raise ConfigError(
            f"{path} ({name}) turns {found.input_channels} channels into {found.output_channels}: "
            "1, 3 or 4 into as many are accepted"
        )
    if size.square:
        raise ConfigError(f"{path} ({name}) takes only square pictures: any size is accepted")
    network = _Called(found).eval()
    _fold_once(network)
    return Weights(
        network,
        architecture="spandrel_" + re.sub(r"[^a-z0-9]+", "_", found.architecture.id.lower()),
        scale=found.scale,
        channels=found.input_channels,
        files=(path,),
        multiple_of=size.multiple_of,
        min_side_px=max(1, size.minimum),
        tiled=found.tiling is spandrel.ModelTiling.SUPPORTED,
    )


class _Called(nn.Module):
    """A descriptor as a module: some networks give a tuple, or another range."""

    def __init__(self, descriptor: spandrel.ImageModelDescriptor[nn.Module]) -> None:
        super().__init__()
        self.model = descriptor.model
        self.call = descriptor._call_fn  # noqa: SLF001 its __call__ can't be traced

    def forward(self, images: Tensor) -> Tensor:
        enlarged: Tensor = self.call(self.model, images)
        return enlarged


def _fold_once(network: nn.Module) -> None:
    """SPAN folds its branches into one convolution at every call, which can't be traced."""
    for module in network.modules():
        if callable(fold := getattr(module, "update_params", None)):
            fold()
            vars(module)["update_params"] = lambda: None


def _loaded(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := FORBIDDEN.search(str(error)):
            raise ConfigError(
                f"{path} is refused: it would run {code[1]}; tensors alone are accepted"
            ) from error
        raise ConfigError(
            f"{path} is damaged, or holds more than tensors: tensors alone are accepted"
        ) from error
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged, or no file of weights: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}: a state dict is accepted")
    return loaded


def _recognised(path: Path, tensors: dict[str, Any]) -> spandrel.ModelDescriptor:
    supports = spandrel.MAIN_REGISTRY.architectures("detection")
    for architecture in (support.architecture for support in supports):
        if not architecture.detect(tensors):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the architecture's code still calls
                return architecture.load(tensors)
        except Exception as error:  # an architecture's own code: it raises what it likes
            first = next(iter(str(error).splitlines()), "")
            raise ConfigError(
                f"{path} looks like {architecture.name}, and isn't whole: "
                f"{type(error).__name__}: {first}"
            ) from error
    known = ", ".join(sorted(support.architecture.name for support in supports))
    raise ConfigError(
        f"{path} is of no known architecture (its tensors: {', '.join([*tensors][:3])}, …); "
        f"accepted: {known}"
    )
