"""From a trained generator to an ONNX graph that gives the same pixels, and its card.

The graph is what is served, so everything between z and the picture is inside: de-normalisation,
clamping, rounding and layout. It holds no random op, has a dynamic batch axis, and is pinned to
an opset and IR version that every Triton container of the last years reads.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import nn

from .card import OUTPUT_NAME, PARITY_LEVELS, DataSource, ImageOutput, Input, ModelCard
from .errors import ExportError
from .latents import draw, oblong, seed_range
from .layers import bake

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray
    from torch import Tensor

    from .levels import BitDepth

__all__ = [
    "IR_VERSION",
    "OPSET",
    "PARITY_BATCHES",
    "ServedGenerator",
    "export",
    "rendered",
    "to_levels_nhwc",
    "write_card",
]

OPSET = 18
IR_VERSION = 8
PARITY_BATCHES = (1, 2, 7, 32)
RANDOM_OPS = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def to_levels_nhwc(images: Tensor, bit_depth: BitDepth = 8) -> Tensor:
    """Float [N, C, H, W] in [-1, 1] as uint8 or uint16 [N, H, W, C]: clamped and rounded."""
    white = float(2**bit_depth - 1)
    levels = (images * (white / 2) + white / 2).clamp(0.0, white).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8 if bit_depth == 8 else torch.uint16)


class ServedGenerator(nn.Module):
    """What is exported: served tensors in, in the order of ``inputs``, NHWC image out.

    Args:
        network: the trained generator.
        inputs: what it is asked with; the roles tell clients what to send.
        call: (network, tensors by input name) -> images in [-1, 1]; by default the tensors are
            the network's positional arguments, a label as int64 [N].
        scale: output px per input px, for models that take an image.
        bit_depth: of the image that comes out.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[Input],
        call: Callable[[nn.Module, dict[str, Tensor]], Tensor] | None = None,
        scale: int = 1,
        bit_depth: BitDepth = 8,
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = tuple(inputs)
        self.call = call or self._positional
        self.scale = scale
        self.bit_depth = bit_depth

    def forward(self, *tensors: Tensor) -> Tensor:
        """The served image, uint8 or uint16 [N, H, W, C]."""
        return to_levels_nhwc(self.images(*tensors), self.bit_depth)

    def images(self, *tensors: Tensor) -> Tensor:
        """The image before it is rounded to levels, float32 [N, C, H, W] in [-1, 1]."""
        named = {item.name: tensor for item, tensor in zip(self.inputs, tensors, strict=True)}
        return self.call(self.network, named)

    def _positional(self, network: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        roles = [item.role for item in self.inputs]
        values = [
            tensor.squeeze(1) if role == "label" else tensor
            for role, tensor in zip(roles, tensors.values(), strict=True)
        ]
        images: Tensor = network(*values)
        return images


RENDER_PX = 64 * 64**2
"""Pixels that a generator makes at once."""


@torch.no_grad()
def rendered(
    served: ServedGenerator, side_px: int, seed: int, n: int
) -> Iterator[NDArray[np.uint8]]:
    """Images [b, H, W, C] of the n seeds from ``seed`` on, by torch, on the network's device."""
    device = next(served.parameters()).device
    batch = max(1, RENDER_PX // side_px**2)
    for start in range(0, n, batch):
        inputs = draw(served.inputs, seed_range(seed + start, min(batch, n - start))).values()
        pixels = served(*(torch.from_numpy(value).to(device) for value in inputs))
        yield pixels.cpu().numpy()


def export(
    served: ServedGenerator,
    directory: Path,
    *,
    model: str,
    variant: str,
    data: DataSource,
    trained_kimg: float,
    task: str = "unconditional",
    ema: bool | None = None,
) -> ModelCard:
    """Write directory/model.onnx and directory/card.json; returns the card.

    Raises:
        ExportError: the graph can't be made, holds a random op, isn't valid ONNX, differs from
            torch by more than one level at a batch size of 1, 2, 7 or 32 or for an oblong source
            image, or gives an image that depends on the others in its batch. Nothing is written
            then.
    """
    served = copy.deepcopy(served).eval().cpu()  # the caller may go on training its own
    bake(served)
    proto = _graph(served)
    _refuse_random_ops(proto)
    serialized = proto.SerializeToString()
    levels, shape = _parity(served, serialized)
    dynamic = any(item.role == "image" for item in served.inputs)
    card = ModelCard(
        model=model,
        variant=variant,
        task=task,
        inputs=served.inputs,
        output=ImageOutput.model_validate(
            {
                "height": None if dynamic else shape[0],
                "width": None if dynamic else shape[1],
                "channels": shape[2],
                "bit_depth": served.bit_depth,
                "scale": served.scale,
            }
        ),
        opset=OPSET,
        sha256=hashlib.sha256(serialized).hexdigest(),
        parity_levels=levels,
        trained_kimg=trained_kimg,
        ema=ema,
        data=data,
        created=datetime.now(UTC),
    )
    _write(directory / "model.onnx", serialized)
    write_card(directory, card)
    return card


def write_card(directory: Path, card: ModelCard) -> None:
    """Write directory/card.json, whole or not at all.

    Raises:
        ExportError: it can't be written.
    """
    _write(directory / "card.json", card.model_dump_json(indent=2).encode())


def _graph(served: ServedGenerator) -> onnx.ModelProto:
    # a batch of 2: the exporter takes a 1 for a constant
    arguments = [torch.from_numpy(v) for v in draw(served.inputs, seed_range(0, 2)).values()]
    dynamic = tuple(_dynamic_axes(item) for item in served.inputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                served,
                tuple(arguments),
                dynamo=True,
                opset_version=OPSET,
                input_names=[item.name for item in served.inputs],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=(dynamic,),
                external_data=False,
                verbose=False,
            )
            if program is None:
                raise ExportError("torch.onnx.export returned nothing")
            proto: onnx.ModelProto = program.model_proto
        _strip(proto)
        onnx.checker.check_model(proto, full_check=True)
    except ExportError:
        raise
    except Exception as error:  # the exporter raises what it likes, after pages of traces
        cause = error.__cause__ or error  # what the exporter wraps in advice
        first = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise ExportError(f"can't export to ONNX: {type(cause).__name__}: {first}") from error
    return proto


def _dynamic_axes(item: Input) -> dict[int, Any]:
    names = {0: "batch"}
    names |= {i + 1: f"side_{i}" for i, size in enumerate(item.tensor.shape) if size == -1}
    return {axis: torch.export.Dim(name) for axis, name in names.items()}


def _strip(proto: onnx.ModelProto) -> None:
    """Pin the IR version; remove traces, which hold paths of this machine."""
    proto.ir_version = IR_VERSION
    del proto.metadata_props[:]
    for holder in _graphs(proto):
        del holder.metadata_props[:]
        for value in (*holder.node, *holder.value_info):
            del value.metadata_props[:]
            value.doc_string = ""
    graph: Any = proto.graph
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]


def _graphs(proto: onnx.ModelProto) -> Iterator[Any]:
    """The graph, the functions, and every body of an If, a Loop or a Scan within them."""
    waiting: list[Any] = [proto.graph, *proto.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            # touching a body that isn't there would put an empty one there
            waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _refuse_random_ops(proto: onnx.ModelProto) -> None:
    found = sorted({node.op_type for graph in _graphs(proto) for node in graph.node} & RANDOM_OPS)
    if found:
        raise ExportError(
            f"the graph draws random numbers ({', '.join(found)}): "
            "make noise an input or a constant, so that a seed decides the picture"
        )


def _parity(served: ServedGenerator, serialized: bytes) -> tuple[int, tuple[int, ...]]:
    """Largest difference in levels between torch and onnxruntime, and the image's shape."""
    import onnxruntime

    session = onnxruntime.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    worst, shape = 0, ()
    smaller: NDArray[Any] = np.zeros(0)
    for n in PARITY_BATCHES:
        inputs = draw(served.inputs, seed_range(0, n))
        actual, levels = _compared(session, served, inputs)
        worst = max(worst, levels)
        if len(smaller) and _levels(actual[: len(smaller)], smaller) > PARITY_LEVELS:
            raise ExportError(f"an image depends on the others in its batch of {n}")
        smaller, shape = actual, actual.shape[1:]
    others = oblong(served.inputs, draw(served.inputs, seed_range(0, 2)))
    worst = max(worst, _compared(session, served, others)[1])
    if worst > PARITY_LEVELS:
        raise ExportError(
            f"onnxruntime differs from torch by {worst} levels of 255; at most {PARITY_LEVELS} "
            "is accepted"
        )
    return worst, shape


def _compared(
    session: onnxruntime.InferenceSession, served: ServedGenerator, inputs: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], int]:
    """The graph's images, and by how many levels of 255 torch's differ."""
    with torch.no_grad():
        expected = served(*map(torch.from_numpy, inputs.values())).numpy()
    given = ", ".join(f"{name}{value.shape}" for name, value in inputs.items())
    try:
        actual: NDArray[Any] = session.run([OUTPUT_NAME], inputs)[0]
    except Exception as error:  # onnxruntime's own have no common base
        reason = " ".join(str(error).split())
        raise ExportError(f"onnxruntime can't run the graph for {given}: {reason}") from error
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ExportError(
            f"onnxruntime gives {actual.dtype}{actual.shape} for {given}, "
            f"torch {expected.dtype}{expected.shape}"
        )
    for item in served.inputs:
        sides = tuple(served.scale * side for side in inputs[item.name].shape[1:3])
        if item.role == "image" and actual.shape[1:3] != sides:
            raise ExportError(f"the image is {actual.shape[1:3]} px for {given}, not {sides}")
    return actual, _levels(actual, expected)


def _levels(ours: NDArray[Any], theirs: NDArray[Any]) -> int:
    """Largest difference, in levels of 255, of which a part counts as one."""
    worst = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    return worst if ours.dtype == np.uint8 else -(-worst // 257)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's output, warnings and log lines: they concern its own internals."""
    chatter = io.StringIO()
    disabled = logging.root.manager.disable
    with redirect_stdout(chatter), redirect_stderr(chatter), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
