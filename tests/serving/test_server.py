"""``ganforge serve`` as a whole: its address, its options, and a Triton that is somebody else's."""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from gan_client import Client
from gan_core.errors import ConfigError, PermissionDenied, Unauthenticated
from gan_serving.keys import Caller, add_key, revoke_key
from gan_serving.options import Options
from gan_serving.server import serve
from gan_serving.sockets import listen
from gan_serving.triton_process import LocalTriton
from tests.serving.graphs import watermarked
from tests.serving.processes import Serving, ganforge, tritons, wait_until


def test_it_listens_on_loopback_and_where_it_says(repository: Path) -> None:
    with Serving(repository, "ort") as serving:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", serving.url)
        listening = {
            connection.laddr
            for connection in psutil.Process(serving.process.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
    # gRPC listens on IPv6 sockets, for IPv4 too
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    said = {int(url.rpartition(":")[2]) for url in (serving.url, serving.grpc)}
    assert {address.port for address in listening} == said


def test_once_its_address_is_printed_it_answers(repository: Path) -> None:
    with Serving(repository, "ort") as serving:
        assert httpx.get(f"{serving.url}/livez").status_code == 200


def test_its_options_reach_the_service(repository: Path) -> None:
    options = ("--max-n", "2", "--timeout-s", "0.2")
    with Serving(repository, "ort", *options) as serving:
        url = f"{serving.url}/v1/images/generations"
        httpx.post(url, json={"model": "slow", "label": 0})
        slow = httpx.post(url, json={"model": "slow", "label": 9})
        many = httpx.post(url, json={"model": "marked", "n": 3})
    assert slow.status_code == 504
    assert "at most 2 per request" in many.json()["detail"]


def test_a_triton_that_runs_already_is_used_and_left_running(
    triton: LocalTriton, repository: Path, tmp_path: Path
) -> None:
    with Serving(tmp_path / "nothing", "triton", "--triton", triton.address) as serving:
        assert tritons(serving.process.pid) == []
        with Client(serving.url) as client:
            image = client.images.generate(model="marked", seed=3).numpy()
        assert serving.ready()
    np.testing.assert_array_equal(image, watermarked([3]))
    assert triton.alive()


def test_a_port_is_refused_to_a_second_server_from_the_very_start() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "a b", "\0"])
def test_an_address_that_is_none_is_a_config_error(host: str) -> None:
    with pytest.raises(ConfigError, match="choose another --host"):
        listen(host, 0)


def test_without_a_repository_nothing_is_started(tmp_path: Path) -> None:
    options = Options(repository=tmp_path / "nothing", engine="ort", http_port=0)
    with pytest.raises(ConfigError, match="is not a model repository: publish a model into it"):
        asyncio.run(serve(options, print))


def test_sigterm_while_triton_starts_ends_cleanly(repository: Path, has_triton: None) -> None:
    command = [sys.executable, "-m", "gan_core.cli", "serve", "--http-port", "0"]
    command += ["--repository", str(repository), "--engine", "triton"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: bool(tritons(process.pid)), timeout_s=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_beyond_loopback_a_server_needs_keys(repository: Path) -> None:
    refused = ganforge("serve", "--repository", repository, "--engine", "ort", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "--keys" in refused.stderr
    assert "--insecure" in refused.stderr


def test_with_keys_both_protocols_ask_for_one(repository: Path, tmp_path: Path) -> None:
    key, _ = add_key(tmp_path / "keys.yaml", Caller("ours", models=("mark*",)))
    with Serving(repository, "ort", "--keys", str(tmp_path / "keys.yaml")) as serving:
        for url in (serving.url, serving.grpc):
            with Client(url) as client, pytest.raises(Unauthenticated):
                client.models.list()
            with Client(url, key=key) as client:
                image = client.images.generate(model="marked", seed=3).numpy()
                with pytest.raises(PermissionDenied):
                    client.images.generate(model="labelled")
            np.testing.assert_array_equal(image, watermarked([3]))


def test_a_key_that_is_revoked_opens_nothing_a_second_later(
    repository: Path, tmp_path: Path
) -> None:
    key, kept = add_key(tmp_path / "keys.yaml", Caller("ours"))
    with (
        Serving(repository, "ort", "--keys", str(tmp_path / "keys.yaml")) as serving,
        Client(serving.url, key=key) as client,
    ):
        assert client.models.list()
        revoke_key(tmp_path / "keys.yaml", kept.id)
        wait_until(lambda: refused_by(client), timeout_s=10)


def refused_by(client: Client) -> bool:
    try:
        client.models.list()
    except Unauthenticated:
        return True
    return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_pem.write_to_path(str(folder / "key.pem"))
    server.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "client.pem")
    )
    return folder


def test_with_a_certificate_both_protocols_are_encrypted(
    repository: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--tls-cert", str(certificates / "cert.pem"), "--tls-key")
    with Serving(repository, "ort", *options, str(certificates / "key.pem")) as serving:
        assert (serving.url[:8], serving.grpc[:8]) == ("https://", "grpcs://")
        trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        assert httpx.get(f"{serving.url}/livez", verify=trusting).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{serving.url}/livez")
        roots = (certificates / "ca.pem").read_bytes()
        assert health_of(serving.grpc, grpc.ssl_channel_credentials(roots)) == "SERVING"


def test_with_a_clients_authority_only_its_clients_get_in(
    repository: Path, certificates: Path
) -> None:
    options = [
        *("--tls-cert", str(certificates / "cert.pem")),
        *("--tls-key", str(certificates / "key.pem")),
        *("--tls-client-ca", str(certificates / "ca.pem")),
    ]
    with Serving(repository, "ort", *options) as serving:
        unknown = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{serving.url}/livez", verify=unknown)
        known = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        known.load_cert_chain(certificates / "client.pem")
        assert httpx.get(f"{serving.url}/livez", verify=known).status_code == 200
        roots, own = ((certificates / name).read_bytes() for name in ("ca.pem", "client.pem"))
        with pytest.raises(grpc.RpcError):
            health_of(serving.grpc, grpc.ssl_channel_credentials(roots))
        assert health_of(serving.grpc, grpc.ssl_channel_credentials(roots, own, own)) == "SERVING"


def health_of(url: str, credentials: grpc.ChannelCredentials) -> str:
    with grpc.secure_channel(url.removeprefix("grpcs://"), credentials) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service="marked"), timeout=10)
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-cert", "cert.pem"], "needs both --tls-cert and --tls-key"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], "the TLS certificate can't be used"),
        (["--keys", "no.yaml"], "there is no file of keys no.yaml"),
        (["--quota-storage", "nothing://x"], "can't count rates in nothing://x"),
        (["--jobs", "/proc/jobs.sqlite"], "can't keep jobs in /proc/jobs.sqlite"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_starts(
    repository: Path, options: list[str], message: str
) -> None:
    refused = ganforge("serve", "--repository", repository, "--engine", "ort", *options)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert message in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


def test_a_server_that_stops_says_so_to_probes_first(repository: Path) -> None:
    with Serving(repository, "ort", "--drain-s", "2") as serving:
        assert serving.ready()
        serving.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not serving.ready(), timeout_s=5)
        with Client(serving.url) as client:  # and still answers
            assert len(client.images.generate(model="marked", n=2)) == 2
        assert serving.process.wait(15) == 0


def test_metrics_are_on_a_port_of_their_own(repository: Path) -> None:
    with Serving(repository, "ort", "--admin-port", "0") as serving:
        with Client(serving.url) as client:
            client.images.generate(model="marked")
        metrics = httpx.get(f"{serving.admin}/metrics").text
        assert 'ganforge_requests_total{code="200"' in metrics
        assert httpx.get(f"{serving.url}/metrics").status_code == 404
