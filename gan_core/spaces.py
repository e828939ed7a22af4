"""Spaces to search: which values each setting may take, by itself or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .data import open_training
from .errors import ConfigError
from .workflow import configured

if TYPE_CHECKING:
    from pathlib import Path

    import optuna

    from .plugins import Plugins
    from .variant import TrainConfig

__all__ = [
    "EXAMPLE",
    "Choice",
    "Space",
    "default_space",
    "derived_space",
    "explained",
    "number_of",
    "one_line",
    "read_space",
]

Number = type[int] | type[float]

EXAMPLE = "a space has lines such as 'lr_G: {low: 1.0e-5, high: 1.0e-2, log: true}'"
"""For messages."""


class Choice(BaseModel):
    """The values that a setting may take: a range, or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices):
            raise ValueError("give low and high, or choices")
        if self.choices and (self.log or self.step is not None):
            raise ValueError("log and step are of a range, not of choices")
        return self

    @model_validator(mode="after")
    def _is_a_range_that_can_be_drawn_from(self) -> Self:
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, not {self.low}")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError(f"step {self.step} needs to be above 0, without log")
        return self

    def __contains__(self, value: Any) -> bool:
        if self.low is None or self.high is None:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def ends(self, number: Number | None) -> tuple[Any, ...]:
        """Both ends of a range of such numbers, or each of the choices.

        Raises:
            ValueError: a range of what isn't a number, or of whole numbers that aren't whole.
        """
        if self.low is None or self.high is None:
            return self.choices
        if number is None:
            raise ValueError("it isn't a number: give a list of choices, not a range")
        for bound in (self.low, self.high, self.step):
            if number is int and bound is not None and bound != int(bound):
                raise ValueError(f"it takes whole numbers, not {bound:g}")
        return number(self.low), number(self.high)

    def suggest(self, trial: optuna.Trial, name: str, number: Number | None) -> Any:
        """A value from Optuna, whole if ``number`` is int."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(name, self.choices)
        if number is int:
            step = int(self.step or 1)
            return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


Space = dict[str, Choice]


def default_space(config: TrainConfig) -> Space:
    """Learning rates, betas, batch size and length of z, round those that a variant has.

    Of the usual values those that the variant takes beside its others.
    """
    space: Space = {}
    for name in ("lr_G", "lr_D"):
        if (lr := getattr(config, name, None)) and _fits(config, name, lr / 10):
            space[name] = Choice(low=lr / 10, high=lr * 20, log=True)
    around = {
        "beta1": (0.0, 0.5, 0.9),
        "beta2": (0.9, 0.99, 0.999),
        "batch_size": (16, 32, 64, 128),
        "z_dim": (16, 32, 64, 128),
    }
    for name, values in around.items():
        if (own := getattr(config, name, None)) is not None:
            fitting = {value for value in values if _fits(config, name, value)}
            space[name] = Choice(choices=tuple(sorted({*fitting, own})))
    return space


def _fits(config: TrainConfig, name: str, value: Any) -> bool:
    try:
        type(config).model_validate({**config.model_dump(exclude_unset=True), name: value})
    except ValidationError:
        return False
    return True


def derived_space(variant: str, data: str, settings: Mapping[str, Any], plugins: Plugins) -> Space:
    """The default space of a variant on that data, without what is set.

    Raises:
        ConfigError, DataError, PluginError: the variant can't be trained like that.
    """
    found = plugins.variant(variant)
    _, images = open_training(data, settings.get("resolution_px"), plugins)
    space = default_space(configured(found, settings, images))
    return {name: choice for name, choice in space.items() if name not in settings}


def read_space(path: Path) -> Space:
    """A space from a YAML file: ``lr_G: {low: 1e-5, high: 1e-2, log: true}``, ``z_dim: [32, 64]``.

    Raises:
        ConfigError: it can't be read, or says something else.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read: {one_line(error)}") from error
    if not document:
        raise ConfigError(f"{path} is empty: {EXAMPLE}")
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds a {type(document).__name__}: {EXAMPLE}")
    return {str(name): _read_choice(f"{path}: {name}", given) for name, given in document.items()}


def _read_choice(where: str, given: Any) -> Choice:
    if isinstance(given, list):
        given = {"choices": given}
    if not isinstance(given, dict):
        raise ConfigError(f"{where} is {given!r}: give {{low: …, high: …}}, or a list of choices")
    try:
        return Choice.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explained(error)}") from error


def explained(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{name!r} is no key here"
    said = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "missing" else f" (given {first['input']!r})"
    return f"{name}: {said}{given}" if name else said


def one_line(error: Exception) -> str:
    """An error's text, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def number_of(annotation: Any) -> Number | None:
    """Int or float, where a field is one, maybe or None; None where it is something else."""
    if annotation in (int, float):
        return int if annotation is int else float
    if get_origin(annotation) is Annotated:
        return number_of(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, UnionType):
        return None
    kinds = {number_of(part) for part in get_args(annotation) if part is not NoneType}
    return float if kinds in ({float}, {int, float}) else int if kinds == {int} else None
