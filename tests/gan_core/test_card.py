"""The card survives JSON, says what is served, and refuses what can't be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gan_core.card import (
    NAMES,
    CameraInput,
    DataSource,
    ImageInput,
    ImageOutput,
    Input,
    LabelInput,
    LatentInput,
    ModelCard,
    Provenance,
    Resampling,
    Score,
    StyleInput,
    TensorSpec,
    TextInput,
    TruncationInput,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SIZE = st.integers(1, 4096)
INPUTS: st.SearchStrategy[Input] = st.one_of(
    st.builds(LatentInput, dim=SIZE, distribution=st.sampled_from(["normal", "uniform"])),
    st.builds(
        LatentInput,
        dim=SIZE,
        truncation=st.none() | st.builds(Resampling, maximum=st.floats(0.04, 9)),
    ),
    st.builds(LabelInput, classes=st.lists(st.text(), min_size=1, max_size=5).map(tuple)),
    st.builds(TruncationInput, default=FINITE, cutoff_layers=st.none() | SIZE),
    st.builds(TextInput, encoder=st.text(), dim=SIZE),
    st.builds(ImageInput, channels=st.sampled_from([1, 3, 4]), tile_px=st.none() | SIZE),
    st.builds(CameraInput, yaw_rad=st.tuples(FINITE, FINITE), pitch_rad=st.tuples(FINITE, FINITE)),
    st.builds(StyleInput, layers=SIZE, dim=SIZE),
)
SCORES = st.builds(
    Score,
    metric=st.text(),
    value=FINITE,
    provenance=st.builds(
        Provenance,
        extractor=st.text(),
        resize=st.text(),
        reference=st.text(),
        samples=SIZE,
        seed=st.integers(0, 2**64 - 1),
        truncation=st.none() | FINITE,
        ema=st.booleans(),
    ),
)
CARDS = st.builds(
    ModelCard,
    model=st.from_regex(r"[a-z0-9_]{1,64}", fullmatch=True),
    variant=st.text(),
    opset=SIZE,
    data=st.builds(DataSource, name=st.text(), fingerprint=st.text()),
    inputs=st.lists(INPUTS, min_size=1, max_size=4, unique_by=lambda item: item.name).map(tuple),
    output=st.builds(
        ImageOutput,
        height=st.none() | SIZE,
        channels=st.sampled_from([1, 3, 4]),
        bit_depth=st.sampled_from([8, 16]),
    ),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    parity_levels=st.integers(0, 1),
    trained_kimg=FINITE,
    metrics=st.lists(SCORES, max_size=2).map(tuple),
    created=st.datetimes(timezones=st.just(UTC)),
)


@given(CARDS)
def test_a_card_survives_json(card: ModelCard) -> None:
    assert ModelCard.model_validate_json(card.model_dump_json()) == card


def card(**changes: Any) -> ModelCard:
    valid = {
        "model": "digits_dcgan",
        "variant": "dcgan",
        "inputs": (LatentInput(dim=4),),
        "output": ImageOutput(height=8, width=8, channels=1),
        "opset": 18,
        "sha256": "0" * 64,
        "parity_levels": 0,
        "trained_kimg": 1.0,
        "data": DataSource(name="digits", fingerprint="0"),
        "created": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return ModelCard.model_validate({**valid, **changes})


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (LatentInput(dim=4), TensorSpec("z", "float32", (4,))),
        (LabelInput(classes=("a",)), TensorSpec("label", "int64", (1,))),
        (TruncationInput(), TensorSpec("truncation", "float32", (1,))),
        (TextInput(encoder="e", dim=4), TensorSpec("text", "float32", (4,))),
        (ImageInput(channels=1), TensorSpec("source", "uint8", (-1, -1, 1))),
        (
            CameraInput(yaw_rad=(-1, 1), pitch_rad=(0, 1)),
            TensorSpec("camera", "float32", (2,)),
        ),
        (StyleInput(layers=3, dim=4), TensorSpec("w", "float32", (3, 4))),
        (ImageOutput(height=8, width=9, channels=3), TensorSpec("image", "uint8", (8, 9, 3))),
        (ImageOutput(channels=1, bit_depth=16), TensorSpec("image", "uint16", (-1, -1, 1))),
    ],
)
def test_each_role_is_served_as_its_tensor(item: Any, expected: TensorSpec) -> None:
    assert item.tensor == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "Digits"}, f"use {NAMES}"),
        ({"model": "../up"}, f"use {NAMES}"),
        ({"model": "a" * 65}, f"use {NAMES}"),
        ({"inputs": ()}, "at least 1 item"),
        ({"inputs": (LatentInput(dim=4),) * 2}, "input names must be unique"),
        ({"inputs": (LatentInput(dim=4, name="image"),)}, "and not 'image'"),
        (
            {"inputs": ({"role": "image", "multiple_of": 8, "min_side_px": 9, "max_side_px": 15},)},
            "no multiple of 8 is between min_side_px 9 and max_side_px 15",
        ),
        ({"inputs": ({"role": "smell", "dim": 3},)}, "'smell' found using 'role'"),
        ({"sha256": "0"}, "String should match pattern"),
        ({"created": datetime(2026, 1, 1)}, "created needs a time zone"),  # noqa: DTZ001 (the point)
        ({"favourite": 1}, "Extra inputs are not permitted"),
    ],
)
def test_an_impossible_card_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        card(**changes)


def test_a_card_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        card().model = "other"  # type: ignore[misc] # the point


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (LatentInput(dim=5),)},
        {"inputs": (LatentInput(dim=4), TruncationInput())},
        {"output": ImageOutput(height=16, width=16, channels=1)},
    ],
)
def test_the_signature_changes_with_what_is_served(changes: dict[str, Any]) -> None:
    assert card(**changes).signature() != card().signature()


def test_the_signature_is_that_of_every_version_of_a_model() -> None:
    later = card(trained_kimg=2.0, sha256="1" * 64, data=DataSource(name="a", fingerprint="1"))
    assert later.signature() == card().signature()


def test_an_input_is_found_by_its_role() -> None:
    latent = LatentInput(dim=4)
    found = card(inputs=(latent, TruncationInput()))
    assert (found.input("latent"), found.input("label")) == (latent, None)


@pytest.mark.parametrize(
    ("inputs", "can_be"),
    [
        ((LatentInput(dim=4),), False),
        ((LatentInput(dim=4, truncation=Resampling()),), True),
        ((LatentInput(dim=4), TruncationInput()), True),
        ((LatentInput(dim=4), LatentInput(dim=2, name="e", truncation=Resampling())), True),
        ((LabelInput(classes=("a",)),), False),
    ],
    ids=["latent", "resampled", "ψ", "one of two", "label"],
)
def test_a_card_says_whether_a_request_may_truncate(
    inputs: tuple[Input, ...], can_be: bool
) -> None:
    assert card(inputs=inputs).can_be_truncated is can_be


def test_a_uniform_latent_cannot_be_truncated() -> None:
    with pytest.raises(ValidationError, match="only a normal latent can be truncated"):
        LatentInput(dim=4, distribution="uniform", truncation=Resampling())


@pytest.mark.parametrize("limits", [{"minimum": 0.0}, {"maximum": -1.0}], ids=str)
def test_a_threshold_that_is_not_positive_is_refused(limits: dict[str, float]) -> None:
    # nothing lies within it: one would draw for ever
    with pytest.raises(ValidationError, match="greater than 0"):
        Resampling(**limits)


def test_truncation_is_part_of_the_signature() -> None:
    truncated = card(inputs=(LatentInput(dim=4, truncation=Resampling()),))
    assert truncated.signature() != card().signature()


def test_a_card_written_before_there_was_truncation_has_none() -> None:
    written = json.loads(card().model_dump_json())
    del written["inputs"][0]["truncation"]
    assert ModelCard.model_validate_json(json.dumps(written)) == card()


def test_a_range_of_thresholds_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"minimum 0\.5 is above maximum 0\.4"):
        Resampling(minimum=0.5, maximum=0.4)


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ({"tile_px": 13, "multiple_of": 2}, "tile_px 13 is not a multiple of 2"),
        ({"tile_px": 16, "halo_px": 8}, "nothing is left of tile_px 16 within halo_px 8"),
        ({"tile_px": 16, "min_side_px": 32}, "from min_side_px 32"),
        ({"tile_px": 8192}, "to max_side_px 4096"),
    ],
)
def test_a_tile_that_cannot_be_cut_is_refused(sides: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ImageInput.model_validate(sides)
