"""``ganforge bench``: load for a server, and what came of it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Accept"]


class Accept(StrEnum):
    """How images come."""

    PNG = "png"
    """As a file; over gRPC any number of them."""
    JSON = "json"
    """As files in OpenAI's JSON; HTTP only."""
    RAW = "raw"
    """As pixels; gRPC only."""
