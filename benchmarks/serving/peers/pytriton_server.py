"""PyTriton: python pytriton_server.py GRAPH PORT THREADS pixels|PNG"""

import socket
import sys
from typing import Any

import numpy as np
from generator import Generator, png
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

graph, port, threads, output = sys.argv[1:]
OUTPUTS = {
    "pixels": Tensor(name="image", dtype=np.uint8, shape=(64, 64, 3)),
    "PNG": Tensor(name="image", dtype=bytes, shape=(1,)),
}
generator = Generator(graph, int(threads))


@batch
def images(seed: Any) -> dict[str, Any]:
    pixels = generator(seed[:, 0].tolist())
    if output == "pixels":
        return {"image": pixels}
    return {"image": np.array([[png(one)] for one in pixels], dtype=np.object_)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


config = TritonConfig(
    http_address="127.0.0.1",
    http_port=int(port),
    grpc_address="127.0.0.1",
    grpc_port=free_port(),
    allow_metrics=False,
)
with Triton(config=config) as triton:
    triton.bind(
        model_name="images",
        infer_func=images,
        inputs=[Tensor(name="seed", dtype=np.int64, shape=(1,))],
        outputs=[OUTPUTS[output]],
        config=ModelConfig(max_batch_size=8),
    )
    triton.serve()
