"""Triton's ``onnxruntime`` backend in Python: serves what the container's C++ backend serves.

Runs in Triton's stub process, under the local Triton's environment (numpy < 2, onnxruntime), so
it imports nothing of ganforge. A model whose configuration the C++ backend refuses is refused
here as well, in its words: what loads here loads in the container.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

__all__ = ["TritonPythonModel"]

Arrays = dict[str, np.ndarray[Any, Any]]

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(double)": "TYPE_FP64",
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(string)": "TYPE_STRING",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(uint8)": "TYPE_UINT8",
}
GRAPH_LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}  # any other: all, as in the C++ backend
ACCELERATORS = {"gpu": {"cuda", "tensorrt"}, "cpu": {"openvino"}}
PICTURE_DIMS = 3
UNSUPPORTED = ("sequence_batching", "batch_input", "batch_output")


class TritonPythonModel:
    """One instance of a model: an onnxruntime session that answers batches of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``model.onnx`` of this version and check the configuration against its graph."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / (config.get("default_model_filename") or "model.onnx")
        _check_features(config)
        try:
            self._session = ort.InferenceSession(
                str(path), _session_options(config), providers=_providers(args)
            )
        except Exception as error:  # onnxruntime has no base class for its errors
            raise pb_utils.TritonModelException(f"can't load {path.name}: {error}") from error
        _check_inputs(config, self._session.get_inputs())
        _check_outputs(config, self._session.get_outputs())
        self._inputs = [item["name"] for item in config["input"]]
        self._outputs = [item["name"] for item in config["output"]]
        self._batched = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in order; those of equal shapes share one run."""
        responses: list[Any] = [None] * len(requests)
        groups: defaultdict[object, dict[int, Arrays]] = defaultdict(dict)
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _failure("the request was cancelled", "CANCELLED")
                continue
            arrays = {item.name(): item.as_numpy() for item in request.inputs()}
            shapes = tuple(arrays[name].shape[1:] for name in self._inputs if name in arrays)
            groups[shapes if self._batched else index][index] = arrays
        for group in groups.values():
            for index, response in zip(group, self._answer(list(group.values())), strict=True):
                responses[index] = response
        return responses

    def _answer(self, group: list[Arrays]) -> list[Any]:
        """One response each; where the shared run fails, each runs alone and fails alone."""
        try:
            return [_success(outputs) for outputs in self._run(group)]
        except Exception as error:  # noqa: BLE001  the server's last line: it becomes a response
            if len(group) == 1:
                return [_failure(f"onnx runtime error: {error}", "INTERNAL")]
        return [response for request in group for response in self._answer([request])]

    def _run(self, group: list[Arrays]) -> list[Arrays]:
        feeds = group[0]
        if len(group) > 1:
            feeds = {name: np.concatenate([one[name] for one in group]) for name in feeds}
        outputs = dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
        if not self._batched:
            return [outputs]
        sizes = [len(next(iter(one.values()))) for one in group]
        for name, array in outputs.items():
            if array.shape[:1] != (sum(sizes),):
                raise ValueError(f"output {name!r} is {array.shape} for a batch of {sum(sizes)}")
        ends = np.cumsum(sizes)
        return [
            {name: array[end - size : end] for name, array in outputs.items()}
            for end, size in zip(ends, sizes, strict=True)
        ]


def _success(outputs: Arrays) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(*output) for output in outputs.items()])


def _failure(message: str, code: str) -> Any:
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse([], error)


def _session_options(config: dict[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    level = config["optimization"].get("graph", {}).get("level")
    options.graph_optimization_level = GRAPH_LEVELS.get(
        str(level), ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    # Spinning threads fight the server for the cores: a quarter of the CPU time per image.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if any(len(item["dims"]) == PICTURE_DIMS for item in config["input"]):
        # A tile is work enough for a core: instances that share each run wait for each other.
        instances = sum(int(group["count"]) for group in config["instance_group"])
        cores = len(os.sched_getaffinity(0))
        options.intra_op_num_threads = max(1, cores // max(1, instances))
    parameters = config.get("parameters", {})
    if "intra_op_thread_count" in parameters:
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"]["string_value"])
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    cpu = ["CPUExecutionProvider"]
    cuda = "CUDAExecutionProvider"
    if args["model_instance_kind"] != "GPU" or cuda not in ort.get_available_providers():
        return cpu
    return [(cuda, {"device_id": args["model_instance_device_id"]}), *cpu]


def _check_features(config: dict[str, Any]) -> None:
    for feature in UNSUPPORTED:
        if config.get(feature):
            raise _refusal(config, f"{feature} is not supported by the Python-based backend")
    accelerators = config["optimization"].get("execution_accelerators", {})
    for kind, known in ACCELERATORS.items():
        for accelerator in accelerators.get(f"{kind}_execution_accelerator", []):
            if accelerator["name"] not in known:
                name = accelerator["name"]
                raise _refusal(config, f"unknown Execution Accelerator '{name}' is requested")


def _check_inputs(config: dict[str, Any], provided: list[ort.NodeArg]) -> None:
    required = [item for item in config["input"] if not item.get("optional")]
    if len(required) != len(provided):
        counts = f"{len(required)} inputs, model provides {len(provided)}"
        raise _refusal(config, f"configuration expects {counts}")
    for item in config["input"]:
        if item.get("optional"):
            # Without batching the C++ backend takes it where it is an overridable initializer,
            # which ganforge never exports.
            reason = "is not supported for models that support batching"
            if config["max_batch_size"] == 0:
                reason = "is not supported by the Python-based backend"
            raise _refusal(config, f"optional input '{item['name']}' {reason}")
        _check_tensor(config, "input", item, provided)


def _check_outputs(config: dict[str, Any], provided: list[ort.NodeArg]) -> None:
    for item in config["output"]:
        _check_tensor(config, "output", item, provided)


def _check_tensor(
    config: dict[str, Any], kind: str, item: dict[str, Any], provided: list[ort.NodeArg]
) -> None:
    """Name and type are the graph's; a fixed dimension of the graph (for an output, any) too."""
    name = item["name"]
    tensor = next((tensor for tensor in provided if tensor.name == name), None)
    if tensor is None:
        allowed = ", ".join(tensor.name for tensor in provided)
        raise _refusal(config, f"unexpected inference {kind} '{name}', allowed {kind}s: {allowed}")
    if TYPES.get(tensor.type) != item["data_type"]:
        types = f"{item['data_type']} for {kind} '{name}', model provides "
        types += TYPES.get(tensor.type, tensor.type)
        raise _refusal(config, f"configuration expects datatype {types}")
    graph = [size if isinstance(size, int) else -1 for size in tensor.shape]
    dims = list(map(int, item["reshape"].get("shape", []) if "reshape" in item else item["dims"]))
    if config["max_batch_size"] > 0:
        if graph[:1] != [-1]:
            reason = f"{kind} '{name}' is {graph} in the model: its first dimension must be -1"
            raise _refusal(config, f"{reason} for max_batch_size > 0")
        dims = [-1, *dims]
    elif not graph:  # a scalar: the configuration can't say so but by ones
        graph = [1] * len(dims)
    same = len(graph) == len(dims) and all(
        size == dim or (kind == "input" and size == -1)
        for size, dim in zip(graph, dims, strict=True)
    )
    if not same:
        raise _refusal(config, f"{kind} '{name}' is {graph} in the model, {dims} in configuration")


def _refusal(config: dict[str, Any], reason: str) -> Exception:
    error: Exception = pb_utils.TritonModelException(
        f"unable to load model '{config['name']}', {reason}"
    )
    return error
