"""Whom a client believes, and how it shows who it is: the same over HTTP and gRPC."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import ConfigError

if TYPE_CHECKING:
    import grpc

__all__ = ["AnyPath", "Tls"]

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a client."""

    ca: AnyPath | None = None
    """Who signed the server's certificate; SSL_CERT_FILE, else the public authorities."""
    cert: tuple[AnyPath, AnyPath] | None = None
    """The client's certificate and its key, for a server that asks for one (mTLS)."""

    def context(self) -> ssl.SSLContext:
        """For HTTP.

        Raises:
            ConfigError: a file can't be used.
        """
        import httpx

        try:
            if self._ca is None:
                context = httpx.create_ssl_context()
            else:
                context = ssl.create_default_context(cafile=self._ca)
            if self.cert is not None:
                context.load_cert_chain(*self.cert)
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(
                f"ca={self._ca!r}, cert={self.cert!r}: not PEM files of an authority, and of a "
                f"certificate and its key: {error}"
            ) from error
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC.

        Raises:
            ConfigError: a file can't be used.
        """
        import grpc

        if self._ca or self.cert:
            self.context()  # gRPC would say at the first call, if at all, what is wrong with a file
        certificate, key = self.cert or (None, None)
        return grpc.ssl_channel_credentials(_read(self._ca), _read(key), _read(certificate))

    @property
    def _ca(self) -> AnyPath | None:
        return self.ca or os.environ.get("SSL_CERT_FILE") or None


def _read(file: AnyPath | None) -> bytes | None:
    return Path(file).read_bytes() if file else None
