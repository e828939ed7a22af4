"""The chart and KServe's manifests, rendered and held against Kubernetes' own schemas."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml

from tests.deploy.files import DEPLOY, ROOT, last, serve_options

CHART = DEPLOY / "helm" / "ganforge"
KUBERNETES = "1.33"
WITHOUT_SCHEMA = {"PrometheusRule", "ScaledObject", "ServiceMonitor"}
ALL = {
    "engine": "triton",
    "autoscaling": {"enabled": True},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podAnnotations": {"a": "b"},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "modelsWritable": True,
    "serve": {"extraArgs": ["--grpc-port=-1"], "timeoutS": 12.5},
}
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "triton": {"engine": "triton"},
    "without a GPU": {"engine": "triton", "triton": {"gpus": 0}},
    "all": ALL,
}


@pytest.fixture(scope="module")
def helm() -> Any:
    return pytest.importorskip("helm_python", reason="pip install helm-python-sdk")


def rendered(helm: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="pictures", namespace="gan")
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def only(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [one for one in documents if one["kind"] == kind]
    return found


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = only(documents, "Deployment")["spec"]["template"]["spec"]
    return spec


def check(document: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    validate.validate(document, KUBERNETES, strict=True)


def kserve(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kserve" / name).read_text())
    return found


def test_lint_finds_nothing(helm: Any) -> None:
    report = helm.lint(CHART, strict=True)
    found = [one["error"] for one in report["messages"]]
    assert (report["errors"], found) == ([], ["icon is recommended"])


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_knows_every_field(helm: Any, values: dict[str, Any]) -> None:
    documents = rendered(helm, values)
    for document in documents:
        if document["kind"] not in WITHOUT_SCHEMA:
            check(document)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_gateways_arguments_are_ones_that_ganforge_takes(
    helm: Any, values: dict[str, Any]
) -> None:
    (gateway,) = pod_of(rendered(helm, values))["containers"]
    options = serve_options(gateway["args"])
    mounts = {mount["mountPath"] for mount in gateway["volumeMounts"]}
    assert str(options["keys"].parent) in mounts
    assert str(options["repository"]) in mounts


def test_values_reach_the_command_line(helm: Any) -> None:
    (gateway,) = pod_of(rendered(helm, ALL))["containers"]
    options = serve_options(gateway["args"])
    assert (options["grpc_port"], options["timeout_s"], options["max_waiting"]) == (-1, 12.5, 512)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"engine": "tensorflow"}, "engine"),
        ({"replica": 3}, "replica"),
        ({"serve": {"maxN": 0}}, "maxN"),
        ({"autoscaling": {"expectedWaitS": 0}}, "expectedWaitS"),
        ({"keys": {"secret": ""}}, "secret"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    helm: Any, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(helm.HelmError, match=named), helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)


def test_triton_stops_after_the_gateway_and_has_the_gpu(helm: Any) -> None:
    (triton,) = pod_of(rendered(helm, {"engine": "triton"}))["initContainers"]
    assert triton["restartPolicy"] == "Always"
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_pod_has_time_to_drain(helm: Any) -> None:
    pod = pod_of(rendered(helm, {"serve": {"drainS": 20}}))
    assert serve_options(pod["containers"][0]["args"])["drain_s"] == 20
    assert pod["terminationGracePeriodSeconds"] > 20 + 30


@pytest.mark.parametrize("writable", [False, True])
def test_the_models_are_read_only_unless_it_is_said(helm: Any, writable: bool) -> None:
    (gateway,) = pod_of(rendered(helm, {"modelsWritable": writable}))["containers"]
    (models,) = [mount for mount in gateway["volumeMounts"] if mount["name"] == "models"]
    assert models["readOnly"] is not writable


def test_every_container_is_confined(helm: Any) -> None:
    pod = pod_of(rendered(helm, {"engine": "triton"}))
    assert pod["securityContext"]["runAsNonRoot"]
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["runAsUser"] > 0
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_the_secret_is_lent_to_the_gateways_group(helm: Any) -> None:
    pod = pod_of(rendered(helm, {}))
    (keys,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "keys"]
    assert keys["defaultMode"] == 0o440
    assert (
        pod["securityContext"]["fsGroup"]
        == pod["containers"][0]["securityContext"]["runAsGroup"]
        == int(last("gateway", "USER").partition(":")[2])
    )


def test_probes_ask_the_ports_that_the_gateway_opens(helm: Any) -> None:
    (gateway,) = pod_of(rendered(helm, {}))["containers"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    options = serve_options(gateway["args"])
    assert ports == {
        "http": options["http_port"],
        "grpc": options["grpc_port"],
        "admin": options["admin_port"],
    }
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert gateway["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}


def test_the_operators_rules_are_the_ones_of_the_file(helm: Any) -> None:
    rule = only(rendered(helm, ALL), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())


def test_jobs_are_called_as_alerts_call_them(helm: Any) -> None:
    endpoints = only(rendered(helm, ALL), "ServiceMonitor")["spec"]["endpoints"]
    assert [one["relabelings"][0]["replacement"] for one in endpoints] == ["ganforge", "triton"]


def test_autoscaling_follows_the_queue(helm: Any) -> None:
    scaled = only(rendered(helm, ALL), "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    parser = pytest.importorskip("promql_parser", reason="pip install promql-parser")
    parser.parse(trigger["metadata"]["query"])
    assert "ganforge_expected_wait_seconds" in trigger["metadata"]["query"]
    assert 'service="pictures-ganforge-metrics"' in trigger["metadata"]["query"]
    assert "replicas" not in only(rendered(helm, ALL), "Deployment")["spec"]


def test_the_chart_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    gateway = kserve("inference-service.yaml")["spec"]["predictor"]["containers"][0]
    assert chart["appVersion"] == project["version"]
    assert gateway["image"].endswith(f":{project['version']}")


def test_kserves_pod_is_one_that_kubernetes_knows() -> None:
    predictor = kserve("inference-service.yaml")["spec"]["predictor"]
    for field in ("model", "minReplicas", "maxReplicas"):
        del predictor[field]
    runtime = kserve("serving-runtime.yaml")["spec"]
    predictor["containers"] += runtime["containers"]
    metadata = {"name": "ganforge"}
    check({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": predictor})


def test_kserves_gateway_takes_its_arguments() -> None:
    (gateway,) = kserve("inference-service.yaml")["spec"]["predictor"]["containers"]
    assert gateway["name"] == "transformer-container"  # KServe's name of who is asked
    assert serve_options(gateway["args"])["triton"] == "127.0.0.1:8001"


def test_kserves_triton_is_the_images_triton() -> None:
    (triton,) = kserve("serving-runtime.yaml")["spec"]["containers"]
    arguments = {*triton["command"], *triton["args"]}
    elsewhere = {"--model-repository=/models"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {*last("triton", "ENTRYPOINT"), *last("triton", "CMD")} - elsewhere <= arguments
    assert triton["env"] == [{"name": "ORT_DISABLE_TELEMETRY", "value": "1"}]
    assert "FROM ${TRITON} AS triton\n" in dockerfile
    assert f"ARG TRITON={triton['image']}\n" in dockerfile
