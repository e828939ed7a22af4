"""What our training loop costs over the same work written out by hand in plain PyTorch.

Ours is everything `fit` does per step and per tick: batches, AdversarialStep.step (with the
gradient-norm monitor) and reading the statistics. Theirs is a bare loop over the same networks
and data, which does the same work: fresh z for each of the two steps, real and fake through D
separately, D frozen in G's step, the same losses and Adam, losses read as often. The moving
average is kept in both, or (--no-ema) in neither. The two alternate in one process in short
rounds, because a machine's speed drifts; the ratio is the median over the rounds.

    python benchmarks/train_overhead.py --json overhead.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan_core.data import Images, open_data
from gan_core.plugins import Plugins
from gan_core.randomness import seed_everything
from gan_dcgan.trainer import DCGANConfig, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gan_core.trainer import AdversarialStep

TARGET = 0.97


def ours(config: DCGANConfig, images: Images, tick_steps: int) -> Callable[[int], None]:
    """Runs so many steps of our trainer."""
    accelerator = Accelerator()
    trainer = build(config, accelerator)
    source = images.batches(config.batch_size, seed=config.seed)

    def run(steps: int) -> None:
        pending: list[dict[str, Tensor]] = []
        for i in range(steps):
            pending.append(trainer.step(next(source).to(accelerator.device)))
            if (i + 1) % tick_steps == 0:
                names = dict.fromkeys(name for row in pending for name in row)
                for name in names:
                    torch.stack([row[name].float() for row in pending if name in row]).tolist()
                pending.clear()

    return run


def bare(config: DCGANConfig, images: Images, tick_steps: int) -> Callable[[int], None]:
    """Runs so many steps written out by hand."""
    trainer: AdversarialStep = build(config, Accelerator())  # for its networks alone
    device = trainer.accelerator.device
    G, D = trainer.raw_G, trainer.raw_D
    betas = (config.beta1, 0.999)
    adam_G = torch.optim.Adam(G.parameters(), config.lr_G, betas)
    adam_D = torch.optim.Adam(D.parameters(), config.lr_D, betas)
    average = copy.deepcopy(G).requires_grad_(requires_grad=False)
    source = order(images, config)
    seen = 0

    def z() -> Tensor:
        return torch.rand(config.batch_size, config.z_dim, device=device) * 2 - 1

    def run(steps: int) -> None:
        nonlocal seen
        losses: list[tuple[Tensor, Tensor]] = []
        for i in range(steps):
            real = next(source).to(device)
            with torch.no_grad():
                fake = G(z())
            loss_D = (softplus(-D(real)) + softplus(D(fake))).mean()
            adam_D.zero_grad()
            loss_D.backward()
            adam_D.step()
            D.requires_grad_(requires_grad=False)
            loss_G = softplus(-D(G(z()))).mean()
            adam_G.zero_grad()
            loss_G.backward()
            adam_G.step()
            D.requires_grad_(requires_grad=True)
            losses.append((loss_D.detach(), loss_G.detach()))
            seen += config.batch_size
            if config.ema_halflife_kimg:
                halflife = min(config.ema_halflife_kimg * 1000, 0.05 * seen)
                update(average, G, 1 - 0.5 ** (config.batch_size / halflife))
            if (i + 1) % tick_steps == 0:
                torch.stack([torch.stack(pair) for pair in losses]).tolist()
                losses.clear()

    return run


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, share: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)


def order(images: Images, config: DCGANConfig) -> Iterator[Tensor]:
    """Shuffled epochs, indexed in numpy and scaled in torch."""
    generator = torch.Generator().manual_seed(config.seed)
    n = config.batch_size
    while True:
        permutation = torch.randperm(len(images), generator=generator).numpy()
        for begin in range(0, len(images) - n + 1, n):
            pixels = images.pixels[permutation[begin : begin + n]]
            yield torch.from_numpy(pixels).float().div_(127.5).sub_(1.0)


def steps_per_s(run: Callable[[int], None], steps: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - begin)


def measure(options: argparse.Namespace) -> dict[str, object]:
    _, images = open_data("digits", options.resolution_px, Plugins())
    config = DCGANConfig(
        resolution_px=options.resolution_px,
        channels=images.channels,
        width=options.width,
        batch_size=options.batch_size,
        ema_halflife_kimg=0.0 if options.no_ema else 10.0,
    )
    seed_everything(0)
    contenders = {"ours": ours, "bare": bare}
    runs = {name: make(config, images, options.tick_steps) for name, make in contenders.items()}
    for run in runs.values():
        run(2 * options.tick_steps)  # warm up
    rounds: list[dict[str, float]] = []
    for i in range(options.rounds):
        names = list(runs) if i % 2 else list(runs)[::-1]
        rounds.append({name: steps_per_s(runs[name], options.steps) for name in names})
    ratios = sorted(row["ours"] / row["bare"] for row in rounds)
    return {
        "device": str(Accelerator().device),
        "threads": torch.get_num_threads(),
        "moving_average": "neither" if options.no_ema else "both",
        **{name: getattr(options, name) for name in ("width", "batch_size", "resolution_px")},
        **{name: getattr(options, name) for name in ("steps", "tick_steps", "rounds")},
        "ours_steps_per_s": statistics.median(row["ours"] for row in rounds),
        "bare_steps_per_s": statistics.median(row["bare"] for row in rounds),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--resolution-px", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--tick-steps", type=int, default=10)
    parser.add_argument("--no-ema", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the result there")
    options = parser.parse_args()
    result = measure(options)
    for name, value in result.items():
        print(f"{name:20} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
