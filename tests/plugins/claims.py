"""The two tests that the claims of every variant undergo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gan_core.testing import built, tiny_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gan_core.variant import Variant
    from tests.plugins.breaks import Break


def all_broken(breaks: Mapping[str, Break]) -> Callable[[Variant], None]:
    """A test: every claim of the variant's paper has its break, and nothing else has."""

    def test(variant: Variant) -> None:
        assert {check.claim for check in variant.paper_checks} == breaks.keys()

    return test


def refuted(breaks: Mapping[str, Break]) -> Callable[[Variant, str], None]:
    """A test per claim: it holds of the trainer as built, and not of one that is broken."""

    @pytest.mark.parametrize("claim", breaks)
    def test(variant: Variant, claim: str) -> None:
        assert holds(variant, claim)
        assert not holds(variant, claim, breaks[claim])

    return test


def holds(variant: Variant, claim: str, broken: Break | None = None) -> bool:
    """Whether a claim is found true of a fresh trainer of the variant, or of a broken one."""
    (check,) = [check for check in variant.paper_checks if check.claim == claim]
    trainer: Any = built(variant, tiny_config(variant))
    if broken:
        broken(trainer)
    return check.test(trainer)
