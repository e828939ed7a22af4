"""Everything at once, for as long as one likes: nothing piles up.

``pytest -m soak --soak-minutes 480`` is a night's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from gan_serving.repository import publish
from tests.faults.scenarios import Client
from tests.serving.graphs import watermark, write_export
from tests.serving.processes import Load, Serving, shared_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIENTS = 6
SAMPLE_S = 1.0
PUBLISH_S = 30.0
WARM = 1 / 3
"""Share of the time after which everything has been used, and growth is a leak."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server and its Triton hold."""

    rss_mb: float
    descriptors: int
    threads: int
    shared_memory: int


ALLOWED = Sample(rss_mb=25, descriptors=15, threads=4, shared_memory=2)
"""Growth from the first warm quarter's median to the last quarter's."""


def sample(serving: Serving, prefix: str) -> Sample:
    server = psutil.Process(serving.process.pid)
    family = [server, *server.children(recursive=True)]
    return Sample(
        rss_mb=sum(one.memory_info().rss for one in family) / 1e6,
        descriptors=sum(one.num_fds() for one in family),
        threads=sum(one.num_threads() for one in family),
        shared_memory=sum(one.name.startswith(prefix) for one in shared_memory()),
    )


def shared_memory_prefix(serving: Serving) -> str:
    command = " ".join(serving.triton().cmdline())
    return command.partition("shm-region-prefix-name=")[2].split()[0]


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ["triton", "ort"])
def test_nothing_piles_up(
    marked: Path,
    tmp_path: Path,
    engine: str,
    request: pytest.FixtureRequest,
    note: Callable[..., None],
) -> None:
    if engine == "triton":
        request.getfixturevalue("has_triton")
    seconds = 60 * request.config.getoption("soak_minutes")
    newer = write_export(tmp_path / "newer", "marked", watermark(shade=10))
    publish(newer, marked)  # as later: two versions in memory
    done: Counter[str] = Counter()
    samples: list[Sample] = []
    with Serving(marked, engine) as serving:
        prefix = shared_memory_prefix(serving) if engine == "triton" else "none"
        clients = [Client(serving, seed) for seed in range(CLIENTS)]
        began = published = time.monotonic()
        with Load(CLIENTS, lambda turn: done.update([clients[turn % CLIENTS].act()])) as load:
            while time.monotonic() - began < seconds and not load.failed:
                time.sleep(SAMPLE_S)
                samples.append(sample(serving, prefix))
                if time.monotonic() - published > PUBLISH_S:
                    publish(newer, marked)
                    published = time.monotonic()
        for client in clients:
            client.close()
        refusals = sum((client.refusals for client in clients), Counter[str]())
        assert refusals.total() < 0.001 * done.total(), (refusals, serving.errors())
        assert serving.ready()
    warm = np.array([astuple(one) for one in samples[int(len(samples) * WARM) :]])
    quarter = max(len(warm) // 4, 1)
    growth = np.median(warm[-quarter:], axis=0) - np.median(warm[:quarter], axis=0)
    hours = np.arange(len(warm)) * SAMPLE_S / 3600
    slopes = np.polyfit(hours, warm, 1)[0]
    note(
        f"soak ({engine})",
        minutes=seconds / 60,
        requests=done.total(),
        refused=refusals.total(),
        **told("median", np.median(warm, axis=0)),
        **told("growth", growth),
        **told("per_hour", slopes),
    )
    assert (growth <= astuple(ALLOWED)).all(), told("growth", growth)


def told(what: str, values: NDArray[np.float64]) -> dict[str, float]:
    names = ("rss_mb", "descriptors", "threads", "shared_memory")
    return {f"{name}_{what}": float(value) for name, value in zip(names, values, strict=True)}
