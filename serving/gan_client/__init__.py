"""ganforge's Python SDK.

.. code-block:: python

    from gan_client import Client

    client = Client("http://127.0.0.1:8080")
    batch = client.images.generate(model="digits_dcgan", n=4, seed=7)
    batch[0].pil()

Importing it loads neither torch nor onnxruntime; a client loads what its address needs.
"""

from typing import TYPE_CHECKING

from gan_core.errors import (
    BadRequest,
    ConnectionFailed,
    DeadlineExceeded,
    GanforgeError,
    IdempotencyConflict,
    InternalError,
    InvalidRequest,
    JobNotFound,
    MethodNotAllowed,
    ModelNotFound,
    NotAcceptable,
    NotSupported,
    PayloadTooLarge,
    PermissionDenied,
    PixelsExceeded,
    QueueFull,
    RateLimited,
    RouteNotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

from .augmentation import AsyncAugmentation, Augmentation, Sample
from .client import AsyncClient, Client
from .images import GeneratedImage, ImageBatch

if TYPE_CHECKING:
    from gan_core.card import ModelCard

__all__ = [
    "AsyncAugmentation",
    "AsyncClient",
    "Augmentation",
    "BadRequest",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "GanforgeError",
    "GeneratedImage",
    "IdempotencyConflict",
    "ImageBatch",
    "InternalError",
    "InvalidRequest",
    "JobNotFound",
    "MethodNotAllowed",
    "ModelCard",
    "ModelNotFound",
    "NotAcceptable",
    "NotSupported",
    "PayloadTooLarge",
    "PermissionDenied",
    "PixelsExceeded",
    "QueueFull",
    "RateLimited",
    "RouteNotFound",
    "Sample",
    "ServiceError",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMedia",
]


def __getattr__(name: str) -> object:
    """``ModelCard``, imported when it is asked for: few programs name it."""
    if name != "ModelCard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gan_core.card import ModelCard

    return ModelCard
