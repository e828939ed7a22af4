"""The Python-based backend, in a real Triton that the whole module shares."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    model_config_pb2,
)
from tritonclient.utils import (
    InferenceServerException,
    np_to_triton_dtype,
)

from gan_serving.local_triton import home, installed, unsupported
from gan_serving.triton_process import LocalTriton

pytestmark = [
    pytest.mark.skipif(unsupported() is not None, reason=str(unsupported())),
    pytest.mark.skipif(
        not installed(home()), reason="no local Triton: run 'ganforge triton install'"
    ),
]

Array = np.ndarray[Any, Any]
Publish = Callable[..., str]

AFFINE = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { count: 1 kind: KIND_CPU }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
# The queue delay makes requests that are sent together share a batch.
LOOKUP = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "label" data_type: TYPE_INT64 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1, 2 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 300000 }
"""
# Squares images of any size.
SQUARE = """
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1, -1 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 300000 }
"""


def graph(node: onnx.NodeProto, *values: Any, constants: dict[str, Array] | None = None) -> Any:
    """A model of one node over ``(name, element type, shape)``, the last value its output."""
    infos = [helper.make_tensor_value_info(*value) for value in values]
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    body = helper.make_graph([node], "g", infos[:-1], infos[-1:], initializer=tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def affine(batch: Any = "N", size: Any = 4) -> Any:
    return graph(
        helper.make_node("Mul", ["x", "scale"], ["y"]),
        ("x", TensorProto.FLOAT, [batch, size]),
        ("y", TensorProto.FLOAT, [batch, size]),
        constants={"scale": np.array([1, 2, 3, 4], np.float32)},
    )


def lookup() -> Any:
    return graph(
        helper.make_node("Gather", ["table", "label"], ["y"]),
        ("label", TensorProto.INT64, ["N", 1]),
        ("y", TensorProto.FLOAT, ["N", 1, 2]),
        constants={"table": np.arange(20, dtype=np.float32).reshape(10, 2)},
    )


def square() -> Any:
    return graph(
        helper.make_node("Mul", ["x", "x"], ["y"]),
        ("x", TensorProto.FLOAT, ["N", "H", "W"]),
        ("y", TensorProto.FLOAT, ["N", "H", "W"]),
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model_repository")


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[InferenceServerClient]:
    triton = LocalTriton(repository, home=home(), log=repository.with_suffix(".log"))
    triton.start()
    with InferenceServerClient(triton.address) as client:
        yield client
    triton.stop()


@pytest.fixture
def publish(
    repository: Path, client: InferenceServerClient, request: pytest.FixtureRequest
) -> Publish:
    """Writes a model under the test's own name, loads it and returns the name."""

    def publish(config: str, model: Any) -> str:
        name = str(request.node.name).translate(str.maketrans("[]- ", "____"))
        message = text_format.Parse(config, model_config_pb2.ModelConfig(name=name))
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(text_format.MessageToString(message))
        if model is not None:
            onnx.save(model, repository / name / "1" / "model.onnx")
        client.load_model(name)
        return name

    return publish


def tensor(name: str, array: Array) -> InferInput:
    return InferInput(name, array.shape, np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)


def infer_together(client: InferenceServerClient, model: str, inputs: list[InferInput]) -> Any:
    """Results or exceptions of requests that are all under way at the same time."""
    answers: list[Future[Any]] = [Future() for _ in inputs]
    for item, answer in zip(inputs, answers, strict=True):
        client.async_infer(
            model, [item], lambda result, error, a=answer: a.set_result(error or result)
        )
    return [answer.result(timeout=10) for answer in answers]


def runs(client: InferenceServerClient, model: str, samples: int) -> int:
    """Runs of the backend that so many samples took; Triton counts once it has answered."""
    deadline = time.monotonic() + 5
    while True:
        stats = client.get_inference_statistics(model).model_stats[0]
        if stats.inference_count == samples:
            return int(stats.execution_count)
        assert time.monotonic() < deadline, f"{stats.inference_count} samples, not {samples}"
        time.sleep(0.01)


def test_triton_gives_what_onnxruntime_gives(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(AFFINE, affine())
    x = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    session = ort.InferenceSession(affine().SerializeToString(), providers=["CPUExecutionProvider"])
    answer = client.infer(model, [tensor("x", x)]).as_numpy("y")
    np.testing.assert_array_equal(answer, session.run(None, {"x": x})[0])


def test_concurrent_requests_share_a_run_and_each_gets_its_own_rows(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(LOOKUP, lookup())
    labels = [np.array([[1]]), np.array([[2], [3]]), np.array([[4]]), np.array([[5], [6]])]
    answers = infer_together(client, model, [tensor("label", label) for label in labels])
    for label, answer in zip(labels, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("y")[:, 0, 0], 2.0 * label[:, 0])
    assert runs(client, model, samples=6) < len(labels)


def test_a_failing_row_fails_its_own_request_alone(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(LOOKUP, lookup())
    labels = [np.array([[7]]), np.array([[10]]), np.array([[9]])]
    good, bad, other = infer_together(client, model, [tensor("label", x) for x in labels])
    assert good.as_numpy("y").tolist() == [[[14, 15]]]
    assert other.as_numpy("y").tolist() == [[[18, 19]]]
    assert isinstance(bad, InferenceServerException)
    assert "onnx runtime error" in bad.message()
    assert "out of data bounds" in bad.message()
    assert runs(client, model, samples=3) < len(labels)


def test_requests_of_different_shapes_are_answered_together(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(SQUARE, square())
    images = [np.full((1, side, side + 1), side, np.float32) for side in (2, 3, 2, 3)]
    answers = infer_together(client, model, [tensor("x", image) for image in images])
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("y"), image**2)


def test_a_cancelled_request_leaves_the_others_of_its_batch_alone(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(LOOKUP, lookup())
    cancelled: Future[Any] = Future()
    context = client.async_infer(
        model,
        [tensor("label", np.array([[0]]))],
        lambda result, error: cancelled.set_result(error or result),
    )
    context.cancel()
    (kept,) = infer_together(client, model, [tensor("label", np.array([[8]]))])
    assert "CANCELLED" in str(cancelled.result(timeout=10).status())
    assert kept.as_numpy("y").tolist() == [[[16, 17]]]


def test_a_model_without_batching_is_served_as_it_is(
    client: InferenceServerClient, publish: Publish
) -> None:
    config = AFFINE.replace("max_batch_size: 8", "").replace("[ 4 ]", "[ 2, 4 ]")
    model = publish(config, affine(batch=2))
    answer = client.infer(model, [tensor("x", np.ones((2, 4), np.float32))]).as_numpy("y")
    assert answer.tolist() == [[1, 2, 3, 4]] * 2


def test_a_configuration_may_fix_what_is_symbolic_in_an_input(
    client: InferenceServerClient, publish: Publish
) -> None:
    fixed = SQUARE.replace(
        '"x" data_type: TYPE_FP32 dims: [ -1, -1 ]', '"x" data_type: TYPE_FP32 dims: [ 2, 2 ]'
    )
    assert fixed != SQUARE
    assert client.is_model_ready(publish(fixed, square()))


def test_reshape_gives_the_graph_a_label_of_rank_one(
    client: InferenceServerClient, publish: Publish
) -> None:
    rank_one = graph(
        helper.make_node("Gather", ["table", "label"], ["y"]),
        ("label", TensorProto.INT64, ["N"]),
        ("y", TensorProto.FLOAT, ["N", 2]),
        constants={"table": np.arange(20, dtype=np.float32).reshape(10, 2)},
    )
    config = LOOKUP.replace("dims: [ 1 ]", "dims: [ 1 ] reshape { shape: [ ] }")
    model = publish(config.replace("[ 1, 2 ]", "[ 2 ]"), rank_one)
    answer = client.infer(model, [tensor("label", np.array([[3], [4]]))]).as_numpy("y")
    assert answer.tolist() == [[6, 7], [8, 9]]


SECOND_INPUT = 'input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }'
ACCELERATORS = (
    'optimization {{ execution_accelerators {{ {}_execution_accelerator {{ name: "{}" }} }} }}'
)


@pytest.mark.parametrize(
    ("config", "model", "reason"),
    [
        pytest.param(
            AFFINE.replace("TYPE_FP32 dims: [ 4 ] }\noutput", "TYPE_FP16 dims: [ 4 ] }\noutput"),
            affine(),
            "configuration expects datatype TYPE_FP16 for input 'x', model provides TYPE_FP32",
            id="input dtype",
        ),
        pytest.param(
            AFFINE.replace('"y" data_type: TYPE_FP32', '"y" data_type: TYPE_UINT8'),
            affine(),
            "configuration expects datatype TYPE_UINT8 for output 'y', model provides TYPE_FP32",
            id="output dtype",
        ),
        pytest.param(
            AFFINE.replace(
                '"x" data_type: TYPE_FP32 dims: [ 4 ]', '"x" data_type: TYPE_FP32 dims: 5'
            ),
            affine(),
            "input 'x' is [-1, 4] in the model, [-1, 5] in configuration",
            id="input dims",
        ),
        pytest.param(
            AFFINE.replace(
                '"y" data_type: TYPE_FP32 dims: [ 4 ]', '"y" data_type: TYPE_FP32 dims: -1'
            ),
            affine(),
            "output 'y' is [-1, 4] in the model, [-1, -1] in configuration",
            id="output dims",
        ),
        pytest.param(
            SQUARE.replace("dims: [ -1, -1 ]", "dims: [ -1 ]"),
            square(),
            "input 'x' is [-1, -1, -1] in the model, [-1, -1] in configuration",
            id="rank",
        ),
        pytest.param(
            AFFINE + SECOND_INPUT,
            affine(),
            "configuration expects 2 inputs, model provides 1",
            id="count",
        ),
        pytest.param(
            AFFINE.replace('"x"', '"z"'),
            affine(),
            "unexpected inference input 'z', allowed inputs: x",
            id="input name",
        ),
        pytest.param(
            AFFINE.replace('"y"', '"image"'),
            affine(),
            "unexpected inference output 'image', allowed outputs: y",
            id="output name",
        ),
        pytest.param(
            AFFINE,
            affine(batch=2),
            "input 'x' is [2, 4] in the model: its first dimension must be -1",
            id="fixed batch",
        ),
        pytest.param(
            AFFINE + SECOND_INPUT.replace("dims: [ 4 ]", "dims: [ 4 ] optional: true"),
            affine(),
            "optional input 'z' is not supported for models that support batching",
            id="optional",
        ),
        pytest.param(
            AFFINE + ACCELERATORS.format("gpu", "warp"),
            affine(),
            "unknown Execution Accelerator 'warp' is requested",
            id="gpu accelerator",
        ),
        pytest.param(
            AFFINE + ACCELERATORS.format("cpu", "warp"),
            affine(),
            "unknown Execution Accelerator 'warp' is requested",
            id="cpu accelerator",
        ),
        pytest.param(AFFINE, None, "can't load model.onnx", id="no graph"),
    ],
)
def test_a_model_that_the_container_refuses_is_refused_with_its_reason(
    publish: Publish, config: str, model: Any, reason: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        publish(config, model)
    assert reason in refused.value.message()


@pytest.mark.parametrize("level", [-1, 0, 1, 2])
def test_each_graph_optimisation_level_loads(
    client: InferenceServerClient, publish: Publish, level: int
) -> None:
    model = publish(AFFINE + f"optimization {{ graph {{ level: {level} }} }}", affine())
    assert client.is_model_ready(model)


def test_known_gpu_accelerators_are_ignored_on_a_cpu(
    client: InferenceServerClient, publish: Publish
) -> None:
    model = publish(AFFINE + ACCELERATORS.format("gpu", "tensorrt"), affine())
    assert client.is_model_ready(model)


@pytest.mark.parametrize(
    ("dims", "instances", "given", "threads"),
    [
        ([-1, -1, 3], 1, None, 8),
        ([-1, -1, 3], 2, None, 4),
        ([-1, -1, 3], 20, None, 1),
        ([-1, -1, 3], 2, "3", 3),
        ([100], 2, None, 0),
    ],
    ids=["alone", "two", "more than cores", "as told", "no picture: onnxruntime decides"],
)
def test_instances_share_the_cores_for_pictures(
    monkeypatch: pytest.MonkeyPatch,
    dims: list[int],
    instances: int,
    given: str | None,
    threads: int,
) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("utils"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    backend = importlib.import_module("gan_serving.triton_backend.model")
    monkeypatch.delitem(sys.modules, backend.__name__)
    config = {
        "input": [{"name": "source", "dims": dims}],
        "instance_group": [{"count": instances}],
        "optimization": {},
        "parameters": {"intra_op_thread_count": {"string_value": given}} if given else {},
    }
    assert backend._session_options(config).intra_op_num_threads == threads
