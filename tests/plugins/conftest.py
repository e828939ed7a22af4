"""Fixtures of the variants' tests."""

from __future__ import annotations

import pytest
import torch

from gan_core.plugins import Plugins


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """What is installed."""
    return Plugins()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks lose more than they gain by sharing the work among threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
