"""Scores of ganforge against torch-fidelity's, on the same images with the same extractor.

Both compute Inception Score, FID, KID over all pairs, precision and recall of N images against N
others, from pixels to numbers; the extractor is a small classifier, so that it is the metrics
that are timed. Rounds alternate; the ratio is of one round's two times.

    python benchmarks/metrics_speed.py --images 4000 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gan_core.evaluation import see
from gan_core.extractors import EXTRACTORS, digits_classifier
from gan_core.metrics import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

OURS = ("inception_score", "fid", "kid", "precision", "recall")
BATCH = 64


class Classifier(FeatureExtractorBase):  # type: ignore[misc] # comes without types
    """The extractor ``digits-classifier`` for torch-fidelity."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.network = digits_classifier()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def get_default_name() -> str:
        return "digits"

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = dict(
            zip(("features", "logits"), self.network(images.float() / 127.5 - 1), strict=True)
        )
        return tuple(found[name] for name in self.features_list)


class Pixels(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = torch.from_numpy(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.pixels[index]


def ours(real: NDArray[np.uint8], fake: NDArray[np.uint8]) -> dict[str, float]:
    extractor = next(e for e in EXTRACTORS if e.name == "digits-classifier").load("")
    seen = [
        see(extractor, iter(np.split(side.transpose(0, 2, 3, 1), range(BATCH, len(side), BATCH))))
        for side in (real, fake)
    ]
    found = {}
    for metric in METRICS:
        if metric.name in OURS:
            value: Any = metric.compute(*seen)
            found[metric.name] = getattr(value, "value", value)
    return found


def theirs(real: NDArray[np.uint8], fake: NDArray[np.uint8]) -> dict[str, float]:
    with contextlib.redirect_stderr(io.StringIO()):
        found = torch_fidelity.calculate_metrics(
            input1=Pixels(fake),
            input2=Pixels(real),
            feature_extractor="digits",
            isc=True,
            fid=True,
            kid=True,
            prc=True,
            kid_subsets=1,
            kid_subset_size=len(real),
            batch_size=BATCH,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    return {
        "inception_score": found["inception_score_mean"],
        "fid": found["frechet_inception_distance"],
        "kid": found["kernel_inception_distance_mean"],
        "precision": found["precision"],
        "recall": found["recall"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the results go")
    args = parser.parse_args()
    torch_fidelity.register_feature_extractor("digits", Classifier)
    rng = np.random.default_rng(0)
    sides = [
        rng.integers(0, high, (args.images, 1, 32, 32)).astype(np.uint8) for high in (256, 230)
    ]
    ours(*sides), theirs(*sides)  # both have loaded what they need
    times, values = [], []
    for _ in range(args.rounds):
        spent = []
        for measure in (ours, theirs):
            began = time.perf_counter()
            values.append(measure(*sides))
            spent.append(time.perf_counter() - began)
        times.append(spent)
    ratios = sorted(b / a for a, b in times)
    for name in OURS:
        a, b = values[0][name], values[1][name]
        print(f"{name:16} {a:.6g} and {b:.6g}: {abs(a - b) / max(abs(b), 1e-12):.1e} apart")
    print(
        f"torch-fidelity takes {statistics.median(ratios):.2f} times as long "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {args.rounds} rounds, {args.images} images)"
    )
    if args.json:
        args.json.write_text(json.dumps({"images": args.images, "s": times, "values": values[:2]}))


if __name__ == "__main__":
    main()
