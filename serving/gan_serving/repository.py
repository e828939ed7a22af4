"""The Triton model repository: what is published, and how a version gets in.

.. code-block:: text

    model_repository/
    └── digits_dcgan/
        ├── config.pbtxt        lists the versions that serve; carries their cards
        ├── 1/model.onnx        and card.json
        └── 2/model.onnx

config.pbtxt is the commit point: a version that it doesn't list isn't there. It is replaced by
a rename, after the version's files are safe on disk, so a crash at any moment leaves either
the old state or the new one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from gan_core.card import OUTPUT_NAME, PARITY_LEVELS, ModelCard, is_name
from gan_core.errors import ModelNotFound, PublishError, Unavailable
from gan_core.latents import draw, oblong, seed_range

from .published import MAX_BATCH_SIZE, MAX_PICTURES, Published, Release
from .triton_config import config_text, described

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "UNLOADED",
    "changing",
    "commit_release",
    "model_names",
    "not_found",
    "publish",
    "read",
    "unloaded_names",
    "versions_in",
    "way_back",
    "with_release",
]

log = logging.getLogger(__name__)

SCRATCH = ".publish-"
UNLOADED = "config.pbtxt.unloaded"
READABLE_IR_VERSION, READABLE_OPSET = 9, 20
"""What onnxruntime 1.17 reads, and with it every Triton container since 24.02."""


def model_names(repository: Path) -> list[str]:
    """Names of the models in a repository, sorted."""
    found = (path.parent.name for path in repository.glob("*/config.pbtxt"))
    return sorted(filter(is_name, found))


def unloaded_names(repository: Path) -> list[str]:
    """Names of the models that are published and serve no more, sorted."""
    found = {path.parent.name for path in repository.glob(f"*/{UNLOADED}")}
    return sorted(filter(is_name, found - set(model_names(repository))))


def way_back(model: str) -> str:
    """How a model comes back that was unloaded."""
    return f"POST /admin/models/{model}:load, or a new publication, brings it back"


def read(repository: Path, model: str) -> Published:
    """A published model.

    Raises:
        ModelNotFound: the repository has no such model.
        Unavailable: its config.pbtxt can't be read.
    """
    path = repository / model / "config.pbtxt"
    if not is_name(model) or not path.is_file():
        raise not_found(repository, model)
    return _read(path)


def not_found(repository: Path, model: str) -> ModelNotFound:
    """The error for a model that isn't there: it was unloaded, or others are."""
    if model in unloaded_names(repository):
        return ModelNotFound(f"model {model!r} is unloaded: {way_back(model)}", param="model")
    names = ", ".join(model_names(repository)) or "none"
    return ModelNotFound(f"no model is called {model!r}; published: {names}", param="model")


def _read(path: Path) -> Published:
    model = path.parent.name
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return described(model, text_format.Parse(path.read_text(), ModelConfig()))
    except (OSError, text_format.ParseError, ValueError) as error:
        log.error("%s: %s", path, error)  # noqa: TRY400 one line tells it all
        raise Unavailable(f"model {model!r} has an unreadable config.pbtxt") from error


def publish(
    source: Path, repository: Path, model: str | None = None, canary: float | None = None
) -> tuple[Published, Path]:
    """Publish ``source`` (model.onnx and card.json) as a new version; returns it and its folder.

    Args:
        source: what ``ganforge export`` wrote.
        repository: created where it doesn't exist.
        model: name to publish under; the card's own by default.
        canary: share of the requests that the new version answers, on trial; all by default.

    Raises:
        PublishError: the graph isn't what the card says, fails the checker, failed its parity,
            or differs in inputs or output from what is published; or there is no version that
            a canary could be compared with. The repository is as it was.
    """
    card, graph = _read_source(source, model)
    _check_graph(card, graph)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with changing(repository):
            for abandoned in repository.glob(f"{SCRATCH}*"):  # by a publisher that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            before = _existing(repository, card)
            target = repository / card.model
            version = 1 + max(
                (int(path.name) for path in target.glob("*") if path.name.isdecimal()), default=0
            )
            release = _release(before, version, canary)
            published = with_release(target, before, release, {version: card})
            _commit(target, version, graph, published)
    except OSError as error:
        raise PublishError(f"can't write to {repository}: {error}") from error
    return published, target / str(version)


def _release(before: Published | None, version: int, canary: float | None) -> Release:
    if canary is None:
        return Release(version=version, previous=before.version if before else None)
    if before is None:
        raise PublishError("a canary needs a version that serves already: publish one without")
    if not 0 < canary < 1:
        raise PublishError(f"canary: {canary} is not a share above 0 and below 1")
    stable = before.release
    return Release(version=stable.version, previous=stable.previous, canary=version, weight=canary)


def versions_in(folder: Path) -> list[int]:
    """The versions that a model's folder holds, whether they serve or not, sorted."""
    found = folder.glob("*/model.onnx")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdecimal())


def with_release(
    folder: Path,
    before: Published | None,
    release: Release,
    new: Mapping[int, ModelCard] | None = None,
) -> Published:
    """A model with another release; cards of versions that come back are read from its folder.

    Raises:
        PublishError: a version's card.json is missing or can't be read.
    """
    known = {**(before.cards if before else {}), **(new or {})}
    cards = {
        version: known[version] if version in known else _card_of(folder / str(version))
        for version in sorted(release.warm())
    }
    takes_pictures = any(card.input("image") for card in cards.values())
    return Published(
        folder.name, cards, release, MAX_PICTURES if takes_pictures else MAX_BATCH_SIZE
    )


def _card_of(folder: Path) -> ModelCard:
    try:
        return ModelCard.model_validate_json((folder / "card.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise PublishError(f"version {folder.name} can't serve again: {error}") from error


def _read_source(source: Path, model: str | None) -> tuple[ModelCard, bytes]:
    try:
        graph = (source / "model.onnx").read_bytes()
        card = ModelCard.model_validate_json((source / "card.json").read_bytes())
        if model:
            card = ModelCard.model_validate({**card.model_dump(), "model": model})
    except OSError as error:
        raise PublishError(f"{source} holds no exported generator: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        field = f"{where}: {said} (given {first['input']!r})" if where else said
        raise PublishError(f"{source / 'card.json'}: {field}") from error
    actual = hashlib.sha256(graph).hexdigest()
    if actual != card.sha256:
        raise PublishError(
            f"{source / 'model.onnx'} has sha256 {actual[:12]}…, its card says "
            f"{card.sha256[:12]}…: export again"
        )
    return card, graph


def _check_graph(card: ModelCard, graph: bytes) -> None:
    """Refuse what would fail once it serves, while nothing has been touched."""
    import onnx
    import onnxruntime

    if card.output.bit_depth != 8 and card.input("image") is None:
        raise PublishError(
            f"generated images of {card.output.bit_depth} bits can't be served: export 8-bit ones"
        )
    if card.parity_levels > PARITY_LEVELS:
        raise PublishError(
            f"the exported graph differs from torch by {card.parity_levels} levels; at most "
            f"{PARITY_LEVELS} is accepted"
        )
    try:
        proto = onnx.load_model_from_string(graph)
        onnx.checker.check_model(proto, full_check=True)
        opset = max(
            entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")
        )
        if proto.ir_version > READABLE_IR_VERSION or opset > READABLE_OPSET:
            raise PublishError(
                f"the graph has IR version {proto.ir_version} and opset {opset}; Triton's "
                f"containers read up to {READABLE_IR_VERSION} and {READABLE_OPSET}"
            )
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        expected = {item.name for item in card.inputs}
        actual = {item.name for item in session.get_inputs()}
        if actual != expected:
            raise PublishError(f"the graph takes {sorted(actual)}, its card {sorted(expected)}")
        _check_declared(card, session.get_outputs())
        three = draw(card.inputs, seed_range(0, 3))
        for inputs in (draw(card.inputs, [0]), three, oblong(card.inputs, three)):
            _check_output(card, inputs, session.run([OUTPUT_NAME], inputs)[0])
    except PublishError:
        raise
    except Exception as error:
        raise PublishError(f"the graph doesn't run: {' '.join(str(error).split())}") from error


def _check_declared(card: ModelCard, outputs: Any) -> None:
    """Triton loads a graph only if it declares its output as config.pbtxt does."""
    spec = card.output.tensor
    declared = {
        item.name: [d if isinstance(d, int) else -1 for d in item.shape] for item in outputs
    }
    if declared.get(spec.name) != [-1, *spec.shape]:
        raise PublishError(
            f"the graph gives {declared}, the card says {{{spec.name!r}: {[-1, *spec.shape]}}}"
        )


def _check_output(card: ModelCard, inputs: Mapping[str, NDArray[Any]], image: Any) -> None:
    spec = card.output.tensor
    sides = spec.shape[:2]
    if (source := card.input("image")) is not None:
        given = inputs[source.name].shape[1:3]
        sides = tuple(card.output.scale * px for px in given)
    expected = (len(next(iter(inputs.values()))), *sides, spec.shape[2])
    if image.shape != expected or image.dtype != np.dtype(spec.dtype):
        raise PublishError(
            f"a batch of {expected[0]} gives {image.dtype}{image.shape}, the card says "
            f"{spec.dtype}{expected}"
        )


def _existing(repository: Path, card: ModelCard) -> Published | None:
    folder = repository / card.model
    path = next((p for p in (folder / "config.pbtxt", folder / UNLOADED) if p.exists()), None)
    if path is None:
        return None
    try:
        published = _read(path)
    except Unavailable as error:
        raise PublishError(f"{error}: {error.__cause__}; mend or remove it first") from error
    if published.card.signature() != card.signature():
        raise PublishError(
            f"{card.model!r} version {published.version} has other inputs or output; publish "
            f"under another --model. Published: {_text(published.card)}. New: {_text(card)}"
        )
    return published


def _text(card: ModelCard) -> str:
    specs = [*(item.tensor for item in card.inputs), card.output.tensor]
    return ", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in specs)


def _commit(target: Path, version: int, graph: bytes, published: Published) -> None:
    """Write the version's folder, then the config that lists it; each by a rename."""
    with _scratch(target.parent) as scratch:
        staged = scratch / target.name
        folder = staged / str(version)
        folder.mkdir(parents=True)
        _write(folder / "model.onnx", graph)
        _write(folder / "card.json", published.cards[version].model_dump_json().encode())
        _write(staged / "config.pbtxt", config_text(published).encode())
        for one in (folder, staged):
            one.chmod(0o755)
            _fsync(one)
        if target.exists():
            folder.rename(target / str(version))
            _fsync(target)
            (staged / "config.pbtxt").replace(target / "config.pbtxt")
            (target / UNLOADED).unlink(missing_ok=True)
            _fsync(target)
        else:
            staged.rename(target)
            _fsync(target.parent)


def commit_release(target: Path, published: Published) -> None:
    """Replace a model's config.pbtxt, by a rename."""
    with _scratch(target.parent) as scratch:
        _write(scratch / "config.pbtxt", config_text(published).encode())
        (scratch / "config.pbtxt").replace(target / "config.pbtxt")
        _fsync(target)


@contextmanager
def _scratch(repository: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=repository))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def changing(repository: Path) -> Iterator[None]:
    """One process at a time changes a repository."""
    from filelock import FileLock

    with FileLock(repository / ".lock"):
        yield


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
