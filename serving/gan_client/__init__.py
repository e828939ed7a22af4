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
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotAcceptable,
    NotSupported,
    PayloadTooLarge,
    QueueFull,
    RouteNotFound,
    ServiceError,
    Unavailable,
)

from .client import AsyncClient, Client
from .images import GeneratedImage, ImageBatch

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "GanforgeError",
    "GeneratedImage",
    "ImageBatch",
    "InternalError",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelCard",
    "ModelNotFound",
    "NotAcceptable",
    "NotSupported",
    "PayloadTooLarge",
    "QueueFull",
    "RouteNotFound",
    "ServiceError",
    "Unavailable",
]
