"""A broken plugin harms nobody but itself, and its name reaches whoever misses something."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest
import typer

from gan_core.errors import ConfigError, PluginError, Unavailable
from gan_core.plugins import Plugins

if TYPE_CHECKING:
    from pathlib import Path

IMPORTS = "from gan_core import TrainConfig, Variant, hookimpl\n"
VARIANT = """
@hookimpl
def ganforge_variants():
    return [Variant(name={name!r}, paper="", config=TrainConfig, build=None, served=None)]
"""
HEALTHY = IMPORTS + VARIANT
BROKEN = {
    "import error": ("import clip", "import", "No module named 'clip'"),
    "syntax error": ("def", "import", "SyntaxError: invalid syntax (x.py, line 1)"),
    "exit at import": ("raise SystemExit(3)", "import", "SystemExit: 3"),
    "misspelt hook": (
        IMPORTS + "@hookimpl\ndef ganforge_variant(): return []",
        "hooks",
        "PluginValidationError: unknown hook 'ganforge_variant' in plugin",
    ),
    "wrong argument": (
        IMPORTS + "@hookimpl\ndef ganforge_tick(run, statistics): pass",
        "hooks",
        "can not be found in the hookspec",
    ),
    "hook that raises": (
        IMPORTS + "@hookimpl\ndef ganforge_variants(): raise KeyError('width')",
        "ganforge_variants",
        "KeyError: 'width'",
    ),
    "hook that exits": (
        IMPORTS + "@hookimpl\ndef ganforge_variants(): raise SystemExit(3)",
        "ganforge_variants",
        "SystemExit: 3",
    ),
    "no list": (
        IMPORTS + VARIANT.format(name="x").replace("[", "").replace("]", ""),
        "ganforge_variants",
        "returned a Variant, not a list",
    ),
    "wrong type in the list": (
        IMPORTS + "@hookimpl\ndef ganforge_variants(): return ['dcgan']",
        "ganforge_variants",
        "returned a str, not a Variant",
    ),
    "name taken by another": (
        HEALTHY.format(name="healthy"),
        "ganforge_variants",
        "'healthy' is provided already",
    ),
}

Install = Callable[..., list[EntryPoint]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes modules and gives the entry points that name them."""
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def entries(**sources: str) -> list[EntryPoint]:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            written.add(name)
        importlib.invalidate_caches()
        return [EntryPoint(name, name, "ganforge") for name in sources]

    yield entries
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, install: Install) -> tuple[Plugins, str, str]:
    """A healthy plugin beside one that is broken in this way."""
    source, stage, error = BROKEN[request.param]
    return Plugins(install(healthy=HEALTHY.format(name="healthy"), x=source)), stage, error


def test_the_other_plugins_still_work(broken: tuple[Plugins, str, str]) -> None:
    plugins, _, _ = broken
    assert plugins.variant("healthy").name == "healthy"


def test_the_report_names_the_culprit_the_stage_and_the_error(
    broken: tuple[Plugins, str, str],
) -> None:
    plugins, stage, error = broken
    assert list(plugins.variants) == ["healthy"]
    (failure,) = plugins.failures
    assert (failure.name, failure.stage, error in failure.error) == ("x", stage, True)


def test_a_failure_is_one_line(broken: tuple[Plugins, str, str]) -> None:
    plugins, _, _ = broken
    assert list(plugins.variants) == ["healthy"]
    assert "\n" not in str(plugins.failures[0])


def test_the_error_reaches_whoever_asks_for_the_variant(install: Install) -> None:
    plugins = Plugins(install(x="import clip"))
    with pytest.raises(PluginError) as caught:
        plugins.variant("x")
    assert str(caught.value) == (
        "variant 'x' is not available: plugin 'x' failed to load: No module named 'clip'"
    )


def test_an_unknown_name_lists_what_there_is_and_what_failed(install: Install) -> None:
    plugins = Plugins(install(healthy=HEALTHY.format(name="healthy"), x="import clip"))
    with pytest.raises(PluginError) as caught:
        plugins.variant("helthy")
    assert str(caught.value) == (
        "no variant is called 'helthy' (did you mean 'healthy'?); available: healthy. "
        "Also, plugin 'x' failed to load: No module named 'clip'"
    )


def test_the_second_plugin_of_a_name_is_refused(install: Install) -> None:
    first, second = install(a=HEALTHY.format(name="a"), b=HEALTHY.format(name="b"))
    plugins = Plugins([first, EntryPoint("a", second.value, "ganforge")])
    (failure,) = plugins.failures
    assert (list(plugins.variants), failure.stage, failure.error) == (
        ["a"],
        "name",
        "another plugin is called 'a' already",
    )


def test_no_plugin_may_take_the_name_of_the_built_in_one(install: Install) -> None:
    (entry,) = install(a=HEALTHY.format(name="a"))
    plugins = Plugins([EntryPoint("builtin", entry.value, "ganforge")])
    assert ("digits" in plugins.datasets, plugins.failures[0].stage) == (True, "name")


def test_one_module_under_two_names_loads_once(install: Install) -> None:
    (entry,) = install(a=HEALTHY.format(name="a"))
    plugins = Plugins([entry, EntryPoint("b", entry.value, "ganforge")])
    assert ([i.name for i in plugins.loaded], [f.name for f in plugins.failures]) == (["a"], ["b"])


def test_plugins_load_by_name_whatever_the_order_found(install: Install) -> None:
    entries = install(b=HEALTHY.format(name="b"), a=HEALTHY.format(name="a"))
    assert [info.name for info in Plugins(entries).loaded] == ["a", "b"]


def test_a_variant_is_asked_for_once(install: Install) -> None:
    counting = HEALTHY.format(name="a").replace("return", "CALLS.append(1)\n    return")
    plugins = Plugins(install(a="CALLS = []\n" + counting))
    for _ in range(3):
        plugins.variant("a")
    assert importlib.import_module("a").CALLS == [1]


OBSERVER = IMPORTS + "SEEN = []\n@hookimpl\ndef ganforge_tick(stats):\n    {body}"


@pytest.mark.parametrize("error", ["ValueError('full')", "SystemExit(3)"])
def test_an_observer_that_raises_does_not_stop_the_next(install: Install, error: str) -> None:
    bad, good = OBSERVER.format(body=f"raise {error}"), OBSERVER.format(body="SEEN.append(stats)")
    Plugins(install(a=bad, b=good)).notify("ganforge_tick", run=None, stats={"kimg": 1.0})
    assert importlib.import_module("b").SEEN == [{"kimg": 1.0}]


def test_an_observer_that_raises_is_logged_by_name(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = Plugins(install(a=OBSERVER.format(body="raise ValueError('full')")))
    with caplog.at_level(logging.ERROR):
        plugins.notify("ganforge_tick", run=None, stats={})
    assert caplog.messages == ["plugin 'a' raised in ganforge_tick"]


COMMAND = IMPORTS + "@hookimpl\ndef ganforge_commands(app):\n    {body}"


def test_a_plugin_adds_commands(install: Install) -> None:
    app = typer.Typer()
    Plugins(install(a=COMMAND.format(body="app.command('greet')(print)"))).add_commands(app)
    assert [command.name for command in app.registered_commands] == ["greet"]


def test_commands_of_the_others_are_added_when_one_fails(install: Install) -> None:
    app = typer.Typer()
    bad, good = COMMAND.format(body="1 / 0"), COMMAND.format(body="app.command('greet')(print)")
    plugins = Plugins(install(a=bad, b=good))
    plugins.add_commands(app)
    assert [c.name for c in app.registered_commands] == ["greet"]
    assert [(f.name, f.stage) for f in plugins.failures] == [("a", "ganforge_commands")]


def test_picking_an_unknown_metric_lists_those_there_are() -> None:
    plugins = Plugins([])
    with pytest.raises(PluginError, match=r"no metric is called 'fidd' \(did you mean 'fid'\?\)"):
        plugins.pick("metric", "fidd", plugins.metrics)


SOURCE = IMPORTS + "@hookimpl\ndef ganforge_model_source(model, url):\n    {body}"


def test_the_first_plugin_that_knows_an_address_gives_the_source(install: Install) -> None:
    unknowing, knowing = SOURCE.format(body="return None"), SOURCE.format(body="return model, url")
    plugins = Plugins(install(a=unknowing, b=knowing))
    found: object = plugins.model_source("toy", None, "x://y")
    assert found == ("toy", "x://y")


def test_an_address_that_no_plugin_knows_is_one_error(install: Install) -> None:
    plugins = Plugins(install(a=SOURCE.format(body="return None")))
    with pytest.raises(
        ConfigError, match=r"'toy' is no run and no \.onnx file, and no plugin serves x"
    ):
        plugins.model_source("toy", None, "x://y")


def test_what_goes_wrong_at_an_address_is_told_as_it_is(install: Install) -> None:
    body = "from gan_core.errors import Unavailable; raise Unavailable('down')"
    with pytest.raises(Unavailable, match="down"):
        Plugins(install(a=SOURCE.format(body=body))).model_source("toy", None, "x://y")


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """``ganforge`` in a process that finds real distributions in a folder of its own."""

    def run(sources: dict[str, str], *arguments: str) -> tuple[int, str]:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            info = tmp_path / f"{name}_dist-2.5.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 2.5\n"
            )
            (info / "entry_points.txt").write_text(f"[ganforge]\n{name} = {name}\n")
        done = subprocess.run(
            [sys.executable, "-m", "gan_core.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_the_listing_names_distribution_version_stage_and_error(
    listed: Callable[..., tuple[int, str]],
) -> None:
    sources = {"x": "import clip", "y": COMMAND.format(body="1 / 0"), "z": HEALTHY.format(name="z")}
    code, text = listed(sources, "plugins", "--json")
    failures = {f["name"]: f for f in json.loads(text)["failures"] if f["name"] in sources}
    assert failures == {
        "x": {
            "name": "x",
            "distribution": "x-dist",
            "version": "2.5",
            "stage": "import",
            "error": "No module named 'clip'",
        },
        "y": {
            "name": "y",
            "distribution": "y-dist",
            "version": "2.5",
            "stage": "ganforge_commands",
            "error": "ZeroDivisionError: division by zero",
        },
    }
    assert (code, "z" in json.loads(text)["variants"]) == (0, True)


def test_a_strict_listing_exits_1_when_a_plugin_failed(
    listed: Callable[..., tuple[int, str]],
) -> None:
    assert listed({"x": "raise SystemExit(0)"}, "plugins", "--strict")[0] == 1


def test_training_a_variant_whose_plugin_failed_says_why_in_one_line(
    listed: Callable[..., tuple[int, str]],
) -> None:
    code, text = listed(
        {"x": "import clip"}, *["train", "x", "--data", "digits", "--run", "nowhere"]
    )
    assert (code, text) == (
        1,
        "error: variant 'x' is not available: plugin 'x' failed to load: No module named 'clip'\n",
    )
