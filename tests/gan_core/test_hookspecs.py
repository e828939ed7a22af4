"""The contract is complete: each hook says when it is called, and takes only what it names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from gan_core import hookspecs
from gan_core.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import Callable

HOOKS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
    if hasattr(function, "ganforge_spec")
}


def test_there_are_hooks() -> None:
    assert {"ganforge_variants", "ganforge_tick", "ganforge_commands"} <= HOOKS.keys()


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_says_what_it_is_for(name: str) -> None:
    assert len(inspect.getdoc(HOOKS[name]) or "") > 40


@pytest.mark.parametrize("name", HOOKS)
def test_every_argument_of_a_hook_is_typed(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    annotations = [p.annotation for p in signature.parameters.values()]
    assert inspect.Signature.empty not in (*annotations, signature.return_annotation)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_the_projects_prefix(name: str) -> None:
    assert name.startswith("ganforge_")


def test_the_whole_contract_is_one_short_file() -> None:
    assert len(inspect.getsource(hookspecs).splitlines()) < 100


@pytest.mark.parametrize("hook", ["datasets", "metrics", "feature_extractors"])
def test_what_is_built_in_registers_through_the_hooks(hook: str) -> None:
    assert len(getattr(Plugins([]), hook)) >= 1


def test_there_is_no_variant_without_a_plugin() -> None:
    assert dict(Plugins([]).variants) == {}
