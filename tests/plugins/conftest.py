"""Fixtures of the variants' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from gan_core.plugins import Plugins
from gan_core.testing import built, tiny_config

if TYPE_CHECKING:
    from gan_core.variant import Variant

pytest.register_assert_rewrite("tests.plugins.claims")


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


@pytest.fixture
def variant(plugins: Plugins, request: pytest.FixtureRequest) -> Variant:
    """That of the plugin which the test's file is named after."""
    return plugins.variant(request.path.stem.removeprefix("test_gan_"))


@pytest.fixture
def config(variant: Variant) -> Any:
    """Its tiny configuration."""
    return tiny_config(variant)


@pytest.fixture
def trainer(variant: Variant, config: Any) -> Any:
    """A fresh trainer of tiny networks."""
    return built(variant, config)
