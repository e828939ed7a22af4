"""TLS for both protocols: a certificate whose files may be replaced while the server runs.

The files are looked at when a client connects: a new pair is used from the next connection on.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Certificates", "Tls"]

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A certificate for both protocols, as PEM files."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Who signs the certificates that clients must show; None asks for none."""

    def files(self) -> Iterator[Path]:
        """Those that there are."""
        yield from filter(None, (self.certificate, self.key, self.client_ca))


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Certificates:
    """What the files hold; while they hold nothing that can be used, what they held before.

    Raises:
        ConfigError: they hold nothing that can be used.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._changing = threading.Lock()  # gRPC asks from threads of its own
        self._stamp = _stamp(tls)
        try:
            self._loaded = _load(tls)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the TLS certificate can't be used: {error}") from error
        self._given = self._loaded

    def context(self) -> ssl.SSLContext:
        """For a server of asyncio's."""
        context = _load(self._tls).context
        context.sni_callback = self._choose
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """For a server of gRPC's."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration,
            self._renewed,  # type: ignore[arg-type]  # None goes on with the one before
            require_client_authentication=self._tls.client_ca is not None,
        )

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: object) -> None:
        connection.context = self._newest().context

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """For the next connection; None as long as it is the one before's."""
        newest = self._newest()
        if newest is self._given:
            return None
        self._given = newest
        return newest.configuration

    def _newest(self) -> _Loaded:
        with self._changing:
            stamp = _stamp(self._tls)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._loaded = _load(self._tls)
                    log.warning("TLS: %s is used from now on", self._tls.certificate)
                except (OSError, ssl.SSLError) as error:
                    log.error("TLS: what %s is now can't be used: %s", self._tls.certificate, error)  # noqa: TRY400
            return self._loaded


def _stamp(tls: Tls) -> Stamp:
    """Changes with the files."""
    return tuple(map(_stamp_of, tls.files()))


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _load(tls: Tls) -> _Loaded:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    roots = None
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        roots = tls.client_ca.read_bytes()
    pair = tls.key.read_bytes(), tls.certificate.read_bytes()
    return _Loaded(context, grpc.ssl_server_certificate_configuration([pair], roots))
