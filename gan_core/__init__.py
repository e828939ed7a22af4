"""ganforge's interfaces and training toolbox. Importing it loads no torch."""

from .card import ModelCard
from .hookspecs import hookimpl
from .variant import PaperCheck, TrainConfig, Variant

__all__ = ["ModelCard", "PaperCheck", "TrainConfig", "Variant", "hookimpl"]
