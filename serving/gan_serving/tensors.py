"""A request in a graph's terms: its seeds, and the tensors that its fields become."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gan_core.card import LabelInput, LatentInput, ModelCard
from gan_core.errors import InvalidRequest, NotSupported
from gan_core.latents import check_truncation, draw, random_seed, seed_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .schema import GenerationRequest

__all__ = ["count_of", "tensors_of"]

GENERATED_FROM = ("latent", "label", "truncation")


def tensors_of(
    request: GenerationRequest, card: ModelCard, max_n: int
) -> tuple[list[int], dict[str, NDArray[Any]]]:
    """Seeds of the images, and the graph's inputs [n, …] by name.

    Raises:
        InvalidRequest: a field is out of the model's range, or it has no use for it.
        NotSupported: the model can't generate from noise.
    """
    n = count_of(request, max_n)
    _check_size(request, card)
    _refuse_unused(request, card)
    # beside given latents there is little to draw: the same request gives the same images
    unasked = random_seed() if request.latents is None else 0
    seeds = seed_range(unasked if request.seed is None else request.seed, n)
    inputs = draw(card.inputs, seeds, request.truncation)
    for item in card.inputs:
        match item:
            case LatentInput() if request.latents is not None:
                inputs[item.name] = _latents(request.latents, n, item.dim)
            case LabelInput():
                labels = _labels(request, n)
                if labels:
                    indices = [_class_index(label, item, card.model) for label in labels]
                    inputs[item.name] = np.array(indices, dtype=np.int64)[:, None]
    return seeds, inputs


def count_of(request: GenerationRequest, max_n: int) -> int:
    """How many images a request asks for.

    Raises:
        InvalidRequest: more than it may, or as many as it contradicts.
    """
    implied = [
        len(given)
        for given in (request.labels, request.latents)
        if given is not None and not isinstance(given, str)
    ]
    n = request.n or (implied[0] if implied else 1)
    if n > max_n:
        raise InvalidRequest(f"n: {n} images are asked for; at most {max_n} per request", param="n")
    for name, given in (("labels", request.labels), ("latents", request.latents)):
        if given is not None and not isinstance(given, str) and len(given) != n:
            raise InvalidRequest(f"{name}: {len(given)} are given for n = {n}", param=name)
    return n


def _check_size(request: GenerationRequest, card: ModelCard) -> None:
    made = f"{card.output.width}x{card.output.height}"
    if request.size not in ("auto", made):
        raise InvalidRequest(
            f"size: {card.model!r} makes {made} images, not {request.size!r}; "
            f"'auto' or {made!r} are accepted",
            param="size",
        )


def _refuse_unused(request: GenerationRequest, card: ModelCard) -> None:
    """A field that the model has no input for is a mistake, not something to ignore."""
    other = [item.role for item in card.inputs if item.role not in GENERATED_FROM]
    if other:
        raise NotSupported(f"{card.model!r} needs a {other[0]} input: it can't generate from noise")
    for field, role in (("label", "label"), ("labels", "label"), ("latents", "latent")):
        if getattr(request, field) is not None and card.input(role) is None:
            raise InvalidRequest(f"{field}: {card.model!r} has no {role} input", param=field)
    if request.truncation is not None and not card.can_be_truncated:
        raise InvalidRequest(f"truncation: {card.model!r} has no truncation", param="truncation")
    if request.truncation is not None:
        if request.latents is not None and not card.input("truncation"):
            raise InvalidRequest(
                f"truncation: {card.model!r} truncates the latents it draws; these are given",
                param="truncation",
            )
        try:
            check_truncation(card.inputs, request.truncation)
        except ValueError as error:
            raise InvalidRequest(f"truncation: {error}", param="truncation") from error
    if request.label is not None and request.labels is not None:
        raise InvalidRequest("label: give label or labels, not both", param="label")


def _labels(request: GenerationRequest, n: int) -> Sequence[int | str]:
    if request.labels is not None:
        return request.labels
    return [] if request.label is None else [request.label] * n


def _class_index(label: int | str, item: LabelInput, model: str) -> int:
    if isinstance(label, int) and 0 <= label < len(item.classes):
        return label
    if isinstance(label, str) and label in item.classes:
        return item.classes.index(label)
    names = ", ".join(item.classes[:20]) + (", …" if len(item.classes) > 20 else "")
    raise InvalidRequest(
        f"label: {label!r} is out of range: model {model!r} has classes "
        f"0-{len(item.classes) - 1}, called {names}",
        param="label",
    )


def _latents(given: list[list[float]] | str, n: int, dim: int) -> NDArray[np.float32]:
    if isinstance(given, str):
        z = _decoded(given, n, dim)
    else:
        widths = {len(row) for row in given}
        if widths != {dim}:
            raise InvalidRequest(
                f"latents: rows have {sorted(widths)} numbers, z has {dim}", param="latents"
            )
        z = np.array(given, dtype=np.float64)
    with np.errstate(over="ignore"):
        z32 = z.astype(np.float32)
    if not np.isfinite(z32).all():
        raise InvalidRequest("latents: every number must be finite in float32", param="latents")
    return z32


def _decoded(text: str, n: int, dim: int) -> NDArray[Any]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"latents: not base64: {error}", param="latents") from error
    if len(raw) != n * dim * 4:
        raise InvalidRequest(
            f"latents: {len(raw) / 4:g} numbers of float32 ({len(raw)} bytes), but n = {n} of "
            f"{dim} are {n * dim}",
            param="latents",
        )
    return np.frombuffer(raw, dtype="<f4").reshape(n, dim)
