"""Spectral normalisation of a whole network (Miyato et al. 2018)."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ConfigError

__all__ = ["bake", "is_spectral", "raw_weight", "spectrally_normalised"]

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Embedding, nn.Linear)


def spectrally_normalised(network: nn.Module, eps: float = 1e-12) -> nn.Module:
    """The same network, its layers' weights divided by their largest singular values.

    One power iteration per forward pass in training, none in evaluation; u and v are buffers.
    Linear, convolution and embedding layers are meant; what is normalised already stays as it is.

    Args:
        network: changed in place.
        eps: keeps norms from 0. BigGAN: 1e-6.

    Raises:
        ConfigError: a weight is all zeros, as a residual branch's may be at the start.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, LAYERS) and not is_spectral(module):
            if not module.weight.any():
                raise ConfigError(
                    f"layer {name!r} of {type(network).__name__} starts with weights of 0, which "
                    "spectral normalisation would divide by 0: leave spectral_norm out"
                )
            spectral_norm(module, eps=eps)
    return network


def is_spectral(module: nn.Module) -> bool:
    """Whether a layer's weight is spectrally normalised."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    chain = module.get_submodule("parametrizations.weight").children()
    return any(type(link).__name__ == "_SpectralNorm" for link in chain)


def raw_weight(module: nn.Module) -> nn.Parameter:
    """What the optimiser learns of a layer's weight."""
    parametrised = parametrize.is_parametrized(module, "weight")
    return module.get_parameter("parametrizations.weight.original" if parametrised else "weight")


def bake(network: nn.Module) -> nn.Module:
    """The same network with its parametrised weights as plain parameters: for export."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            # copies share the class that the property is removed from: this one gets its own
            shared = type(module)
            module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
            for name, _ in list(module.get_submodule("parametrizations").named_children()):
                parametrize.remove_parametrizations(module, name)
    return network
