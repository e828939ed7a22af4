"""How well a network enlarges photographs it wasn't trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

from .assets import path_of, sha256_of
from .card import ImageInput, Provenance, Score
from .crops import Crops, read_photograph
from .degradation import bicubic, blind
from .errors import ConfigError
from .grid import grid, to_pil
from .levels import of_depth
from .paired import measured

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .card import Input
    from .export import ServedGenerator
    from .levels import BitDepth

__all__ = [
    "BETTER",
    "Degradation",
    "enlarged_by",
    "enlarged_by_graph",
    "held_out_scores",
    "is_upscaler",
    "reduced",
    "shown",
    "usual_metrics",
    "vgg16_distance",
]

BETTER = {
    "psnr_y": "higher",
    "psnr_rgb": "higher",
    "ssim_y": "higher",
    "ssim_rgb": "higher",
    "vgg16_distance": "lower",
}
"""The metrics of held-out photographs, and what is better."""
SIDE_PX = 320
"""At most so much of a photograph's middle is measured."""
SHOWN = 12
SHOWN_PX = 128
"""At most so many photographs, and so much of their middles, are shown."""
VGG16_RELUS = (1, 3, 6, 9, 12)
"""relu1_2, 2_2, 3_3, 4_3 and 5_3, of the thirteen."""
CAFFE_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
"""Of BGR, in levels."""

Enlarge = Callable[["NDArray[np.uint8]"], "NDArray[np.uint8]"]
"""uint8 [h, w, 3] -> uint8 [scale·h, scale·w, 3]."""
Distance = Callable[["NDArray[np.uint8]", "NDArray[np.uint8]"], float]
Degradation = Literal["bicubic", "blind"]
DEGRADATIONS = {"bicubic": "bicubic, antialiased", "blind": "blind, second order"}


def is_upscaler(inputs: Sequence[Input]) -> bool:
    """Whether a model takes a picture and nothing else."""
    return len(inputs) == 1 and isinstance(inputs[0], ImageInput)


def usual_metrics(say: Callable[[str], None]) -> tuple[str, ...]:
    """All of ``BETTER``; without ``vgg16_distance``, as ``say`` is told, where it isn't fetched."""
    try:
        path_of("vgg16-caffe")
    except ConfigError as error:
        say(f"vgg16_distance is left out: {error}")
        return tuple(name for name in BETTER if name != "vgg16_distance")
    return tuple(BETTER)


def held_out_scores(
    data: Crops,
    enlarge: Enlarge,
    scale: int,
    metrics: Sequence[str],
    *,
    ema: bool | None = None,
    graph: Literal["onnx", "torch"] = "onnx",
    degradation: Degradation = "bicubic",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Score, ...]:
    """Means over the held-out photographs' middles, reduced and enlarged again.

    Args:
        data: whose photographs were held out.
        enlarge: what is scored.
        scale: of ``enlarge``; also the border that is left out, in px.
        metrics: of ``BETTER``.
        ema: whether averaged weights enlarge; None = nobody knows.
        graph: what enlarges.
        degradation: what reduces; ``blind`` degrades the i-th photograph by the seed i.
        progress: told how many photographs are done, of how many.

    Raises:
        ConfigError: a metric is unknown or its network not fetched, or nothing was held out.
        DataError: a photograph can't be read.
    """
    if unknown := [name for name in metrics if name not in BETTER]:
        raise ConfigError(f"upscalers aren't scored by {unknown[0]!r}: {', '.join(BETTER)}")
    if not data.held_out:
        raise ConfigError(f"{data.source.name} has fewer than 10 photographs: none is held out")
    distance = vgg16_distance(path_of("vgg16-caffe")) if "vgg16_distance" in metrics else None
    of_pixels = [name for name in metrics if name != "vgg16_distance"]
    digest, rows = hashlib.sha256(), []
    for done, path in enumerate(data.held_out, 1):
        picture = _middle(path, scale)
        made = enlarge(reduced(picture, scale, degradation, seed=done - 1))
        row = measured(picture, made, of_pixels, border_px=scale)
        if distance:
            inner = slice(scale, -scale)
            row["vgg16_distance"] = distance(picture[inner, inner], made[inner, inner])
        rows.append(row)
        digest.update(picture.data)
        progress(done, len(data.held_out))
    provenance = Provenance(
        extractor="none",
        resize="none",
        reference=f"{data.source.name} held out {digest.hexdigest()[:12]} n={len(rows)}",
        samples=len(rows),
        seed=0,
        ema=ema,
        graph=graph,
        border_px=scale,
        degradation=f"{DEGRADATIONS[degradation]}, ×{scale}",
    )
    return tuple(_score(name, rows, provenance) for name in metrics)


def shown(data: Crops, enlarge: Enlarge, scale: int) -> Image.Image:
    """The middles of held-out photographs, two in a row: by bicubic, enlarged, and as they are.

    Args:
        data: whose photographs were held out, at least one.
        enlarge: what is shown.
        scale: of ``enlarge``.

    Raises:
        DataError: a photograph can't be read.
    """
    cells = []
    for path in data.held_out[:SHOWN]:
        picture = _middle(path, scale, SHOWN_PX)
        small, (height, width, _) = reduced(picture, scale), picture.shape
        plain = to_pil(small).resize((width, height), Image.Resampling.BICUBIC)
        for one in (np.asarray(plain), enlarge(small), picture):
            cell = np.zeros((SHOWN_PX, SHOWN_PX, 3), np.uint8)
            cell[:height, :width] = one
            cells.append(cell)
    return grid(np.stack(cells), columns=6)


def enlarged_by(served: ServedGenerator) -> Enlarge:
    """What a network makes of a picture as it is served, on the network's device."""
    depth = next(item.bit_depth for item in served.inputs if isinstance(item, ImageInput))

    @torch.no_grad()
    def enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        device = next(served.parameters()).device
        given = torch.from_numpy(of_depth(picture, depth))
        made: Tensor = served(given[None].to(device))
        return of_depth(made[0].cpu().numpy(), 8)

    return enlarge


def enlarged_by_graph(directory: Path, threads: int = 0) -> Enlarge:
    """What ``model.onnx`` of a directory makes of a picture; ``threads`` 0 = of all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        directory / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    depth: BitDepth = 16 if given.type == "tensor(uint16)" else 8

    def enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        made = session.run(None, {given.name: of_depth(picture, depth)[None]})[0][0]
        return of_depth(made, 8)

    return enlarge


def reduced(
    picture: NDArray[np.uint8], scale: int, degradation: Degradation = "bicubic", seed: int = 0
) -> NDArray[np.uint8]:
    """A picture, uint8 [scale·h, scale·w, 3], to whole levels: uint8 [h, w, 3].

    ``seed`` is that of ``blind``; ``bicubic`` knows no chance.
    """
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    if degradation == "blind":
        smaller = blind(images, scale, torch.Generator().manual_seed(seed))
    else:
        smaller = bicubic(images, scale)
    small: NDArray[np.uint8] = (smaller[0] * 255).round().byte().numpy()
    return np.ascontiguousarray(small.transpose(1, 2, 0))


@cache
def vgg16_distance(weights: Path) -> Distance:
    """How far two pictures, uint8 [H, W, 3], are apart for the VGG16 of the asset vgg16-caffe.

    The mean over five layers, relu1_2 to relu5_3, of the squared distance of two places' features,
    each divided by its norm, which lies between 0 and 2: LPIPS without what it learnt of people.
    """
    import onnx
    import onnxruntime

    model = onnx.load(weights)
    taken = model.graph.input[0]
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    last = next(i for i, n in enumerate(model.graph.node) if relus[VGG16_RELUS[-1]] in n.output)
    del model.graph.node[last + 1 :], model.graph.output[:], model.graph.value_info[:]
    for i in VGG16_RELUS:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(relus[i]))
    for axis, name in ((1, "height"), (2, "width")):
        taken.type.tensor_type.shape.dim[axis].dim_param = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what the layers that were cut off leave behind
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def features(picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        bgr = np.ascontiguousarray(picture[None, ..., ::-1], np.float32) - CAFFE_MEAN
        found = session.run(None, {taken.name: bgr})
        norms = (np.linalg.norm(maps, axis=1, keepdims=True) for maps in found)
        return [maps / np.maximum(n, 1e-10) for maps, n in zip(found, norms, strict=True)]

    def distance(reference: NDArray[np.uint8], picture: NDArray[np.uint8]) -> float:
        pairs = zip(features(reference), features(picture), strict=True)
        return float(np.mean([np.square(a - b).sum(1).mean() for a, b in pairs]))

    return distance


def _middle(path: Path, scale: int, most_px: int = SIDE_PX) -> NDArray[np.uint8]:
    picture = read_photograph(path)
    height, width = (min(side, most_px) // scale * scale for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width].copy()


def _score(name: str, rows: Sequence[dict[str, float]], provenance: Provenance) -> Score:
    value = float(np.mean([row[name] for row in rows]))
    if name == "vgg16_distance":
        extractor = f"vgg16-caffe {sha256_of(path_of('vgg16-caffe'))[:12]}"
        provenance = provenance.model_copy(update={"extractor": extractor})
    return Score(metric=name, value=value, provenance=provenance)
