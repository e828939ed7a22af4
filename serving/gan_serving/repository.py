"""The Triton model repository: what is published, and how a version gets in.

.. code-block:: text

    model_repository/
    └── digits_dcgan/
        ├── config.pbtxt        lists the versions that serve; carries their cards
        ├── 1/model.onnx
        └── 2/model.onnx

config.pbtxt is the commit point: a version that it doesn't list isn't there. It is replaced by
a rename, after the version's files are safe on disk, so a crash at any moment leaves either
the old state or the new one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from gan_core.card import NAME_PATTERN, OUTPUT_NAME, PARITY_LEVELS, ModelCard, TensorSpec
from gan_core.errors import ModelNotFound, PublishError, Unavailable
from gan_core.latents import draw, seed_range

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = ["MAX_BATCH_SIZE", "Published", "described", "model_names", "publish", "read"]

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 32
MAX_QUEUE_SIZE = 256
QUEUE_TIMEOUT_S = 10
VERSIONS_WARM = 2
NAME_LENGTH = 64
CARD_KEY = "ganforge.card"
SCRATCH = ".publish-"
READABLE_IR_VERSION, READABLE_OPSET = 9, 20
"""What onnxruntime 1.17 reads, and with it every Triton container since 24.02."""
TRITON_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8"}
CPP_BACKEND_PARAMETERS = {
    # The C++ backend reads these after the accelerators and resets those that are missing:
    # heuristic convolution search, because the exhaustive one runs again for every new shape
    "cudnn_conv_algo_search": "1",
    "arena_extend_strategy": "1",
}


@dataclass(frozen=True, slots=True)
class Published:
    """A model as its config.pbtxt describes it."""

    name: str
    cards: Mapping[int, ModelCard]
    """By version, for every version that serves."""
    max_batch_size: int = MAX_BATCH_SIZE
    """Most rows of one inference."""

    @property
    def version(self) -> int:
        """The newest version that serves."""
        return max(self.cards)

    @property
    def card(self) -> ModelCard:
        """The newest version's card."""
        return self.cards[self.version]


def model_names(repository: Path) -> list[str]:
    """Names of the models in a repository, sorted."""
    found = (path.parent.name for path in repository.glob("*/config.pbtxt"))
    return sorted(filter(_is_name, found))


def read(repository: Path, model: str) -> Published:
    """A published model.

    Raises:
        ModelNotFound: the repository has no such model.
        Unavailable: its config.pbtxt can't be read.
    """
    path = repository / model / "config.pbtxt"
    if not _is_name(model) or not path.is_file():
        names = ", ".join(model_names(repository)) or "none"
        raise ModelNotFound(f"no model is called {model!r}; published: {names}", param="model")
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return described(model, text_format.Parse(path.read_text(), ModelConfig()))
    except (OSError, text_format.ParseError, ValueError) as error:
        log.error("%s: %s", path, error)  # noqa: TRY400 one line tells it all
        raise Unavailable(f"model {model!r} has an unreadable config.pbtxt") from error


def _is_name(name: str) -> bool:
    return len(name) <= NAME_LENGTH and bool(re.fullmatch(NAME_PATTERN, name))


def described(model: str, config: ModelConfig) -> Published:
    """What a Triton model configuration publishes of a model.

    Raises:
        ValueError: it carries no card, or one that can't be read.
    """
    versions = sorted(config.version_policy.specific.versions)
    if not versions:
        raise ValueError(f"model {model!r} lists no version and carries no {CARD_KEY!r}")
    cards = {
        version: ModelCard.model_validate_json(
            config.parameters[_card_key(version, versions[-1])].string_value
        )
        for version in versions
    }
    return Published(model, cards, config.max_batch_size)


def publish(source: Path, repository: Path, model: str | None = None) -> tuple[Published, Path]:
    """Publish ``source`` (model.onnx and card.json) as a new version; returns it and its folder.

    Args:
        source: what ``ganforge export`` wrote.
        repository: created where it doesn't exist.
        model: name to publish under; the card's own by default.

    Raises:
        PublishError: the graph isn't what the card says, fails the checker, failed its parity,
            or differs in inputs or output from what is published. The repository is as it was.
    """
    card, graph = _read_source(source, model)
    _check_graph(card, graph)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository):
            for abandoned in repository.glob(f"{SCRATCH}*"):  # by a publisher that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            published = _existing(repository, card)
            version = 1 + max(
                (int(p.name) for p in (repository / card.model).glob("*") if p.name.isdecimal()),
                default=0,
            )
            versions = {**(published.cards if published else {}), version: card}
            warm = dict(sorted(versions.items())[-VERSIONS_WARM:])
            _commit(repository / card.model, version, graph, warm)
    except OSError as error:
        raise PublishError(f"can't write to {repository}: {error}") from error
    return Published(card.model, warm), repository / card.model / str(version)


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
        field = f"{where}: {first['msg']} (given {first['input']!r})" if where else first["msg"]
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

    if card.output.bit_depth != 8:
        raise PublishError(f"{card.output.bit_depth}-bit images can't be served: export 8-bit ones")
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
        for n in (1, 3):
            inputs = draw(card.inputs, seed_range(0, n))
            _check_output(card, n, session.run([OUTPUT_NAME], inputs)[0])
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


def _check_output(card: ModelCard, n: int, image: Any) -> None:
    spec = card.output.tensor
    sizes = zip(image.shape[1:], spec.shape, strict=False)
    fits = len(image.shape) == 4 and len(image) == n and all(s == -1 or a == s for a, s in sizes)
    if not fits or image.dtype != np.dtype(spec.dtype):
        raise PublishError(
            f"a batch of {n} gives {image.dtype}{image.shape}, the card says "
            f"{spec.dtype}{(n, *spec.shape)}"
        )


def _existing(repository: Path, card: ModelCard) -> Published | None:
    if not (repository / card.model / "config.pbtxt").exists():
        return None
    try:
        published = read(repository, card.model)
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


def _commit(target: Path, version: int, graph: bytes, warm: Mapping[int, ModelCard]) -> None:
    """Write the version's folder, then the config that lists it; each by a rename."""
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=target.parent))
    try:
        staged = scratch / target.name
        (staged / str(version)).mkdir(parents=True)
        _write(staged / str(version) / "model.onnx", graph)
        _write(staged / "config.pbtxt", _config_text(target.name, warm).encode())
        for folder in (staged / str(version), staged):
            folder.chmod(0o755)
            _fsync(folder)
        if target.exists():
            (staged / str(version)).rename(target / str(version))
            _fsync(target)
            (staged / "config.pbtxt").replace(target / "config.pbtxt")
            _fsync(target)
        else:
            staged.rename(target)
            _fsync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _config_text(model: str, warm: Mapping[int, ModelCard]) -> str:
    from google.protobuf import text_format

    return text_format.MessageToString(_config(model, warm))


def _config(model: str, warm: Mapping[int, ModelCard]) -> ModelConfig:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

    newest = max(warm)
    card = warm[newest]
    config = ModelConfig(name=model, backend="onnxruntime", max_batch_size=MAX_BATCH_SIZE)
    for item in card.inputs:
        _describe(config.input.add(), item.tensor)
    _describe(config.output.add(), card.output.tensor)
    config.version_policy.specific.versions.extend(sorted(warm))
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_AUTO)
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = QUEUE_TIMEOUT_S * 1_000_000
    policy.allow_timeout_override = True
    policy.max_queue_size = MAX_QUEUE_SIZE
    for n in (1, MAX_BATCH_SIZE):
        _warm_up(config.model_warmup.add(name=f"batch_{n}", batch_size=n), card)
    for version, one in warm.items():
        config.parameters[_card_key(version, newest)].string_value = one.model_dump_json()
    for key, value in CPP_BACKEND_PARAMETERS.items():
        config.parameters[key].string_value = value
    return config


def _card_key(version: int, newest: int) -> str:
    return CARD_KEY if version == newest else f"{CARD_KEY}.{version}"


def _describe(tensor: Any, spec: TensorSpec) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    tensor.name = spec.name
    tensor.data_type = DataType.Value(TRITON_TYPES[spec.dtype])
    tensor.dims.extend(spec.shape)


def _warm_up(sample: Any, card: ModelCard) -> None:
    from tritonclient.grpc.model_config_pb2 import DataType

    example = draw(card.inputs, [0])
    for item in card.inputs:
        entry = sample.inputs[item.name]
        entry.data_type = DataType.Value(TRITON_TYPES[item.tensor.dtype])
        entry.dims.extend(example[item.name].shape[1:])
        entry.zero_data = True


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
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
