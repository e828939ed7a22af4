"""A request's tensors on their way to Triton and back: through the socket, or shared memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.card import OUTPUT_NAME

from .engine import Inference
from .shared_memory import SHARED_BYTES

if TYPE_CHECKING:
    from tritonclient.grpc import InferInput

    from gan_core.card import ImageOutput

    from .engine import Inputs
    from .shared_memory import Region

__all__ = ["Send", "shared_bytes", "through_memory", "through_socket"]

DATATYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16"}
DTYPES = {name: np.dtype(dtype) for dtype, name in DATATYPES.items()}
ALIGNED = 64
"""Bytes that tensors in a region begin at multiples of."""

Send = Callable[..., Awaitable[Any]]
"""tritonclient's infer, but for the tensors."""


async def through_socket(send: Send, inputs: Inputs, wait_s: float) -> Inference:
    """All of it as messages."""
    tensors = [_tensor(name, array) for name, array in inputs.items()]
    for tensor, array in zip(tensors, inputs.values(), strict=True):
        tensor.set_data_from_numpy(array)
    result = await send(inputs=tensors, client_timeout=wait_s)
    return Inference(result.as_numpy(OUTPUT_NAME), int(result.get_response().model_version))


async def through_memory(
    send: Send, inputs: Inputs, region: Region, output_bytes: int
) -> Inference:
    """The output, and inputs that are as large, in a region of ``shared_bytes``."""
    from tritonclient.grpc import InferRequestedOutput

    tensors, offset = [], _aligned(output_bytes)
    for name, array in inputs.items():
        tensor = _tensor(name, array)
        if array.nbytes >= SHARED_BYTES:
            region.write(array, offset)
            tensor.set_shared_memory(region.name, array.nbytes, offset)
            offset += _aligned(array.nbytes)
        else:
            tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    output = InferRequestedOutput(OUTPUT_NAME)
    output.set_shared_memory(region.name, output_bytes)
    result = await send(inputs=tensors, outputs=[output])
    told = result.get_output(OUTPUT_NAME)
    image = region.read(tuple(told.shape), DTYPES[told.datatype])
    return Inference(image, int(result.get_response().model_version))


def shared_bytes(output: ImageOutput, inputs: Inputs) -> tuple[int, int]:
    """Of the output, and of all that a region holds; 0 and 0 where sharing doesn't pay."""
    made = _output_bytes(output, inputs)
    if made < SHARED_BYTES:
        return 0, 0
    large = (array.nbytes for array in inputs.values() if array.nbytes >= SHARED_BYTES)
    return made, _aligned(made) + sum(map(_aligned, large))


def _output_bytes(output: ImageOutput, inputs: Inputs) -> int:
    rows = len(next(iter(inputs.values())))
    height, width = output.height, output.width
    if height is None or width is None:
        source = next(array for array in inputs.values() if array.ndim == 4)  # [N, H, W, C]
        height, width = (side * output.scale for side in source.shape[1:3])
    return rows * height * width * output.channels * output.bit_depth // 8


def _tensor(name: str, array: Any) -> InferInput:
    from tritonclient.grpc import InferInput

    return InferInput(name, array.shape, DATATYPES[array.dtype.name])


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
