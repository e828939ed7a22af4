"""pytest plugin for people who write variants.

.. code-block:: python

    import pytest

    @pytest.mark.ganforge_variant("my_gan")
    def test_conforms(ganforge_check):
        ganforge_check()
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_configure", "pytest_generate_tests"]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "ganforge_variant(name, ...): run the conformance kit on these variants"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per variant and check, for tests that take ``ganforge_check``."""
    if "ganforge_check" not in metafunc.fixturenames:
        return
    from .plugins import Plugins
    from .testing import checks

    plugins = Plugins()
    marker = metafunc.definition.get_closest_marker("ganforge_variant")
    names = marker.args if marker else tuple(plugins.variants)
    pairs = [
        (plugins.variant(name), check)
        for name in names
        for check in checks(plugins.variant(name), plugins)
    ]
    metafunc.parametrize(
        "ganforge_check",
        [partial(check.run, variant) for variant, check in pairs],
        ids=[f"{variant.name}: {check.name}" for variant, check in pairs],
    )
