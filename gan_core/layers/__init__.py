"""Layers that several variants share."""

from .attention import PlainSelfAttention, SelfAttention
from .conditioning import BatchNorm2d, ConditionalBatchNorm2d, Head
from .minibatch import Minibatch, MinibatchDiscrimination, MinibatchStddev, minibatch_layer
from .points import PointDiscriminator, PointGenerator
from .residual import DownBlock, UpBlock, shortcuts_intact
from .spectral import bake, is_spectral, raw_weight, spectrally_normalised

__all__ = [
    "BatchNorm2d",
    "ConditionalBatchNorm2d",
    "DownBlock",
    "Head",
    "Minibatch",
    "MinibatchDiscrimination",
    "MinibatchStddev",
    "PlainSelfAttention",
    "PointDiscriminator",
    "PointGenerator",
    "SelfAttention",
    "UpBlock",
    "bake",
    "is_spectral",
    "minibatch_layer",
    "raw_weight",
    "shortcuts_intact",
    "spectrally_normalised",
]
