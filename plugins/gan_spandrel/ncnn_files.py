"""What stands in ncnn's two files.

NAME.param lists layers, one a line: kind, name, how many blobs go in and out, their names, and
settings by number. NAME.bin holds their weights one after the other, as float16 or float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Bin", "Layer", "layers_of"]

MAGIC = "7767517"
ARRAY = -23300
"""A setting of number ARRAY - n is an array: setting n."""
FLOAT16 = 0x01306B47
FLOAT32 = (0, 0x0002C056)

Setting = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of NAME.param."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: dict[int, Setting]

    def number(self, key: int, default: float = 0) -> float:
        """A setting that is one number."""
        value = self.settings.get(key, default)
        if isinstance(value, tuple):
            raise self.unknown(key, value)
        return value

    def integer(self, key: int, default: int = 0) -> int:
        """A setting that is a whole number."""
        return int(self.number(key, default))

    def numbers(self, key: int, default: tuple[float, ...]) -> tuple[float, ...]:
        """A setting that is an array."""
        value = self.settings.get(key, default)
        return value if isinstance(value, tuple) else (value,)

    def expect(self, **accepted: float) -> None:
        """Refuse settings, such as ``_3``, of another value than the one that is known here."""
        for key, value in accepted.items():
            if (given := self.number(int(key[1:]), value)) != value:
                raise self.unknown(int(key[1:]), given)

    def unknown(self, key: int, value: Setting) -> ConfigError:
        """The error for a setting that isn't known here."""
        return ConfigError(f"layer {self.name} ({self.kind}): {key}={value} isn't known")


def layers_of(text: str) -> list[Layer]:
    """The layers that NAME.param lists.

    Raises:
        ConfigError: it is damaged, or of another kind.
    """
    return [_parsed(words) for words in _lines(text)]


def _lines(text: str) -> list[list[str]]:
    found = [line.split() for line in text.splitlines() if line.strip()]
    magic, counts, *lines = [*found, [], []] if len(found) < 2 else found
    if magic != [MAGIC] or len(counts) != 2 or counts[0] != str(len(lines)):
        raise ConfigError(
            f"a .param file of ncnn starts with {MAGIC} and the number of its layers, not {magic} "
            f"and {counts} before {len(lines)} lines"
        )
    return lines


def _parsed(words: list[str]) -> Layer:
    try:
        kind, name, n_in, n_out, *rest = words
        split = int(n_in)
        end = split + int(n_out)
        pairs = (word.split("=", 1) for word in rest[end:])
        settings = dict(_setting(int(key), value) for key, value in pairs)
        return Layer(kind, name, tuple(rest[:split]), tuple(rest[split:end]), settings)
    except ValueError as error:
        raise ConfigError(f"'{' '.join(words)}' is no layer: {error}") from error


def _setting(key: int, value: str) -> tuple[int, Setting]:
    if key > ARRAY:
        return key, float(value)
    _, *values = value.split(",")
    return ARRAY - key, tuple(map(float, values))


class Bin:
    """NAME.bin, read from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def plain(self, n: int) -> Tensor:
        """Float32 [n], without a tag."""
        return torch.from_numpy(self._values(n, np.dtype("<f4")).astype(np.float32))

    def tagged(self, n: int) -> Tensor:
        """Float32 [n], stored as its tag says and padded to 4 bytes."""
        (tag,) = self._values(1, np.dtype("<u4"))
        if tag in FLOAT32:
            return self.plain(n)
        if tag != FLOAT16:
            raise ConfigError(f"weights of tag {tag:#010x}: float16 and float32 are accepted")
        values = self._values(n, np.dtype("<f2")).astype(np.float32)
        self.position += self.position % 4
        return torch.from_numpy(values)

    def done(self) -> None:
        """Refuse weights that no layer has read."""
        if self.position != len(self.data):
            raise ConfigError(
                f"its .bin holds {len(self.data)} bytes, its layers {self.position}: they aren't "
                "of one network, or one is damaged"
            )

    def _values(self, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        end = self.position + n * dtype.itemsize
        if n < 1 or end > len(self.data):
            raise ConfigError(
                f"its .bin ends at byte {len(self.data)}, its layers go on: it is damaged"
            )
        values = np.frombuffer(self.data[self.position : end], dtype)
        self.position = end
        return values
