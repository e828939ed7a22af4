"""The SDK with a server's certificates, over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from gan_client import AsyncClient, Client, ConnectionFailed
from gan_core.errors import ConfigError
from tests.serving.processes import Serving
from tests.serving.test_tls import issue, options_of

if TYPE_CHECKING:
    import trustme

PROTOCOLS = ["http", "grpc"]


def write(certificate: trustme.LeafCert, folder: Path) -> tuple[Path, Path]:
    """A client's certificate and key, as files."""
    files = folder / "client.pem", folder / "client-key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(files[0]))
    certificate.private_key_pem.write_to_path(str(files[1]))
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write(issue(folder, client_ca=True).issue_cert("client"), folder)
    return folder


@pytest.fixture(scope="module")
def plain(repository: Path) -> Iterator[Serving]:
    with Serving(repository, "ort") as serving:
        yield serving


@pytest.fixture(scope="module")
def encrypted(repository: Path, folder: Path) -> Iterator[Serving]:
    with Serving(repository, "ort", *options_of(folder)) as serving:
        yield serving


@pytest.fixture(scope="module")
def mutual(repository: Path, folder: Path) -> Iterator[Serving]:
    options = options_of(folder, "--tls-client-ca", str(folder / "ca.pem"))
    with Serving(repository, "ort", *options) as serving:
        yield serving


def url_of(serving: Serving, protocol: str) -> str:
    return serving.url if protocol == "http" else serving.grpc


def models(url: str, ca: Path | None = None, cert: tuple[Path, Path] | None = None) -> list[str]:
    with Client(url, ca=ca, cert=cert, max_retries=0) as client:
        return [card.model for card in client.models.list()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_ca_may_be_given(encrypted: Serving, folder: Path, protocol: str) -> None:
    url = url_of(encrypted, protocol)
    with pytest.raises(ConnectionFailed, match=r"CERTIFICATE_VERIFY_FAILED.*name who signed"):
        models(url)
    assert "marked" in models(url, folder / "ca.pem")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_environments_ca_counts_and_its_proxy_does_not(
    encrypted: Serving, folder: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "marked" in models(url_of(encrypted, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_shows_its_certificate(mutual: Serving, folder: Path, protocol: str) -> None:
    url, cert = url_of(mutual, protocol), (folder / "client.pem", folder / "client-key.pem")
    with pytest.raises(ConnectionFailed, match="name yours with cert="):
        models(url, folder / "ca.pem")
    assert "marked" in models(url, folder / "ca.pem", cert)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_file_that_cannot_be_used_is_named_at_once(
    tmp_path: Path, scheme: str, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=str(file)):
        Client(f"{scheme}://127.0.0.1:1", ca=file)
    with pytest.raises(ConfigError, match=str(file)):
        Client(f"{scheme}://127.0.0.1:1", cert=(file, file))


@pytest.mark.parametrize("url", ["http://host", "grpc://host:1", "triton://host:1", "local:."])
def test_certificates_are_never_ignored(url: str) -> None:
    with pytest.raises(ConfigError, match="go with https:// and grpcs://"):
        AsyncClient(url, ca="ca.pem")
    with pytest.raises(ConfigError, match="httpx client of your own"):
        AsyncClient("https://host", ca="ca.pem", http=httpx.AsyncClient())


@pytest.mark.parametrize(
    ("protocol", "asked", "hint"),
    [
        ("http", "https", "try http://"),
        ("http", "grpc", "try the other one, or http://"),
        ("grpc", "grpcs", "try grpc://"),
        ("grpc", "http", "try the other one, or grpc://"),
    ],
)
def test_a_plain_port_asked_in_another_way_is_told(
    plain: Serving, protocol: str, asked: str, hint: str
) -> None:
    _, address = url_of(plain, protocol).split("://")
    with pytest.raises(ConnectionFailed, match=hint):
        models(f"{asked}://{address}")


@pytest.mark.parametrize(
    ("protocol", "asked", "hint"),
    [
        ("http", "http", "try https://"),
        ("http", "grpcs", "try the other one, or https://"),
        ("grpc", "grpc", "try grpcs://"),
        ("grpc", "https", "try grpcs://"),
    ],
)
def test_an_encrypted_port_asked_in_another_way_is_told(
    encrypted: Serving, folder: Path, protocol: str, asked: str, hint: str
) -> None:
    _, address = url_of(encrypted, protocol).split("://")
    with pytest.raises(ConnectionFailed, match=hint):
        models(f"{asked}://{address}", folder / "ca.pem" if asked.endswith("s") else None)
