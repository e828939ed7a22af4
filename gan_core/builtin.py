"""What gan_core itself provides, through the same hooks that plugins use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .data import Dataset
    from .evaluation import FeatureExtractor
    from .metrics import Metric

__all__ = ["ganforge_datasets", "ganforge_feature_extractors", "ganforge_metrics"]


@hookimpl
def ganforge_datasets() -> list[Dataset]:
    """digits, folder:PATH, torchvision's sets, crops of photographs, and points in the plane."""
    from .crops import DATASETS as OF_PHOTOGRAPHS
    from .datasets import DATASETS
    from .points import DATASETS as POINTS

    return [*DATASETS, *OF_PHOTOGRAPHS, *POINTS]


@hookimpl
def ganforge_metrics() -> list[Metric]:
    """FID, KID, precision and the like, and how many modes of points are covered."""
    from .metrics import METRICS
    from .points import METRICS as OF_POINTS

    return [*METRICS, *OF_POINTS]


@hookimpl
def ganforge_feature_extractors() -> list[FeatureExtractor]:
    """Inception, a classifier of the embedded digits, any ONNX file, pixels, distances to modes."""
    from .extractors import EXTRACTORS
    from .points import EXTRACTORS as OF_POINTS

    return [*EXTRACTORS, *OF_POINTS]
