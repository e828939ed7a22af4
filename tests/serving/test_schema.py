"""The wire's shapes: what a request may hold, and how a mistake in one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import SERVICE_ERRORS, InvalidRequest, ServiceError
from gan_serving.schema import GenerationRequest, parsed, problem


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        parsed(**{"model": "marked", **fields})
    return refused.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", -1),
        ("n", True),
        ("n", 1.5),
        ("n", 1.0),
        ("n", "1"),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("seed", 1.5),
        ("seed", True),
        ("label", 1.5),
        ("label", [1]),
        ("label", True),
        ("labels", []),
        ("labels", 3),
        ("labels", [None]),
        ("truncation", "much"),
        ("truncation", float("nan")),
        ("truncation", float("inf")),
        ("latents", []),
        ("latents", [1.0]),
        ("latents", {"z": 1}),
        ("size", 64),
        ("size", "x" * 17),
        ("output_format", "gif"),
        ("response_format", "url"),
        ("prompt", "a cat"),
        ("user", "x" * 257),
        ("model", ""),
        ("model", "x" * 65),
        ("model", 3),
        ("model", "\ud800"),
        ("sede", 3),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(field: str, value: object) -> None:
    error = refusal(**{field: value})
    assert error.param == field
    assert str(error).startswith(f"{field}: ")
    assert "(given " in str(error)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(InvalidRequest, match="model: Field required"):
        parsed(n=1)


def test_a_model_that_is_none_is_not_told_as_missing() -> None:
    assert str(refusal(model=None)) == "model: Input should be a valid string (given None)"


def test_every_mistake_is_told_at_once() -> None:
    message = str(refusal(n=0, seed=-1))
    assert "n: Input should be greater than or equal to 1 (given 0)" in message
    assert "seed: Input should be greater than or equal to 0 (given -1)" in message


def test_a_long_value_is_shortened() -> None:
    assert len(str(refusal(n="x" * 10_000))) < 200


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_a_seed_may_have_64_bits(seed: int) -> None:
    assert parsed(model="marked", seed=seed).seed == seed


def test_what_openais_clients_send_is_accepted() -> None:
    request = parsed(model="marked", prompt="", response_format="b64_json", user="me", size="auto")
    assert request.n is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(list(GenerationRequest.model_fields)), json_values))
def test_any_value_is_accepted_or_refused_as_invalid(fields: dict[str, Any]) -> None:
    try:
        parsed(**fields)
    except InvalidRequest as error:
        assert error.param in fields or error.param == "model"  # noqa: PT017  it may be valid too


@pytest.mark.parametrize("kind", SERVICE_ERRORS.values())
def test_a_problem_holds_what_rfc_9457_and_openais_clients_read(kind: type[ServiceError]) -> None:
    body = problem(kind("why", param="n"), "id-1")
    assert body["error"] == {"message": "why", "type": kind.kind, "param": "n", "code": kind.code}
    body.pop("error")
    assert body == {
        "type": f"urn:ganforge:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "why",
        "request_id": "id-1",
    }


def test_a_problem_survives_json_whatever_the_message_holds() -> None:
    body = problem(InvalidRequest("\ud800 \0 ä"), "id")
    assert json.loads(json.dumps(body)) == body


@pytest.mark.parametrize("fields", [{"stream": 1}, {"stream": "yes"}, {"truncation": "0.5"}])
def test_a_field_of_another_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{next(iter(fields))}: Input should be a valid"):
        parsed(model="marked", **fields)
