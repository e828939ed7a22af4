"""Checkpoints: whole or not at all, no pickle, and what went in comes out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gan_core import checkpoint
from gan_core.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), NESTED, max_size=4))
def test_plain_values_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, object]
) -> None:
    path = checkpoint.save(tmp_path_factory.mktemp("round"), "1", state)
    assert checkpoint.load(path) == state


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3),
        torch.randn(2, 3).T,
        torch.tensor(3.5),
        torch.zeros(0),
        torch.arange(3),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.get_rng_state(),
    ],
    ids=["matrix", "transposed", "0-dim", "empty", "integer", "bfloat16", "bool", "rng"],
)
def test_a_tensor_comes_back_bit_for_bit(tmp_path: Path, tensor: torch.Tensor) -> None:
    back = checkpoint.load(checkpoint.save(tmp_path, "1", {"a": [tensor]}))["a"][0]
    assert (back.dtype, back.shape, torch.equal(back, tensor)) == (tensor.dtype, tensor.shape, True)


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    tensor = torch.randn(4)
    back = checkpoint.load(checkpoint.save(tmp_path, "1", {"a": tensor, "b": tensor[:2]}))
    assert torch.equal(back["a"][:2], back["b"])


def test_an_optimisers_integer_keys_stay_integers(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    back = checkpoint.load(checkpoint.save(tmp_path, "1", optimizer.state_dict()))
    assert list(back["state"]) == [0]


def test_a_checkpoint_is_safetensors_and_json_alone(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "1", {"a": torch.ones(1), "b": 2})
    assert sorted(p.name for p in path.iterdir()) == ["state.json", "tensors.safetensors"]
    assert load_file(path / "tensors.safetensors").keys() == {"/a"}
    assert json.loads((path / "state.json").read_text())


def test_a_value_that_needs_pickle_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="state holds a object at '/a/0'"):
        checkpoint.save(tmp_path, "1", {"a": [object()]})


def test_saving_leaves_nothing_temporary(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "1", {"a": torch.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_saving_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    # in a container the process id is the same every time, and so is the temporary name
    import os

    abandoned = tmp_path / f".1.{os.getpid()}.tmp"
    abandoned.mkdir()
    (abandoned / "tensors.safetensors").write_bytes(b"half")
    checkpoint.save(tmp_path, "1", {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_saving_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    for value in (1, 2):
        path = checkpoint.save(tmp_path, "1", {"a": value})
    assert checkpoint.load(path) == {"a": 2}


def test_a_replacement_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(tmp_path, "1", {"a": 1})
    rename = type(path).rename

    def full(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", full)
    with pytest.raises(CheckpointError, match="disk full; earlier checkpoints are intact"):
        checkpoint.save(tmp_path, "1", {"a": 2})
    assert checkpoint.load(path) == {"a": 1}


def test_an_unwritable_place_is_one_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"can't write checkpoint .*file/1: .*intact"):
        checkpoint.save(tmp_path / "file", "1", {"a": 1})


def test_the_latest_is_the_one_with_the_most_images(tmp_path: Path) -> None:
    for name in ("000009.000", "000010.000", "000002.500"):
        checkpoint.save(tmp_path, name, {})
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert latest.name == "000010.000"


def test_what_a_killed_process_was_writing_is_never_the_latest(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "000001.000", {})
    (tmp_path / ".000003.000.77.tmp").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "000001.000"


def test_a_checkpoint_that_lost_a_file_is_not_passed_over(tmp_path: Path) -> None:
    # a run would silently start again from an older one
    for name in ("000001.000", "000002.000"):
        path = checkpoint.save(tmp_path, name, {})
    (path / "state.json").unlink()
    assert checkpoint.latest(tmp_path) == path
    with pytest.raises(CheckpointError, match="remove it to use the one before"):
        checkpoint.load(path)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, "000001.000", {"weights": torch.zeros(100)})
    tensors = path / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-7] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointError, match="was changed after it was saved"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("before_kimg", "expected"),
    [
        (None, "000010.000"),
        (10.5, "000010.000"),
        (10.0, "000009.000"),  # at that moment is not before it
        (9.5, "000009.000"),
        (2.5, None),
        (0.0, None),
    ],
)
def test_the_latest_before_a_moment_was_saved_before_it(
    tmp_path: Path, before_kimg: float | None, expected: str | None
) -> None:
    for name in ("000009.000", "000010.000", "000002.500"):
        checkpoint.save(tmp_path, name, {})
    latest = checkpoint.latest(tmp_path, before_kimg)
    assert (latest.name if latest else None) == expected


def test_only_newer_checkpoints_are_removed(tmp_path: Path) -> None:
    names = ["000001.000", "000002.000", "000010.000", "000200.000"]
    for name in names:
        checkpoint.save(tmp_path, name, {})
    checkpoint.remove_after(tmp_path, tmp_path / names[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == names[:2]


def test_there_is_no_latest_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "noise"])
def test_a_damaged_checkpoint_is_one_error_that_names_it(
    tmp_path: Path, name: str, damage: str
) -> None:
    path = checkpoint.save(tmp_path, "1", {"a": torch.ones(64), "b": [1, 2, 3]})
    file = path / name
    whole = file.read_bytes()
    file.unlink()
    if damage != "gone":
        content = {"empty": b"", "half": whole[: len(whole) // 2], "noise": b"\xff" * len(whole)}
        file.write_bytes(content[damage])
    with pytest.raises(CheckpointError, match=f"can't read checkpoint {path}"):
        checkpoint.load(path)


def test_a_checkpoint_whose_replacement_was_killed_is_found_again(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, "000001.000", {"x": torch.ones(2)})
    saved.rename(tmp_path / ".000001.000.99.old")  # as between the two renames
    checkpoint.recover(tmp_path)
    assert checkpoint.latest(tmp_path) == saved
    assert torch.equal(checkpoint.load(saved)["x"], torch.ones(2))
