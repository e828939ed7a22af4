"""ganforge's interfaces and training toolbox. Importing it loads no torch."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .card import ModelCard
    from .hookspecs import hookimpl
    from .toolbox import AdversarialConfig
    from .variant import PaperCheck, TrainConfig, Variant

# onnxruntime reports what it runs to its makers unless told otherwise before it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "AdversarialConfig",
    "ModelCard",
    "PaperCheck",
    "TrainConfig",
    "Variant",
    "hookimpl",
]

_MODULES = {
    "AdversarialConfig": "toolbox",
    "ModelCard": "card",
    "PaperCheck": "variant",
    "TrainConfig": "variant",
    "Variant": "variant",
    "hookimpl": "hookspecs",
}


def __getattr__(name: str) -> object:
    """Import what is asked for: the SDK uses the card, and needn't pay for what trains."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
