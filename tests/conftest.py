"""Fixtures that serving and end-to-end tests share: tiny models, published once, and servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tests of faults take; see docs/faults.md."""
    group = parser.getgroup("faults")
    group.addoption("--fault-times", type=Path, help="write what was measured of faults: a .json")
    group.addoption("--soak-minutes", type=float, default=2.0, help="how long '-m soak' lasts")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` one process has the servers: their tests share and watch them."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] not in ("gan_core", "plugins"):
            item.add_marker(pytest.mark.xdist_group("servers"))


@pytest.fixture(scope="session")
def nothing_left_running() -> Iterator[None]:
    """At the end of the session no process and no shared memory is left of what it started."""
    from tests.serving.processes import marked_processes, shared_memory, unclaimed, wait_until

    name, value = "GANFORGE_TEST_SESSION", uuid.uuid4().hex
    before = shared_memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        yield
        wait_until(lambda: not marked_processes(name, value), timeout_s=5)
        left = [process.cmdline() for process in marked_processes(name, value)]
    assert left == []
    assert unclaimed(shared_memory() - before) == []


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per model, each as ``ganforge export`` would leave it."""
    from gan_core.card import DataSource
    from gan_core.export import export
    from tests.serving.gan import contrasted, contrasted_classes
    from tests.serving.graphs import (
        DEEP_OUTPUT,
        DOUBLED_INPUTS,
        LABELLED_INPUTS,
        deep,
        doubling,
        fragile,
        slow,
        watermark,
        write_export,
    )

    root = tmp_path_factory.mktemp("exports")
    for variant, served in (("dcgan", contrasted()), ("biggan", contrasted_classes())):
        name = f"tiny_{variant}"
        export(
            served,
            root / name,
            model=name,
            variant=variant,
            data=DataSource(name="none", fingerprint="0" * 12),
            trained_kimg=0.0,
        )
    write_export(root / "marked", "marked")
    write_export(root / "slow", "slow", slow(), LABELLED_INPUTS)
    write_export(root / "fragile", "fragile", fragile(), LABELLED_INPUTS)
    write_export(root / "doubling", "doubling", doubling(16), deep(DOUBLED_INPUTS), DEEP_OUTPUT)
    write_export(root / "versioned", "versioned")
    write_export(root / "versioned-2", "versioned", watermark(shade=10))
    return root


@pytest.fixture(scope="session")
def repository(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of all of them. Shared: tests that publish make one of their own."""
    from gan_serving.repository import publish

    root = tmp_path_factory.mktemp("model_repository")
    for source in sorted(exports.iterdir()):
        publish(source, root)
    return root


@pytest.fixture(scope="session")
def has_triton() -> None:
    """Skips where there is no local Triton."""
    from gan_serving.local_triton import home, installed, unsupported

    if reason := unsupported():
        pytest.skip(reason)
    if not installed(home()):
        pytest.skip("no local Triton: run 'ganforge triton install'")


@pytest.fixture(scope="session", autouse=True)
def _quiet_children() -> None:
    """Children of the tests print plainly."""
    os.environ.setdefault("NO_COLOR", "1")
