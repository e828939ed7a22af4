"""config.pbtxt: a published model in Triton's terms, and back.

Triton reads how to serve it; we read the cards of its versions and its release, which travel in
Triton's ``parameters``, so that a client needs Triton's address and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gan_core.card import ModelCard, TensorSpec
from gan_core.latents import draw

from .published import Published, Release

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

__all__ = ["INSTANCES", "MAX_QUEUE_SIZE", "config_text", "described"]

INSTANCES = 2
"""While one runs a batch the next is made: a lone one waits for the gateway after each batch."""
MAX_QUEUE_SIZE = 256
QUEUE_TIMEOUT_S = 10
CARD_KEY = "ganforge.card"
RELEASE_KEY = "ganforge.release"
TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
}
CPP_BACKEND_PARAMETERS = {
    # The C++ backend reads these after the accelerators and resets those that are missing:
    # heuristic convolution search, because the exhaustive one runs again for every new shape
    "cudnn_conv_algo_search": "1",
    "arena_extend_strategy": "1",
}


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
    written = config.parameters[RELEASE_KEY].string_value
    release = Release.model_validate_json(written) if written else Release(version=versions[-1])
    if not release.warm() <= set(versions):
        raise ValueError(f"model {model!r} serves {versions}, its release is {release}")
    return Published(model, cards, release, config.max_batch_size)


def config_text(published: Published) -> str:
    """A config.pbtxt that makes Triton, and us, serve it."""
    from google.protobuf import text_format

    return text_format.MessageToString(_config(published))


def _config(published: Published) -> ModelConfig:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

    card, newest = published.card, max(published.cards)
    size = published.max_batch_size
    config = ModelConfig(name=published.name, backend="onnxruntime", max_batch_size=size)
    for item in card.inputs:
        _describe(config.input.add(), item.tensor)
    _describe(config.output.add(), card.output.tensor)
    config.version_policy.specific.versions.extend(sorted(published.cards))
    config.instance_group.add(count=INSTANCES, kind=ModelInstanceGroup.KIND_AUTO)
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = QUEUE_TIMEOUT_S * 1_000_000
    policy.allow_timeout_override = True
    policy.max_queue_size = MAX_QUEUE_SIZE
    for n in (1, size):
        _warm_up(config.model_warmup.add(name=f"batch_{n}", batch_size=n), card)
    for version, one in published.cards.items():
        config.parameters[_card_key(version, newest)].string_value = one.model_dump_json()
    config.parameters[RELEASE_KEY].string_value = published.release.model_dump_json(
        exclude_none=True
    )
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
