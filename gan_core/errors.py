"""Every error that ganforge raises on purpose.

.. code-block:: text

    GanforgeError                     catch this for anything below
    ├── ConfigError                   a setting, a file or a command line that can't be used
    ├── PluginError                   a plugin failed to load, or what it provides isn't there
    ├── DataError                     a dataset is missing, or holds something that isn't an image
    ├── TrainingDiverged              a loss or a gradient stopped being finite
    │   └── TrainingUnhealthy         the divergence guard stopped the run
    ├── CheckpointError               a checkpoint can't be written or read
    ├── ExportError                   a generator can't be exported, or differs once exported
    ├── PublishError                  a repository refuses a version; it stays as it was
    ├── TritonError                   the local Triton can't be installed or started
    └── ServiceError                  a request failed; the rows below are the wire's one table
        ├── BadRequest                400  INVALID_ARGUMENT    the body can't be parsed
        ├── InvalidRequest            422  INVALID_ARGUMENT    a field is missing or out of range
        ├── Unauthenticated           401  UNAUTHENTICATED     no key, or one that isn't known
        ├── PermissionDenied          403  PERMISSION_DENIED   the key isn't for that model or route
        ├── ModelNotFound             404  NOT_FOUND           no such model or version
        ├── JobNotFound               404  NOT_FOUND           no such job, or not any more
        ├── RouteNotFound             404  UNIMPLEMENTED       no such route
        ├── MethodNotAllowed          405  UNIMPLEMENTED       the route doesn't take that method
        ├── NotAcceptable             406  INVALID_ARGUMENT    the answer can't have that media type
        ├── IdempotencyConflict       409  ALREADY_EXISTS      its key was used for another request
        ├── PayloadTooLarge           413  RESOURCE_EXHAUSTED  the body is larger than the limit
        ├── PixelsExceeded            413  RESOURCE_EXHAUSTED  more pixels than are taken
        ├── UnsupportedMedia          415  INVALID_ARGUMENT    the picture's format isn't read
        ├── RateLimited               429  RESOURCE_EXHAUSTED  the key's rate is used up; try later
        ├── QueueFull                 429  RESOURCE_EXHAUSTED  too many requests wait; try later
        ├── InternalError             500  INTERNAL            a defect of the server or the model
        ├── NotSupported              501  UNIMPLEMENTED       the model has no such capability
        ├── Unavailable               503  UNAVAILABLE         the model is down or being healed
        ├── DeadlineExceeded          504  DEADLINE_EXCEEDED   no answer within the deadline
        └── ConnectionFailed          the server can't be reached (raised by the client alone)

The SDK raises the same classes over every transport, so ``except QueueFull`` means the same
thing in process, over HTTP and on Triton.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "SERVICE_ERRORS",
    "BadRequest",
    "CheckpointError",
    "ConfigError",
    "ConnectionFailed",
    "DataError",
    "DeadlineExceeded",
    "ExportError",
    "GanforgeError",
    "IdempotencyConflict",
    "InternalError",
    "InvalidRequest",
    "JobNotFound",
    "MethodNotAllowed",
    "ModelNotFound",
    "NotAcceptable",
    "NotSupported",
    "PayloadTooLarge",
    "PermissionDenied",
    "PixelsExceeded",
    "PluginError",
    "PublishError",
    "QueueFull",
    "RateLimited",
    "RouteNotFound",
    "ServiceError",
    "TrainingDiverged",
    "TrainingUnhealthy",
    "TritonError",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMedia",
]


class GanforgeError(Exception):
    """Base of every error that ganforge raises on purpose."""


class ConfigError(GanforgeError):
    """A setting, a file or a command line can't be used; the message says what would be."""


class PluginError(GanforgeError):
    """A plugin failed to load, or a variant, dataset or metric isn't provided by any plugin."""


class DataError(GanforgeError):
    """A dataset is missing, empty, or holds something that isn't an image."""


class TrainingDiverged(GanforgeError):
    """A loss, penalty or gradient norm stopped being finite; nothing was saved after it."""

    def __init__(self, step: int, term: str, value: float) -> None:
        super().__init__(f"{term} became {value} at step {step}")
        self.step = step
        self.term = term
        self.healthy_until: float | None = None
        """Kimg before which nothing was wrong; None where that isn't known."""


class TrainingUnhealthy(TrainingDiverged):
    """The divergence guard stopped a run whose numbers are finite and whose training isn't."""

    def __init__(self, step: int, symptoms: str, healthy_until: float | None = None) -> None:
        GanforgeError.__init__(self, f"at step {step}: {symptoms}")
        self.step = step
        self.term = symptoms
        self.healthy_until = healthy_until


class CheckpointError(GanforgeError):
    """A checkpoint can't be written or read; earlier checkpoints are intact."""


class ExportError(GanforgeError):
    """A generator can't be exported to ONNX, or gives other pixels once exported."""


class PublishError(GanforgeError):
    """A model repository refuses a version; what was published before still serves."""


class TritonError(GanforgeError):
    """The local Triton can't be installed, started or reached."""


class ServiceError(GanforgeError):
    """A request failed. The class attributes are the one table for HTTP, gRPC and the SDK."""

    code: ClassVar[str] = "error"
    """Stable machine-readable name, the same on every transport."""
    status: ClassVar[int] = 500
    """HTTP status."""
    grpc: ClassVar[str] = "UNKNOWN"
    """gRPC status code name."""
    kind: ClassVar[str] = "server_error"
    """``error.type`` as OpenAI's clients read it."""
    title: ClassVar[str] = "Error"
    """RFC 9457 title: the same for every occurrence."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""
    soon_s: ClassVar[float | None] = None
    """``retry_after_s`` where nobody knows better."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The request field at fault, where there is one."""
        self.retry_after_s = self.soon_s if retry_after_s is None else retry_after_s
        """Seconds after which a retry makes sense, where it does."""
        self.request_id = request_id
        """The server's id of the request, to be quoted in a report."""


class BadRequest(ServiceError):
    """The body isn't what the route reads, for instance truncated JSON."""

    code, status, grpc = "bad_request", 400, "INVALID_ARGUMENT"
    kind, title = "invalid_request_error", "Malformed request"


class InvalidRequest(ServiceError):
    """A field is missing, of another type, or out of range; ``param`` names it."""

    code, status, grpc = "validation_error", 422, "INVALID_ARGUMENT"
    kind, title = "invalid_request_error", "Invalid request"


class Unauthenticated(ServiceError):
    """The request has no API key, or one that the server doesn't know."""

    code, status, grpc = "unauthenticated", 401, "UNAUTHENTICATED"
    kind, title = "authentication_error", "Not authenticated"


class PermissionDenied(ServiceError):
    """The API key is known, and isn't for that model or that route."""

    code, status, grpc = "permission_denied", 403, "PERMISSION_DENIED"
    kind, title = "permission_error", "Permission denied"


class ModelNotFound(ServiceError):
    """No model or version of that name is published."""

    code, status, grpc = "model_not_found", 404, "NOT_FOUND"
    kind, title = "invalid_request_error", "Model not found"


class JobNotFound(ServiceError):
    """The caller has no such job: it never had, cancelled it, or sent it over 24 hours ago."""

    code, status, grpc = "job_not_found", 404, "NOT_FOUND"
    kind, title = "invalid_request_error", "Job not found"


class RouteNotFound(ServiceError):
    """The server has no such route."""

    code, status, grpc = "route_not_found", 404, "UNIMPLEMENTED"
    kind, title = "invalid_request_error", "Route not found"


class MethodNotAllowed(ServiceError):
    """The route doesn't take that method."""

    code, status, grpc = "method_not_allowed", 405, "UNIMPLEMENTED"
    kind, title = "invalid_request_error", "Method not allowed"


class NotAcceptable(ServiceError):
    """The answer can't be given in the media type that was asked for."""

    code, status, grpc = "not_acceptable", 406, "INVALID_ARGUMENT"
    kind, title = "invalid_request_error", "Not acceptable"


class IdempotencyConflict(ServiceError):
    """The idempotency key was used for another request; a retry can't help."""

    code, status, grpc = "idempotency_conflict", 409, "ALREADY_EXISTS"
    kind, title = "invalid_request_error", "Idempotency conflict"


class PayloadTooLarge(ServiceError):
    """The request's body is larger than the server reads."""

    code, status, grpc = "payload_too_large", 413, "RESOURCE_EXHAUSTED"
    kind, title = "invalid_request_error", "Payload too large"


class PixelsExceeded(ServiceError):
    """The picture has more pixels than are taken, by its header; it was not decoded."""

    code, status, grpc = "pixels_exceeded", 413, "RESOURCE_EXHAUSTED"
    kind, title = "invalid_request_error", "Picture too large"


class UnsupportedMedia(ServiceError):
    """The picture is of a format or a kind that isn't read, for instance an animation."""

    code, status, grpc = "unsupported_media", 415, "INVALID_ARGUMENT"
    kind, title = "invalid_request_error", "Unsupported media"


class RateLimited(ServiceError):
    """The API key has used up its rate, or has as many requests in flight as it may."""

    code, status, grpc = "rate_limited", 429, "RESOURCE_EXHAUSTED"
    kind, title, retryable = "rate_limit_error", "Rate limited", True


class QueueFull(ServiceError):
    """As many requests wait as may; this one was not started."""

    code, status, grpc = "queue_full", 429, "RESOURCE_EXHAUSTED"
    kind, title, retryable = "rate_limit_error", "Queue full", True


class InternalError(ServiceError):
    """The server or the model has a defect; the details are in the server's log."""

    code, status, grpc = "internal", 500, "INTERNAL"
    kind, title = "server_error", "Internal error"


class NotSupported(ServiceError):
    """The model has no such capability."""

    code, status, grpc = "not_supported", 501, "UNIMPLEMENTED"
    kind, title = "invalid_request_error", "Not supported"


class Unavailable(ServiceError):
    """The model can't answer now: it is loading, its engine is down or being healed."""

    code, status, grpc = "model_unavailable", 503, "UNAVAILABLE"
    kind, title, retryable = "server_error", "Unavailable", True
    soon_s = 1.0


class DeadlineExceeded(ServiceError):
    """The answer wasn't ready within the request's deadline."""

    code, status, grpc = "deadline_exceeded", 504, "DEADLINE_EXCEEDED"
    kind, title = "server_error", "Deadline exceeded"


class ConnectionFailed(ServiceError):
    """The server can't be reached, or closed the connection before it answered."""

    code, status, grpc = "connection_failed", 503, "UNAVAILABLE"
    kind, title, retryable = "server_error", "Connection failed", True


SERVICE_ERRORS: dict[str, type[ServiceError]] = {
    error.code: error for error in ServiceError.__subclasses__()
}
"""Every service error by its ``code``: how a client turns an answer back into an exception."""
