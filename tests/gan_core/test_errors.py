"""The tree drawn in the docstring is the tree there is."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import pytest

from gan_core import errors
from gan_core.errors import SERVICE_ERRORS, GanforgeError, ServiceError, TrainingDiverged


class Row(NamedTuple):
    depth: int
    name: str
    status: int | None
    grpc: str | None
    says: str


def drawn() -> list[Row]:
    """The rows of the docstring's tree."""
    line = re.compile(
        r"^    (?P<bars>[ │├└─]*)(?P<name>[A-Z]\w+) +"
        r"(?:(?P<status>\d{3})  (?P<grpc>[A-Z_]+) +)?(?P<says>.+)$",
        re.MULTILINE,
    )
    return [
        Row(
            len(row["bars"]) // 4,
            row["name"],
            int(row["status"]) if row["status"] else None,
            row["grpc"],
            row["says"],
        )
        for row in line.finditer(errors.__doc__ or "")
    ]


def classes() -> dict[str, type[GanforgeError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, GanforgeError)}


SERVICE = [kind for kind in classes().values() if issubclass(kind, ServiceError)]


def test_every_class_is_drawn_once() -> None:
    assert sorted(row.name for row in drawn()) == sorted(classes())


def test_every_class_is_drawn_under_its_base() -> None:
    path: list[str] = []
    for row in drawn():
        path[row.depth :] = [row.name]
        if row.depth:
            assert classes()[row.name].__bases__[0].__name__ == path[row.depth - 1]


def test_the_drawn_statuses_and_grpc_codes_are_the_classes() -> None:
    table = {row.name: (row.status, row.grpc) for row in drawn() if row.status}
    actual = {kind.__name__: (kind.status, kind.grpc) for kind in SERVICE}
    assert table == {name: actual[name] for name in table}


def test_every_service_error_that_a_server_sends_has_a_row() -> None:
    sent = {kind.__name__ for kind in SERVICE} - {"ServiceError", "ConnectionFailed"}
    assert {row.name for row in drawn() if row.status} == sent


def test_every_service_error_has_a_code_of_its_own() -> None:
    assert len({kind.code for kind in SERVICE}) == len(SERVICE)


def test_every_service_error_is_found_by_its_code() -> None:
    assert set(SERVICE_ERRORS.values()) == set(SERVICE) - {ServiceError}


def test_every_service_error_has_a_title_of_its_own() -> None:
    assert len({kind.title for kind in SERVICE}) == len(SERVICE)


def test_every_grpc_code_exists() -> None:
    import grpc

    assert {kind.grpc for kind in SERVICE} <= {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("kind", classes().values(), ids=lambda kind: kind.__name__)
def test_every_error_says_when_it_is_raised(kind: type[GanforgeError]) -> None:
    assert (kind.__doc__ or "").endswith(".")


def test_a_divergence_says_what_when_and_how_much() -> None:
    error = TrainingDiverged(7, "loss/D", float("nan"))
    assert str(error) == "loss/D became nan at step 7"


def test_whoever_finds_a_model_unavailable_is_told_when_to_come_again() -> None:
    assert errors.Unavailable("down").retry_after_s == 1
    assert errors.Unavailable("down", retry_after_s=7).retry_after_s == 7
    assert errors.InternalError("broken").retry_after_s is None
