"""LitServe: python litserve_server.py GRAPH PORT THREADS WORKERS"""

import sys
from typing import Any

import litserve
from fastapi import Response
from generator import Generator, png

graph, port, threads, workers = sys.argv[1:]


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.generator = Generator(graph, int(threads))

    def decode_request(self, request: dict[str, int]) -> int:
        return request["seed"]

    def batch(self, inputs: list[int]) -> list[int]:
        return inputs

    def predict(self, seeds: list[int]) -> Any:
        return self.generator(seeds)

    def encode_response(self, pixels: Any) -> Response:
        return Response(png(pixels), media_type="image/png")


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.0, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers))
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
