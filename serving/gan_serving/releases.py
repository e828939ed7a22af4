"""Which version of a model answers: promote one, try one on a share of the requests, go back.

Everything is a change of config.pbtxt, by a rename, under the repository's lock: servers that
watch the repository follow, and none of them has a state of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gan_core.card import is_name
from gan_core.errors import InvalidRequest, ModelNotFound, PublishError, Unavailable

from .published import Published, Release
from .repository import (
    UNLOADED,
    changing,
    commit_release,
    read,
    versions_in,
    with_release,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["end_trial", "load", "promote", "roll_back", "try_out", "unload"]


def promote(repository: Path, model: str, version: int | None = None) -> Published:
    """Let a version answer all who name none; the canary by default.

    Raises:
        ModelNotFound: there is no such model or version.
        InvalidRequest: no version is named, and none is on trial.
    """
    with _changing(repository):
        before = read(repository, model)
        now = before.release
        chosen = version or now.canary
        if chosen is None:
            raise InvalidRequest(
                f"{model!r} has no canary to promote: name a version", param="version"
            )
        if chosen == now.version:
            return before
        return _changed(repository, before, Release(version=chosen, previous=now.version))


def roll_back(repository: Path, model: str) -> Published:
    """Undo the last step: end the canary's trial, or go back to the version before.

    Raises:
        ModelNotFound: there is no such model.
        InvalidRequest: there is nothing to go back to.
    """
    with _changing(repository):
        before = read(repository, model)
        now = before.release
        if now.canary is not None:
            return _changed(repository, before, Release(version=now.version, previous=now.previous))
        if now.previous is None:
            raise InvalidRequest(
                f"{model!r} has no version before {now.version} to go back to; in its folder: "
                f"{_listed(versions_in(repository / model))}"
            )
        return _changed(repository, before, Release(version=now.previous))


def try_out(repository: Path, model: str, weight: float, version: int | None = None) -> Published:
    """Let a version answer a share of the requests, on trial; the newest by default.

    Args:
        repository: where the model is.
        model: its name.
        weight: the share, above 0 and below 1.
        version: any in the model's folder.

    Raises:
        ModelNotFound: there is no such model or version.
        InvalidRequest: the weight is out of range, or the version serves all already.
    """
    with _changing(repository):
        before = read(repository, model)
        now = before.release
        chosen = version or max(versions_in(repository / model))
        try:
            release = Release(
                version=now.version, previous=now.previous, canary=chosen, weight=weight
            )
        except ValidationError as error:
            if chosen == now.version:
                raise InvalidRequest(
                    f"version {chosen} of {model!r} answers everybody already", param="version"
                ) from error
            raise InvalidRequest(
                f"weight: {weight} is not a share above 0 and below 1", param="weight"
            ) from error
        return _changed(repository, before, release)


def end_trial(repository: Path, model: str, canary: int) -> Published:
    """Send no more requests to a canary, if it still is one.

    Raises:
        ModelNotFound: there is no such model.
    """
    with _changing(repository):
        before = read(repository, model)
        now = before.release
        if now.canary != canary:
            return before
        return _changed(repository, before, Release(version=now.version, previous=now.previous))


def unload(repository: Path, model: str) -> None:
    """Serve a model no more, until it is loaded or published again.

    Raises:
        ModelNotFound: there is no such model.
    """
    with _changing(repository):
        read(repository, model)
        (repository / model / "config.pbtxt").rename(repository / model / UNLOADED)


def load(repository: Path, model: str) -> Published:
    """Serve a model that was unloaded, as before.

    Raises:
        ModelNotFound: there is no such model.
    """
    with _changing(repository):
        unloaded = repository / model / UNLOADED
        if is_name(model) and unloaded.is_file():
            unloaded.rename(unloaded.with_name("config.pbtxt"))
        return read(repository, model)


def _changed(repository: Path, before: Published, release: Release) -> Published:
    folder = repository / before.name
    present = versions_in(folder)
    for version in release.warm() - set(present):
        raise ModelNotFound(
            f"model {before.name!r} has no version {version}; in its folder: {_listed(present)}",
            param="version",
        )
    try:
        after = with_release(folder, before, release)
    except PublishError as error:
        raise InvalidRequest(f"{before.name!r}: {error}", param="version") from error
    commit_release(folder, after)
    return after


def _listed(versions: list[int]) -> str:
    return ", ".join(map(str, versions)) or "none"


@contextmanager
def _changing(repository: Path) -> Iterator[None]:
    if not repository.is_dir():
        raise Unavailable(f"{repository} is not a model repository: no such folder")
    try:
        with changing(repository):
            yield
    except OSError as error:
        raise Unavailable(f"can't change {repository}: {error}") from error
