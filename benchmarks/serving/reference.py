"""What there is without a server: onnxruntime and PNG in one process.

    python -m benchmarks.serving.reference GRAPH IMAGES reference|ceiling

``reference`` makes one picture after another with 2 threads; ``ceiling`` has two callers of one
thread each, and batches of 8. Prints images/s and CPU ms per image as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from .peers.generator import Generator, png

SHAPES = {"reference": (1, 2, 1), "ceiling": (2, 1, 8)}
"""Callers, threads of each one's session, batch."""
WARM_UP = 32


def measure(graph: str, images: int, kind: str) -> dict[str, float]:
    callers, threads, batch = SHAPES[kind]
    generators = [Generator(graph, threads) for _ in range(callers)]

    def call(generator: Generator, count: int) -> None:
        for first in range(0, count, batch):
            for pixels in generator(range(first, first + batch)):
                png(pixels)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, generators, [WARM_UP] * callers))
        began, cpu = time.perf_counter(), time.process_time()
        each = -(-images // callers // batch) * batch
        list(pool.map(call, generators, [each] * callers))
    made = each * callers
    return {
        "images_per_s": made / (time.perf_counter() - began),
        "cpu_ms_per_image": 1000 * (time.process_time() - cpu) / made,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
