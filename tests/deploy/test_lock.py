"""The lock files hold what pyproject.toml asks for, and nothing without a hash."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.files import DEPLOY, ROOT

LOCKS = ("requirements.lock", "build.lock")
IMAGE = {"python_version": "3.12", "sys_platform": "linux", "platform_machine": "x86_64"}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, str]:
    """Version of each package."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (DEPLOY / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def asked(texts: list[str]) -> Iterator[Requirement]:
    """Requirements for the image, with those of the project's own extras."""
    for requirement in map(Requirement, texts):
        if requirement.name == "ganforge":
            for extra in requirement.extras:
                yield from asked(PROJECT["project"]["optional-dependencies"][extra])
        elif requirement.marker is None or requirement.marker.evaluate(dict(IMAGE)):
            yield requirement


def unmet(requirements: Iterator[Requirement], versions: dict[str, str]) -> list[str]:
    """Those that no locked version satisfies."""
    return [
        f"{one}: {versions.get(canonicalize_name(one.name))}"
        for one in requirements
        if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0.dev0"))
    ]


def test_the_image_has_what_serving_asks_for() -> None:
    texts = [*PROJECT["project"]["dependencies"], "ganforge[serve,redis]"]
    wanted = (one for one in asked(texts) if one.name != "onnxruntime-gpu")
    assert unmet(wanted, locked("requirements.lock")) == []


def test_the_image_runs_graphs_on_cpus_alone() -> None:
    versions = locked("requirements.lock")
    gpu = [one for one in asked(["ganforge[graph]"]) if one.name == "onnxruntime-gpu"]
    stand_in = (Requirement(f"onnxruntime{one.specifier}") for one in gpu)
    assert gpu
    assert unmet(stand_in, versions) == []
    assert "onnxruntime-gpu" not in versions


def test_the_image_has_no_torch() -> None:
    assert not {"torch", "torchvision", "accelerate"} & locked("requirements.lock").keys()


def test_the_wheel_is_built_with_what_it_asks_for() -> None:
    texts = PROJECT["build-system"]["requires"]
    assert unmet(asked(texts), locked("build.lock")) == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_a_version_and_hashes(name: str) -> None:
    text = (DEPLOY / name).read_text()
    entries = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", entry), entry


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links| @ ", text)
