"""BentoML: GRAPH=… THREADS=… WORKERS=… bentoml serve bentoml_server:Images --port PORT"""

import os

import bentoml
from generator import Generator, png


@bentoml.service(workers=int(os.environ["WORKERS"]))
class Images:
    def __init__(self) -> None:
        self.generator = Generator(os.environ["GRAPH"], int(os.environ["THREADS"]))

    @bentoml.api(route="/generate")
    def generate(self, seed: int, context: bentoml.Context) -> bytes:
        context.response.headers["content-type"] = "image/png"
        return png(self.generator([seed])[0])
