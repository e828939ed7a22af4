"""FastAPI over torch, eager: python fastapi_torch.py NETWORK PORT"""

import sys

import torch
import uvicorn
from fastapi import FastAPI, Response
from generator import latents, png
from pydantic import BaseModel

network, port = sys.argv[1:]
generator = torch.load(network, weights_only=False)  # written by model.py a moment ago
app = FastAPI()


class Body(BaseModel):
    seed: int


@app.post("/generate")
def generate(body: Body) -> Response:
    with torch.inference_mode():
        pixels = generator(torch.from_numpy(latents([body.seed])))
    return Response(png(pixels[0].numpy()), media_type="image/png")


uvicorn.run(app, port=int(port), log_level="warning")
