"""What gan_core itself provides, through the same hooks that plugins use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .data import Dataset
    from .evaluation import FeatureExtractor, Metric

__all__ = ["ganforge_datasets", "ganforge_feature_extractors", "ganforge_metrics"]


@hookimpl
def ganforge_datasets() -> list[Dataset]:
    """digits, folder:PATH and torchvision's sets."""
    from .datasets import DATASETS

    return list(DATASETS)


@hookimpl
def ganforge_metrics() -> list[Metric]:
    """FID and KID."""
    from .evaluation import METRICS

    return list(METRICS)


@hookimpl
def ganforge_feature_extractors() -> list[FeatureExtractor]:
    """A classifier trained on the embedded digits, and plain pixels."""
    from .extractors import EXTRACTORS

    return list(EXTRACTORS)
