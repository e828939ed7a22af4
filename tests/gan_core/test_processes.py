"""Training in two processes on the CPU, as torchrun and ``accelerate launch`` start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gan_core import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

WITNESS = '''
"""vanilla, whose every process writes down what it sees and what it has learnt."""
import dataclasses, json, math, os, time
import torch
from gan_core import hookimpl

RANK = os.environ["RANK"]


class Witness:
    def __init__(self, trainer):
        self.trainer = trainer
        self.generator, self.state, self.load = trainer.generator, trainer.state, trainer.load

    def step(self, batch):
        time.sleep(float(os.environ.get("STEP_S", 0)))
        stats = self.trainer.step(batch)
        weights = [p.detach().flatten() for n in (self.trainer.raw_G, self.trainer.raw_D)
                   for p in n.parameters()]
        row = {"images": [hash(image.numpy().tobytes()) for image in batch.real],
               "weights": torch.cat(weights).tolist()}
        with open(os.environ["DIARY"] + RANK, "a") as file:
            file.write(json.dumps(row) + "\\n")
        if os.environ.get("DIVERGES") == RANK and self.trainer.d_steps == 3:
            stats["loss/D"] = torch.tensor(math.nan)
        return stats | {"rank": torch.tensor(float(RANK))}


@hookimpl
def ganforge_variants():
    from gan_vanilla import ganforge_variants
    (vanilla,) = ganforge_variants()
    build = lambda *given: Witness(vanilla.build(*given))
    return [dataclasses.replace(vanilla, name="witness", build=build)]
'''
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN = [*LAUNCH, "-m", "--", "gan_core.cli", "train"]
SETTINGS = {
    "widths": "[8,16]",
    "z_dim": "4",
    "batch_size": "8",
    "resolution_px": "8",
    "tick_kimg": "0.032",
    "augment": "ada",  # every process must adapt to the same strength
    "ada_kimg": "0.1",
}
START = [
    "witness",
    "--data",
    "digits",
    *[p for k, v in SETTINGS.items() for p in ("--set", f"{k}={v}")],
]


class Two:
    """Two processes that train in a folder."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self.diary = folder / "rank"
        metadata = folder / "witness-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: witness\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text("[ganforge]\nwitness = witness\n")
        (folder / "witness.py").write_text(WITNESS)
        self.env = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONHASHSEED": "0",
            "ACCELERATE_USE_CPU": "true",
            "DIARY": str(self.diary),
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*TRAIN, "--run", str(self.run), *arguments],
            env={**self.env, **env},
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def finish(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        with self.start(*arguments, **env) as process:
            try:
                output, errors = process.communicate(timeout=60)
            finally:
                process.terminate()
        return process.returncode, output, errors

    def rows(self, rank: int) -> list[dict[str, Any]]:
        """What a rank saw and had learnt, step by step."""
        path = self.diary.with_name(f"rank{rank}")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Two, str]:
    """Two processes after ten steps, and what they printed."""
    two = Two(tmp_path_factory.mktemp("two"))
    code, output, errors = two.finish(*START, "--kimg", "0.16")
    assert code == 0, errors
    return two, output


def test_two_processes_train_one_run(trained: tuple[Two, str]) -> None:
    two, _ = trained
    assert [len(two.rows(rank)) for rank in (0, 1)] == [10, 10]


def test_both_processes_learn_the_same(trained: tuple[Two, str]) -> None:
    two, _ = trained
    first, second = ([row["weights"] for row in two.rows(rank)] for rank in (0, 1))
    assert first == second


def test_no_two_processes_see_the_same_image(trained: tuple[Two, str]) -> None:
    two, _ = trained
    first, second = ({i for row in two.rows(rank) for i in row["images"]} for rank in (0, 1))
    assert (len(first), len(second), first & second) == (80, 80, set())


def test_statistics_are_means_over_the_processes(trained: tuple[Two, str]) -> None:
    two, _ = trained
    rows = [json.loads(line) for line in (two.run / "metrics.jsonl").read_text().splitlines()]
    assert [row["rank"] for row in rows] == [0.5] * 5


def test_only_the_main_process_prints(trained: tuple[Two, str]) -> None:
    _, output = trained
    assert [output.count(word) for word in ("witness on digits", "Next: ")] == [1, 1]


def test_a_checkpoint_holds_every_processs_random_numbers(trained: tuple[Two, str]) -> None:
    two, _ = trained
    ranks = checkpoint.load(two.run / "checkpoints" / "000000.160")["rng"]
    assert (len(ranks), torch.equal(ranks[0]["torch"], ranks[1]["torch"])) == (2, False)


def test_a_resumed_run_of_two_goes_on_exactly(trained: tuple[Two, str], two: Two) -> None:
    whole, _ = trained
    for arguments in ([*START, "--kimg", "0.08"], ["--resume", "--kimg", "0.16"]):
        code, _, errors = two.finish(*arguments)
        assert code == 0, errors
    assert [two.rows(rank) for rank in (0, 1)] == [whole.rows(rank) for rank in (0, 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_stops_both_at_one_step(two: Two, number: signal.Signals) -> None:
    with two.start(*START, "--kimg", "100", STEP_S="0.02") as process:
        deadline = time.monotonic() + 60
        while not (two.run / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert "stopped; everything is saved in" in output
    newest = checkpoint.latest(two.run / "checkpoints")
    assert newest is not None
    assert {len(two.rows(rank)) for rank in (0, 1)} == {checkpoint.load(newest)["steps"]}


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_process_that_diverges_stops_both(two: Two, rank: str) -> None:
    code, _, errors = two.finish(*START, "--kimg", "0.16", DIVERGES=rank)
    assert (code, errors.count("loss/D became nan at step 3")) == (1, 2), errors
