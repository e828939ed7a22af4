"""Fixtures of the serving half: one Triton for all that only asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_serving.local_triton import home
from gan_serving.repository import model_names
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running(nothing_left_running: None) -> None:
    """See there."""


@pytest.fixture(scope="session")
def triton(
    has_triton: None, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    """Serves every model of the shared repository."""
    triton = LocalTriton(
        repository, home=home(), log=tmp_path_factory.mktemp("triton") / "triton.log"
    )
    triton.start()
    asyncio.run(_load_all(triton.address, model_names(repository)))
    yield triton
    triton.stop()


async def _load_all(address: str, models: list[str]) -> None:
    engine = TritonEngine(address)
    await asyncio.gather(*map(engine.load, models))
    await engine.close()
