"""What to try instead, where a connection fails because it was asked for in another's way."""

from __future__ import annotations

__all__ = ["hinted"]

UNKNOWN_CA = "name who signed its certificate with ca=, or SSL_CERT_FILE"
NO_CERT = "if it asks for a certificate, name yours with cert="
HINTS = {
    "http": {
        "illegal request line": "if that is its gRPC port, try the other one, or grpc://",
        "disconnected without": "if it speaks TLS, try https://",
    },
    "https": {
        "WRONG_VERSION_NUMBER": "it speaks no TLS there: try http://, or grpc:// if it is gRPC's",
        "CERTIFICATE_VERIFY_FAILED": UNKNOWN_CA,
        "disconnected without": f"{NO_CERT}; if that is its gRPC port, try grpcs://",
    },
    "grpc": {
        "http1.x server": "if that is its HTTP port, try the other one, or http://",
        "Socket closed": "if it speaks TLS, try grpcs://",
    },
    "grpcs": {
        "WRONG_VERSION_NUMBER": "it speaks no TLS there: try grpc://, or http:// if it is HTTP's",
        "CERTIFICATE_VERIFY_FAILED": UNKNOWN_CA,
        "missing selected ALPN": "if that is its HTTP port, try the other one, or https://",
        "Socket closed": NO_CERT,
    },
}
"""By scheme, and by the words of the libraries that carry it."""


def hinted(scheme: str, text: str) -> str:
    """The text of a failed connection, and what to try."""
    hints = HINTS.get(scheme, {}).items()
    hint = next((hint for words, hint in hints if words in text), None)
    return f"{text} ({hint})" if hint else text
