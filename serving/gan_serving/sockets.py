"""Where a server listens."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

from gan_core.errors import ConfigError

__all__ = ["bracketed", "is_loopback", "listen", "reserved", "url_of"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        ConfigError: the port is taken, or the host isn't this machine's.
    """
    listening: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # named as TCP, or event loops leave Nagle's algorithm on: 40 ms for every answer
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # bound alone, it wouldn't keep a second server from the port
    except (OSError, OverflowError, ValueError) as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"can't listen on {host}:{port}: {error}; choose another --host or port"
        ) from error
    return listening


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """A port that nobody else gets, on which processes started meanwhile listen together.

    Raises:
        ConfigError: it is taken.
    """
    with listen(host, port) as probe:  # a shared port may be taken without an error
        family, port = probe.family, probe.getsockname()[1]
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
        yield port


def url_of(scheme: str, listening: socket.socket) -> str:
    """URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
