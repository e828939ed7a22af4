"""A repository to break, callers that check every answer, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_serving.repository import publish
from tests.faults.asking import Asker
from tests.serving.graphs import LABELLED_INPUTS, slow, write_export


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running(nothing_left_running: None) -> None:
    """See there."""


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A repository to break and to publish into, of one model: ``marked``."""
    publish(write_export(tmp_path / "marked", "marked"), tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def own(marked: Path, tmp_path: Path) -> Path:
    """The same with another model: ``slow``."""
    publish(write_export(tmp_path / "slow", "slow", slow(), LABELLED_INPUTS), marked)
    return marked


@pytest.fixture
def asking() -> Iterator[Callable[..., Asker]]:
    """Makes an ``Asker``."""
    askers: list[Asker] = []

    def ask(*arguments: Any, **options: Any) -> Asker:
        askers.append(Asker(*arguments, **options))
        return askers[-1]

    yield ask
    for asker in askers:
        asker.close()


@pytest.fixture(scope="session")
def _table(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, float]]]:
    table: dict[str, dict[str, float]] = {}
    yield table
    path = request.config.getoption("fault_times")
    if path is not None and table:
        path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def note(_table: dict[str, dict[str, float]]) -> Callable[..., None]:
    """Keeps what was measured of a fault, for ``--fault-times``."""

    def note(fault: str, **measured: float) -> None:
        _table[fault] = {name: round(value, 4) for name, value in measured.items()}

    return note
