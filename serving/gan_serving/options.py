"""How to serve, and where it then listens."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import ConfigError

from .tls import Tls

__all__ = ["Doors", "Listening", "Options", "check_origin"]

ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+")
"""As browsers write it: with a scheme, and without a path."""


def check_origin(origin: str) -> None:
    """Refuse what no web page comes from.

    Raises:
        ConfigError: it is no origin.
    """
    if not ORIGIN.fullmatch(origin):
        raise ConfigError(
            f"{origin!r} is not an origin; accepted are *, and one such as https://example.org or "
            "http://localhost:3000, without a path"
        )


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server can be reached."""

    http: str
    """URL."""
    grpc: str | None
    """``grpc://host:port``, ``grpcs://`` with TLS."""
    admin: str | None
    """URL of metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to serve."""

    repository: Path
    engine: str
    """``triton`` or ``ort``."""
    triton: str | None = None
    """``host:port`` of a Triton that runs already; None starts the local one."""
    host: str = "127.0.0.1"
    http_port: int = 8080
    """0 = any free one."""
    grpc_port: int | None = None
    """0 = any free one; None = no gRPC."""
    admin_port: int | None = None
    """For metrics; 0 = any free one; None = none."""
    admin_host: str = "127.0.0.1"
    keys: Path | None = None
    """File of API keys; None lets in anybody."""
    quota_storage: str = "memory://"
    """Where the keys' rates are counted, as the ``limits`` library writes it."""
    jobs: Path | None = None
    """SQLite file of jobs, which then outlive the server; None keeps them while it runs."""
    tls: Tls | None = None
    drain_s: float = 0.0
    """Seconds between saying no to probes and to requests, for balancers to notice."""
    max_waiting: int = 512
    """Most images that wait for a model."""
    max_n: int = 64
    """Most images per request."""
    cors_origins: tuple[str, ...] = ()
    """Whose web pages may ask."""
    max_image_mb: int = 128
    """Largest file of a picture that comes in, in MiB."""
    timeout_s: float = 30.0
    """Longest that a request may take."""
    otlp_endpoint: str | None = None
    """Where traces go; None traces nothing."""
    workers: int = 1
    """Processes that answer; more than one leave Triton to itself, or share the cores."""
    log_format: str = "text"
    """``json`` or ``text``."""
    log_level: str = "warning"


@dataclass(frozen=True, slots=True)
class Doors:
    """A server's sockets, which its processes share."""

    http: socket.socket
    admin: socket.socket | None
