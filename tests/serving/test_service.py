"""From requests to tensors to pictures: what is valid, what is refused, and what a seed means."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.card import (
    CameraInput,
    ImageInput,
    ImageOutput,
    Input,
    LatentInput,
    ModelCard,
    Resampling,
    StyleInput,
    TextInput,
)
from gan_core.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotSupported,
)
from gan_core.latents import latents
from gan_serving.engine import Inference
from gan_serving.ort_engine import OrtEngine
from gan_serving.published import MAX_BATCH_SIZE, Published
from gan_serving.schema import parsed
from gan_serving.service import Generation, ImageService
from tests.serving.fake_engine import FakeEngine
from tests.serving.graphs import CLASSES, Z_DIM, card_of, watermark, watermarked

Z = LatentInput(dim=Z_DIM, distribution="uniform")


def generate(engine: FakeEngine, max_n: int = 100, **fields: Any) -> Generation:
    request = parsed(**{"model": "marked", "seed": 0, **fields})
    return asyncio.run(ImageService(engine, max_n=max_n).generate(request))


def asked(name: str, **fields: Any) -> Any:
    """The tensor that the graph gets for a request."""
    engine = FakeEngine()
    generate(engine, **fields)
    return engine.asked[0][name]


def refusal(*cards: ModelCard, **fields: Any) -> InvalidRequest:
    """The error of a request that must not reach the engine."""
    engine = FakeEngine(*cards)
    with pytest.raises(InvalidRequest) as refused:
        generate(engine, **fields)
    assert engine.asked == []
    return refused.value


def from_repository(repository: Path, *requests: dict[str, Any]) -> list[Generation]:
    """Answers of the real engine in this process."""

    async def ask() -> list[Generation]:
        engine = OrtEngine(repository, cores=1)
        service = ImageService(engine, max_n=100)
        try:
            return [await service.generate(parsed(**{"model": "marked", **r})) for r in requests]
        finally:
            await engine.close()

    return asyncio.run(ask())


seeds = st.integers(0, 2**64 - 1)
labels = st.integers(0, 9) | st.sampled_from(CLASSES)
one_class = st.fixed_dictionaries(
    {"n": st.integers(1, 40)},
    optional={"seed": seeds, "label": labels, "truncation": st.floats(0, 1)},
)
many_classes = st.fixed_dictionaries(
    {"labels": st.lists(labels, min_size=1, max_size=40)}, optional={"seed": seeds}
)


@pytest.fixture(scope="module")
def service(repository: Path) -> Any:
    """The real engine's service and a loop to run it on."""
    with asyncio.Runner() as runner:
        engine = OrtEngine(repository, cores=1)
        yield lambda request: runner.run(ImageService(engine, max_n=40).generate(request))
        runner.run(engine.close())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(one_class | many_classes)
def test_every_valid_request_yields_the_images_it_asked_for(
    service: Any, fields: dict[str, Any]
) -> None:
    generation = service(parsed(model="marked", **fields))
    given_labels = fields.get("labels") or [fields.get("label")] * fields["n"]
    known = [CLASSES.index(x) if isinstance(x, str) else x for x in given_labels]
    wanted = watermarked(
        generation.seeds,
        None if None in known else known,
        fields.get("truncation", 0.7),
    )
    assert np.abs(generation.images.astype(int) - wanted).max() <= 1


def test_four_at_once_are_four_times_one(repository: Path) -> None:
    singles: list[dict[str, Any]] = [{"seed": 40 + i} for i in range(4)]
    four, *ones = from_repository(repository, {"n": 4, "seed": 40}, *singles)
    np.testing.assert_array_equal(four.images, np.concatenate([one.images for one in ones]))


def test_seeds_wrap_at_two_to_the_64(repository: Path) -> None:
    wrapped, zero = from_repository(repository, {"n": 3, "seed": 2**64 - 1}, {"n": 2, "seed": 0})
    assert wrapped.seeds == (2**64 - 1, 0, 1)
    np.testing.assert_array_equal(wrapped.images[1:], zero.images)


def test_a_request_without_a_seed_can_be_repeated_from_its_answer(repository: Path) -> None:
    (first,) = from_repository(repository, {"n": 2})
    (again,) = from_repository(repository, {"n": 2, "seed": first.seeds[0]})
    np.testing.assert_array_equal(first.images, again.images)


def test_two_requests_without_a_seed_differ() -> None:
    z = [asked("z", seed=None) for _ in range(2)]
    assert not np.array_equal(*z)


def test_image_i_gets_the_latent_of_seed_plus_i() -> None:
    np.testing.assert_array_equal(asked("z", n=3, seed=5), latents(Z, [5, 6, 7]))


def test_a_label_is_given_by_index_or_by_name() -> None:
    found = asked("label", labels=[3, "three", 0, "nine"])
    np.testing.assert_array_equal(found, np.array([[3], [3], [0], [9]], np.int64))


def test_one_label_is_for_every_image() -> None:
    np.testing.assert_array_equal(asked("label", n=3, label="two"), [[2], [2], [2]])


def test_labels_go_round_the_classes_where_none_is_given() -> None:
    np.testing.assert_array_equal(asked("label", n=3, seed=8), [[8], [9], [0]])


@pytest.mark.parametrize("label", [10, 12, -1, 2**70, "ten", "0"])
def test_a_label_out_of_range_is_answered_with_the_classes(label: int | str) -> None:
    error = refusal(label=label)
    assert f"label: {label!r} is out of range: model 'marked' has classes 0-9, called" in str(error)
    assert "zero, one" in error.message
    assert error.param == "label"


def test_truncation_takes_its_default_from_the_card() -> None:
    np.testing.assert_array_equal(asked("truncation", n=2), np.full((2, 1), 0.7, np.float32))


@pytest.mark.parametrize("psi", [0.0, 0.25, 1.0])
def test_truncation_reaches_every_image(psi: float) -> None:
    found = asked("truncation", n=2, truncation=psi)
    np.testing.assert_array_equal(found, np.full((2, 1), psi, np.float32))


@pytest.mark.parametrize("psi", [-0.01, 1.01, 1e300])
def test_a_truncation_out_of_range_is_answered_with_the_range(psi: float) -> None:
    error = refusal(truncation=psi)
    assert str(error) == f"truncation: {psi} is not in [0.0, 1.0]"
    assert error.param == "truncation"


GIVEN = np.array([[0.5, -0.25, 0, 1], [1, 2, 3, 4]], np.float32)


@pytest.mark.parametrize(
    "given", [GIVEN.tolist(), base64.b64encode(GIVEN.tobytes()).decode()], ids=["list", "base64"]
)
def test_latents_are_z_itself(given: Any) -> None:
    np.testing.assert_array_equal(asked("z", n=2, latents=given), GIVEN)


def test_a_list_of_latents_says_how_many_images() -> None:
    assert len(asked("z", latents=GIVEN.tolist())) == 2


def test_latents_alone_give_the_same_labels_each_time() -> None:
    for _ in range(2):
        np.testing.assert_array_equal(asked("label", seed=None, latents=GIVEN.tolist()), [[0], [1]])


def test_an_image_from_latents_has_no_seed() -> None:
    assert generate(FakeEngine(), latents=GIVEN.tolist()).seeds == (None, None)


def test_float32s_largest_number_is_accepted() -> None:
    largest = float(np.finfo(np.float32).max)
    assert asked("z", latents=[[largest] * 4])[0, 0] == np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("given", "n", "reason"),
    [
        ([[1.0, 2.0]], 1, "rows have [2] numbers, z has 4"),
        ([[1.0] * 4, [1.0] * 5], 2, "rows have [4, 5] numbers, z has 4"),
        ([[]], 1, "rows have [0] numbers, z has 4"),
        ([[1.0] * 4], 2, "1 are given for n = 2"),
        ([[float("nan")] * 4], 1, "every number must be finite in float32"),
        ([[float("inf")] * 4], 1, "every number must be finite in float32"),
        ([[1e39] * 4], 1, "every number must be finite in float32"),
        ([[-1e39] * 4], 1, "every number must be finite in float32"),
        ("AAAA", 1, "0.75 numbers of float32 (3 bytes), but n = 1 of 4 are 4"),
        ("AAAAAAAAAAA=", 1, "2 numbers of float32 (8 bytes), but n = 1 of 4 are 4"),
        ("not base64!", 1, "not base64"),
        ("ä" * 8, 1, "not base64"),
        (base64.b64encode(b"\x00\x00\xc0\x7f" * 4).decode(), 1, "must be finite in float32"),
    ],
)
def test_latents_that_are_none_say_what_would_be(given: Any, n: int, reason: str) -> None:
    error = refusal(latents=given, n=n)
    assert reason in str(error)
    assert error.param == "latents"


def test_an_empty_list_of_latents_is_refused() -> None:
    assert refusal(latents=[]).param == "latents"


@pytest.mark.parametrize("size", ["auto", "6x4"])
def test_the_models_own_size_is_accepted(size: str) -> None:
    assert generate(FakeEngine(), size=size).images.shape == (1, 4, 6, 3)


@pytest.mark.parametrize("size", ["4x6", "1024x1024", "6X4", "", "huge"])
def test_another_size_is_answered_with_the_models_own(size: str) -> None:
    error = refusal(size=size)
    assert f"'marked' makes 6x4 images, not {size!r}; 'auto' or '6x4' are accepted" in str(error)


def test_more_images_than_allowed_are_refused_with_the_limit() -> None:
    error = refusal(n=101)
    assert str(error) == "n: 101 images are asked for; at most 100 per request"


def test_more_labels_than_allowed_are_refused_with_the_limit() -> None:
    assert "n: 101 images are asked for" in str(refusal(labels=[0] * 101))


def test_labels_that_are_not_n_are_refused() -> None:
    assert str(refusal(n=2, labels=[1, 2, 3])) == "labels: 3 are given for n = 2"


def test_label_and_labels_exclude_each_other() -> None:
    assert "give label or labels, not both" in str(refusal(label=1, labels=[1]))


PLAIN = card_of(watermark(), "plain", (Z,))
STYLED = card_of(watermark(), "plain", (StyleInput(layers=2, dim=3),))


@pytest.mark.parametrize(
    ("field", "value", "role"),
    [
        ("label", 1, "label input"),
        ("labels", [1], "label input"),
        ("truncation", 0.5, "truncation"),
    ],
)
def test_a_field_that_the_model_has_no_input_for_is_refused(
    field: str, value: object, role: str
) -> None:
    error = refusal(PLAIN, model="plain", **{field: value})
    assert str(error) == f"{field}: 'plain' has no {role}"
    assert error.param == field


RESAMPLED = LatentInput(dim=Z_DIM, truncation=Resampling(minimum=0.1, maximum=2))
TRUNCATED = card_of(watermark(), "plain", (RESAMPLED,))


def test_latents_are_truncated_by_drawing_again() -> None:
    engine = FakeEngine(TRUNCATED)
    generate(engine, model="plain", n=3, seed=5, truncation=0.5)
    expected = latents(RESAMPLED, [5, 6, 7], 0.5)
    np.testing.assert_array_equal(engine.asked[0]["z"], expected)
    assert np.abs(expected).max() <= 0.5


def test_latents_are_not_truncated_unless_asked() -> None:
    engine = FakeEngine(TRUNCATED)
    generate(engine, model="plain", seed=5)
    np.testing.assert_array_equal(engine.asked[0]["z"], latents(RESAMPLED, [5]))


@pytest.mark.parametrize("threshold", [0.05, 2.1, -1])
def test_a_threshold_out_of_range_is_answered_with_the_range(threshold: float) -> None:
    error = refusal(TRUNCATED, model="plain", truncation=threshold)
    assert str(error) == f"truncation: {float(threshold)} is not in [0.1, 2.0]"


def test_given_latents_are_not_truncated_in_silence() -> None:
    error = refusal(TRUNCATED, model="plain", truncation=0.5, latents=[[0.0] * Z_DIM])
    assert "truncates the latents it draws; these are given" in str(error)


@pytest.mark.parametrize(
    "other",
    [
        TextInput(encoder="e", dim=3),
        ImageInput(),
        CameraInput(yaw_rad=(-1, 1), pitch_rad=(0, 0)),
        StyleInput(layers=2, dim=3),
    ],
)
def test_a_model_with_another_role_cannot_generate_from_noise(other: Input) -> None:
    engine = FakeEngine(card_of(watermark(), "other", (Z, other)))
    with pytest.raises(NotSupported, match=f"'other' needs a {other.role} input"):
        generate(engine, model="other")


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="no model is called 'nobody'"):
        generate(FakeEngine(), model="nobody")


def test_a_large_request_is_cut_into_batches_of_one_version() -> None:
    engine = FakeEngine()
    generation = generate(engine, n=70)
    assert [len(one["z"]) for one in engine.asked] == [MAX_BATCH_SIZE, MAX_BATCH_SIZE, 6]
    assert engine.versions == [1, 1, 1]
    assert len(generation.images) == 70


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((2, 4, 6, 3), np.uint8),
        np.zeros((1, 4, 6, 1), np.uint8),
        np.zeros((1, 4, 6), np.uint8),
        np.zeros((1, 4, 6, 3), np.float32),
    ],
    ids=["width", "count", "channels", "rank", "type"],
)
def test_a_picture_that_is_not_the_cards_never_leaves(wrong: Any) -> None:
    with pytest.raises(InternalError, match="marked gave"):
        generate(FakeEngine(answer=lambda _: wrong))


def test_a_request_may_shorten_the_services_deadline_and_not_lengthen_it() -> None:
    engine = FakeEngine()
    service = ImageService(engine, timeout_s=5)
    for timeout_s in (1.0, 60.0, None):
        asyncio.run(service.generate(parsed(model="marked"), timeout_s))
    assert engine.timeouts_s == pytest.approx([1.0, 5, 5], abs=0.05)


def test_an_engine_that_never_says_what_it_serves_is_given_up_at_the_deadline() -> None:
    class Silent(FakeEngine):
        async def published(self, model: str) -> Published:
            await asyncio.sleep(60)
            return await super().published(model)

    with pytest.raises(DeadlineExceeded, match=r"gave no answer within 0\.05 s"):
        asyncio.run(ImageService(Silent()).generate(parsed(model="marked"), 0.05))


def test_models_are_listed_by_name() -> None:
    engine = FakeEngine(PLAIN, card_of(watermark(), "marked"))
    found = asyncio.run(ImageService(engine).models())
    assert [one.name for one in found] == ["marked", "plain"]


def test_a_check_is_one_real_inference_of_one_image() -> None:
    engine = FakeEngine()
    asyncio.run(ImageService(engine).check("marked", 2.5))
    assert [len(one["z"]) for one in engine.asked] == [1]
    assert engine.timeouts_s == [pytest.approx(2.5, abs=0.2)]


def test_the_output_may_be_grey() -> None:
    grey = card_of(watermark(), "grey", (Z,), ImageOutput(height=2, width=3, channels=1))
    assert generate(FakeEngine(grey), model="grey").images.shape == (1, 2, 3, 1)


def test_a_version_that_does_not_serve_is_not_found() -> None:
    service = ImageService(FakeEngine())
    with pytest.raises(ModelNotFound, match=r"has no version 9; serving: 1"):
        asyncio.run(service.generate(parsed(model="marked", version=9)))


def test_the_version_asked_for_is_passed_on() -> None:
    engine = FakeEngine()
    asyncio.run(ImageService(engine).generate(parsed(model="marked", version=1)))
    assert engine.versions == [1]


def test_a_model_that_answers_others_is_busy_and_not_broken() -> None:
    engine = FakeEngine()
    service = ImageService(engine)

    async def probe() -> None:
        await service.generate(parsed(model="marked"))
        engine.delay_s = 0.5
        await service.check("marked", 0.2)  # too late, but somebody has just been answered
        await asyncio.sleep(0.3)
        with pytest.raises(DeadlineExceeded):
            await service.check("marked", 0.2)

    asyncio.run(probe())


def test_a_large_request_leaves_room_for_others() -> None:
    running, most, waiting = 0, 0, 0

    class Counting(FakeEngine):
        async def infer(self, *arguments: Any) -> Inference:
            nonlocal running, most, waiting
            running += 1
            most = max(most, running)
            waiting = max(waiting, serving.admissions["marked"].waiting)
            try:
                await asyncio.sleep(0)
                return await super().infer(*arguments)
            finally:
                running -= 1

    serving = ImageService(Counting(), max_n=10_000)
    asyncio.run(serving.generate(parsed(model="marked", n=10_000, seed=0)))
    assert most == 2  # a batch that runs, and the next
    assert waiting <= 8 * 32  # batches of 32 images
