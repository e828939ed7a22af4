"""FastAPI over onnxruntime: python fastapi_onnx.py GRAPH PORT THREADS"""

import sys

import uvicorn
from fastapi import FastAPI, Response
from generator import Generator, png
from pydantic import BaseModel

graph, port, threads = sys.argv[1:]
generator = Generator(graph, int(threads))
app = FastAPI()


class Body(BaseModel):
    seed: int


@app.post("/generate")
def generate(body: Body) -> Response:
    return Response(png(generator([body.seed])[0]), media_type="image/png")


uvicorn.run(app, port=int(port), log_level="warning")
