"""Servers that the end-to-end tests share: ``ganforge serve`` over each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.processes import Serving


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running(nothing_left_running: None) -> None:
    """See there."""


@pytest.fixture(scope="session")
def over_triton(
    has_triton: None, nothing_left_running: None, repository: Path
) -> Iterator[Serving]:
    """A gateway over the local Triton."""
    with Serving(repository, "triton", "--max-n", "64") as serving:
        yield serving


@pytest.fixture(scope="session")
def over_ort(nothing_left_running: None, repository: Path) -> Iterator[Serving]:
    """A gateway over onnxruntime in its own process."""
    with Serving(repository, "ort", "--max-n", "64") as serving:
        yield serving
