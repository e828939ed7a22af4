"""Alerts and dashboard ask for metrics that are exported, by labels that they have."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gan_serving.admission import Admission
from gan_serving.service import ImageService
from gan_serving.telemetry import Seen, Telemetry
from tests.deploy.files import DEPLOY
from tests.serving.fake_engine import FakeEngine

DASHBOARD = DEPLOY / "grafana" / "ganforge.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
VARIABLES = {"$__rate_interval": "5m", "$model": ".*"}
ADDED = {"instance", "job", "namespace", "pod", "service", "le"}
"""Labels that scraping and histograms add."""
TRITON = {
    "nv_inference_request_success": {"model", "version"},
    "nv_inference_request_failure": {"model", "version", "reason"},
    "nv_inference_count": {"model", "version"},
    "nv_inference_exec_count": {"model", "version"},
    "nv_inference_queue_duration_us": {"model", "version"},
    "nv_inference_compute_infer_duration_us": {"model", "version"},
    "nv_inference_pending_request_count": {"model", "version"},
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
    "nv_gpu_memory_total_bytes": {"gpu_uuid"},
}
"""As docs/user_guide/metrics.md of Triton has them."""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """Of alerts and panels, with Grafana's variables filled in."""
    targets = [target for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    text = "\0".join(one["expr"] for one in (*rules(), *targets))
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text.split("\0")


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every metric, with its labels, once everything has happened."""
    service = ImageService(FakeEngine())
    service.admissions["marked"] = Admission(running=1, waiting=1)
    telemetry = Telemetry(service)
    telemetry.seen(Seen("http", "/readyz", "marked", "anybody", "200", 0.1, "id"))
    telemetry.ran("marked", 1, 0.1)
    telemetry.encoded("png", 1, 0.1)
    samples = [
        sample
        for family in text_string_to_metric_families(asyncio.run(telemetry.exposition()).decode())
        for sample in family.samples
    ]
    return {sample.name: {*sample.labels} for sample in samples} | TRITON | {"up": set()}


def used(expression: str) -> tuple[list[tuple[str, set[str]]], set[str]]:
    """Each metric of an expression with the labels that select it, and the labels of ``by``."""
    parser = pytest.importorskip("promql_parser", reason="pip install promql-parser")
    metrics: list[tuple[str, set[str]]] = []
    groups: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, parser.VectorSelector):
            metrics.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, parser.AggregateExpr) and node.modifier:
            groups.update(node.modifier.labels)

    parser.walk(parser.parse(expression), visit)
    return metrics, groups


@pytest.mark.parametrize("expression", expressions())
def test_metrics_are_exported_with_the_labels_asked_for(
    expression: str, exported: dict[str, set[str]]
) -> None:
    metrics, groups = used(expression)
    assert [name for name, _ in metrics if name not in exported] == []
    for name, labels in metrics:
        assert labels <= exported[name] | ADDED, name
    assert groups <= set().union(ADDED, *(exported[name] for name, _ in metrics))


def test_every_metric_of_ours_is_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    shown = {name for text in expressions() for name, _ in used(text)[0]}
    families = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for name in exported
        if name.startswith("ganforge_") and not name.endswith("_created")
    }
    assert [f for f in sorted(families) if not any(name.startswith(f) for name in shown)] == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_and_what(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", str(DEPLOY / "prometheus" / "prometheus.yaml")),
        ("test", "rules", str(Path(__file__).with_name("alerts_test.yaml"))),
    ],
    ids=["check", "test"],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: on Debian, apt-get install prometheus")
    command = [promtool, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
