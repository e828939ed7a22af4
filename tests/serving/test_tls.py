"""A certificate that is replaced while the server runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.serving.processes import Serving


def issue(folder: Path, *, client_ca: bool = False) -> trustme.CA:
    """Writes a certificate for this machine; returns who signed it."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(str(folder / "key.pem"))
    server.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    if client_ca:
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return authority


def options_of(folder: Path, *more: str) -> list[str]:
    return ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"), *more]


def is_trusted(serving: Serving, authority: trustme.CA, client: trustme.LeafCert | None) -> bool:
    """Whether both protocols show a certificate of that authority; both or neither must."""
    answers = {over_http(serving, authority, client), over_grpc(serving, authority, client)}
    (answer,) = answers
    return answer


def over_http(serving: Serving, authority: trustme.CA, client: trustme.LeafCert | None) -> bool:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client:
        client.configure_cert(context)
    try:
        return httpx.get(f"{serving.url}/livez", verify=context).status_code == 200
    except httpx.TransportError:
        return False


def over_grpc(serving: Serving, authority: trustme.CA, client: trustme.LeafCert | None) -> bool:
    own = client and (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *(own or ()))
    with grpc.secure_channel(serving.grpc.removeprefix("grpcs://"), credentials) as channel:
        try:
            HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
        except grpc.RpcError:
            return False
    return True


def test_new_connections_get_the_new_certificate_and_open_ones_go_on(
    repository: Path, tmp_path: Path
) -> None:
    old = issue(tmp_path)
    context = ssl.create_default_context()
    old.configure_trust(context)
    with (
        Serving(repository, "ort", *options_of(tmp_path)) as serving,
        httpx.Client(base_url=serving.url, verify=context) as open_connection,
    ):
        assert is_trusted(serving, old, None)
        assert open_connection.get("/livez").status_code == 200
        new = issue(tmp_path)
        assert is_trusted(serving, new, None)
        assert not is_trusted(serving, old, None)
        assert open_connection.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("file", "content"), [("cert.pem", b"broken"), ("cert.pem", None), ("key.pem", b"other")]
)
def test_while_the_files_are_broken_the_old_certificate_goes_on(
    repository: Path, tmp_path: Path, file: str, content: bytes | None
) -> None:
    old = issue(tmp_path)
    with Serving(repository, "ort", *options_of(tmp_path)) as serving:
        if content is None:
            (tmp_path / file).unlink()
        elif content == b"other":  # of another pair
            trustme.CA().issue_cert("a").private_key_pem.write_to_path(str(tmp_path / file))
        else:
            (tmp_path / file).write_bytes(content)
        assert is_trusted(serving, old, None)
        assert is_trusted(serving, old, None)
        said = [line for line in serving.errors().splitlines() if "can't be used" in line]
        assert len(said) == 1
        new = issue(tmp_path)
        assert is_trusted(serving, new, None)


def test_a_new_authority_of_clients_is_used_too(repository: Path, tmp_path: Path) -> None:
    old = issue(tmp_path, client_ca=True)
    options = options_of(tmp_path, "--tls-client-ca", str(tmp_path / "ca.pem"))
    with Serving(repository, "ort", *options) as serving:
        assert is_trusted(serving, old, old.issue_cert("client"))
        new = issue(tmp_path, client_ca=True)
        assert is_trusted(serving, new, new.issue_cert("client"))
        assert not is_trusted(serving, new, old.issue_cert("client"))
        assert not is_trusted(serving, new, None)
