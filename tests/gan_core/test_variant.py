"""What every variant can be told, and what it can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from gan_core import TrainConfig, Variant

if TYPE_CHECKING:
    from gan_core.plugins import Plugins


@pytest.mark.parametrize("field", TrainConfig.model_fields)
def test_a_setting_says_what_it_is(field: str) -> None:
    assert (TrainConfig.model_fields[field].description or "").endswith(".")


@pytest.mark.parametrize(
    "settings",
    [
        {"kimg": 0},
        {"kimg": -1},
        {"batch_size": 1},
        {"seed": -1},
        {"seed": 2**63},
        {"resolution_px": 7},
        {"resolution_px": 1025},
        {"channels": 0},
        {"channels": 5},
        {"ema_halflife_kimg": -1},
        {"tick_kimg": 0},
        {"sample_kimg": 0},
        {"checkpoint_kimg": 0},
        {"keep_checkpoints": 0},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        TrainConfig.model_validate(settings)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().kimg = 2  # type: ignore[misc] # the point


def test_a_variant_cannot_be_changed(vanilla: Variant) -> None:
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        vanilla.name = "other"  # type: ignore[misc] # the point


def test_installed_variants_are_named_as_a_card_can_be(plugins: Plugins) -> None:
    assert [n for n in plugins.variants if not n.replace("_", "").isalnum() or n != n.lower()] == []


def test_every_installed_variant_states_its_paper(plugins: Plugins) -> None:
    stated = [v for v in plugins.variants.values() if v.paper and v.paper_checks]
    assert stated == list(plugins.variants.values())
