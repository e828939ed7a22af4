"""What every variant can be told, and what it can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gan_core import TrainConfig, Variant
from gan_core.variant import is_points, require_power_of_two

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
        {"resolution_px": 0},
        {"resolution_px": 1},
        {"resolution_px": 7},
        {"resolution_px": 1, "channels": 3},
        {"resolution_px": 7, "channels": 2},
        {"resolution_px": 1025},
        {"channels": 0},
        {"channels": 5},
        {"ema_halflife_kimg": -1},
        {"tick_kimg": 0},
        {"sample_kimg": 0},
        {"checkpoint_kimg": 0},
        {"keep_checkpoints": 0},
        {"guard": "pray"},
        {"guard_patience_kimg": -1},
        {"guard_gradient_norm": 0},
        {"guard_logit_gap": 0},
        {"guard_accuracy": 0},
        {"guard_diversity": -1},
        {"guard_rollbacks": -1},
        {"no_such_setting": 1},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        TrainConfig.model_validate(settings)


def test_points_in_the_plane_are_images_of_one_pixel_and_two_channels() -> None:
    sizes = [(1, 2), (8, 2), (8, 3)]
    configs = [TrainConfig(resolution_px=side, channels=channels) for side, channels in sizes]
    assert [is_points(config) for config in configs] == [True, False, False]


@given(st.floats(0, 1e6))
def test_the_batch_stays_of_one_size_unless_a_variant_says_otherwise(kimg: float) -> None:
    assert TrainConfig(batch_size=7).batch_size_at(kimg) == 7


@pytest.mark.parametrize("side_px", [8, 16, 1024])
def test_a_power_of_two_is_accepted(side_px: int) -> None:
    require_power_of_two(side_px)


@pytest.mark.parametrize("side_px", [0, 1, 4, 12, 1000])
def test_a_side_that_is_no_power_of_two_is_refused(side_px: int) -> None:
    with pytest.raises(ValueError, match=f"resolution_px {side_px} is not a power of two from 8"):
        require_power_of_two(side_px)


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
