"""ganforge's Python SDK.

.. code-block:: python

    from gan_client import Client

    client = Client("http://127.0.0.1:8080")
    batch = client.images.generate(model="digits_dcgan", n=4, seed=7)
    batch[0].pil()

Importing it loads neither torch nor onnxruntime.
"""

from gan_core.card import ModelCard
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
