"""How well and how fast upscalers enlarge photographs that none of them has seen, side by side.

python -m benchmarks.super_resolution.quality ours=runs/psnr/export x4plus=REPOSITORY/x4plus/1
    [--upscalerjs FOLDER] [--json FILE] [--sheet FILE.png] [--rounds 5] [--degradation blind]

A model is NAME=FOLDER with model.onnx and card.json; UpscalerJS's three are fetched by npm, into
FOLDER. The photographs are those held out of ``photos``, reduced to whole levels by bicubic, or as
photographs of unknown history are. Times are of a picture of 80×80 px by one thread, in turns,
medians; they compare only within a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw

from gan_core.card import DataSource
from gan_core.console import say
from gan_core.crops import Crops, read_photograph
from gan_core.data import open_training
from gan_core.errors import ConfigError
from gan_core.export import export
from gan_core.held_out import (
    BETTER,
    Degradation,
    Enlarge,
    enlarged_by_graph,
    held_out_scores,
    reduced,
)
from gan_core.plugins import Plugins
from gan_core.upscalers import served_upscaler
from gan_core.workflow import read_card

from .upscalerjs import PACKAGES, fetch, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 4
TIMED_PX = 80
SHOWN_PX = 128
"""Of each photograph's middle on the contact sheet."""
LABEL_PX = 14


@dataclass
class Method:
    """One way to enlarge."""

    name: str
    enlarge: Enlarge
    parameters: int
    seconds: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    torch.set_num_threads(1)
    _, data = open_training("photos", 1, Plugins())  # px: no crop is taken
    if not isinstance(data, Crops):
        raise TypeError("photos holds no photographs back")
    methods = [Method("bicubic", _bicubic, 0), *map(_published, options.models)]
    if options.upscalerjs:
        methods += _upscalerjs(options.upscalerjs)
    for method in methods:
        found = held_out_scores(
            data, method.enlarge, SCALE, tuple(BETTER), degradation=options.degradation
        )
        method.scores = {score.metric: score.value for score in found}
        say(f"{method.name}: {method.scores['psnr_y']:.2f} dB")
    _time(methods, options.rounds)
    say(_table(methods))
    if options.sheet:
        _sheet(methods, data, options.degradation).save(options.sheet)
    if options.json:
        options.json.write_text(json.dumps([_row(method) for method in methods], indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--upscalerjs", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--degradation", choices=["bicubic", "blind"], default="bicubic")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path)
    return parser.parse_args()


def _bicubic(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    size = (width * SCALE, height * SCALE)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _published(named: str) -> Method:
    name, _, folder = named.partition("=")
    path = Path(folder)
    if (scale := read_card(path).output.scale) != SCALE:
        raise ConfigError(f"{name} enlarges ×{scale}, not ×{SCALE}")
    weights = onnx.load(path / "model.onnx").graph.initializer
    return Method(
        name,
        enlarged_by_graph(path, threads=1),
        sum(int(np.prod(w.dims)) for w in weights if len(w.dims)),
    )


def _upscalerjs(folder: Path) -> list[Method]:
    methods = []
    for name in PACKAGES:
        graph = folder / name / "onnx"
        if not (graph / "card.json").exists():
            export(
                served_upscaler(read(fetch(name, folder)), SCALE, tiled=False),
                graph,
                model=name.replace("-", "_"),
                variant="upscalerjs",
                data=DataSource(name="DIV2K", fingerprint=PACKAGES[name]),
                trained_kimg=0,
            )
        methods.append(_published(f"{name}={graph}"))
    return methods


def _time(methods: Sequence[Method], rounds: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (TIMED_PX, TIMED_PX, 3), np.uint8)
    for method in methods:
        method.enlarge(picture)
    for _ in range(rounds):
        for method in methods:
            began = time.perf_counter()
            method.enlarge(picture)
            method.seconds.append(time.perf_counter() - began)


def _row(method: Method) -> dict[str, object]:
    seconds = statistics.median(method.seconds)
    return {
        "name": method.name,
        "parameters": method.parameters,
        "seconds": round(seconds, 4),
        **method.scores,
    }


def _table(methods: Sequence[Method]) -> str:
    lines = [
        "| | parameters, M | PSNR-Y | SSIM-Y | VGG16 distance | s |",
        "|---|---|---|---|---|---|",
    ]
    for method in methods:
        scores = method.scores
        lines.append(
            f"| {method.name} | {method.parameters / 1e6:.2f} | {scores['psnr_y']:.2f} "
            f"| {scores['ssim_y']:.4f} | {scores['vgg16_distance']:.4f} "
            f"| {statistics.median(method.seconds):.3f} |"
        )
    return "\n".join(lines)


def _sheet(methods: Sequence[Method], data: Crops, degradation: Degradation) -> Image.Image:
    """A photograph a row: itself, then each method's."""
    columns, rows = len(methods) + 1, len(data.held_out)
    sheet = Image.new("RGB", (columns * SHOWN_PX, rows * SHOWN_PX + LABEL_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["photograph", *(method.name for method in methods)]):
        draw.text((column * SHOWN_PX + 2, 1), name[-20:], "black")
    for row, path in enumerate(data.held_out):
        whole = read_photograph(path)
        top, left = ((side - SHOWN_PX) // 2 for side in whole.shape[:2])
        crop = whole[top : top + SHOWN_PX, left : left + SHOWN_PX].copy()
        small = reduced(crop, SCALE, degradation, seed=row)
        shown = [crop, *(method.enlarge(small) for method in methods)]
        for column, picture in enumerate(shown):
            at = (column * SHOWN_PX, row * SHOWN_PX + LABEL_PX)
            sheet.paste(Image.fromarray(picture), at)
    return sheet


if __name__ == "__main__":
    main()
