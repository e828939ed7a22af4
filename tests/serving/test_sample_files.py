"""Samples on disk: wherever a record was kept, going on from it gives the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gan_client import Client, Sample
from gan_core.errors import ConfigError
from gan_serving.sample_files import Record, Shards, is_free, record_path
from gan_serving.schema import AugmentRequest, validated


@pytest.fixture(scope="module")
def found(repository: Path) -> list[Sample]:
    with Client(f"local:{repository}") as client:
        return list(client.images.augment(model="marked", per_class={"three": 8, "one": 4}, seed=7))


def written(out: Path, size: int | None, samples: list[Sample], length: int = 0) -> Shards:
    shards = Shards(out, size, samples[0].index if samples else 0, length)
    for sample in samples:
        shards.write(sample)
    return shards


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


@pytest.mark.parametrize("size", [None, 1, 4, 5, 12])
@pytest.mark.parametrize("lost", [0, 1, 3])
def test_shards_end_alike_from_any_record(
    found: list[Sample], tmp_path: Path, size: int | None, lost: int
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    written(whole / "x.tar", size, found).finish()
    for kept in range(1, len(found)):
        cut = tmp_path / f"cut-{kept}"
        cut.mkdir()
        first = written(cut / "x.tar", size, found[:kept])
        length = first.flush()
        for sample in found[kept : kept + lost]:  # written, and of no record
            first.write(sample)
        first.close()
        written(cut / "x.tar", size, found[kept:], length).finish()
        assert files(cut) == files(whole), kept


def test_a_tar_that_was_shortened_is_not_gone_on_with(found: list[Sample], tmp_path: Path) -> None:
    written(tmp_path / "x.tar", None, found[:2]).finish()
    with pytest.raises(ConfigError, match="is shorter than the 999999 bytes"):
        Shards(tmp_path / "x.tar", None, 2, 999_999)


def request(**fields: Any) -> AugmentRequest:
    return validated(AugmentRequest, {"model": "marked", "count": 3, "seed": 7, **fields})


@pytest.mark.parametrize("name", ["new/folder", "new/x.tar"])
def test_a_record_comes_back(found: list[Sample], tmp_path: Path, name: str) -> None:
    path = record_path(tmp_path / name)
    assert Record.read(path) is None
    record = Record(request=request(), shard_size=4).at(found[2], 1234)
    record.write(path)
    assert Record.read(path) == record
    assert (record.request.version, record.request.offset, record.licence) == (1, 2, "unknown")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"request": 5}'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "augment.json").write_text(text)
    with pytest.raises(ConfigError, match="is no record of 'ganforge augment'"):
        Record.read(tmp_path / "augment.json")


def test_a_folder_with_files_is_not_free(tmp_path: Path) -> None:
    assert is_free(tmp_path / "new")
    assert is_free(tmp_path)
    (tmp_path / "augment.json.tmp").touch()  # of a run that was killed before its first image
    assert is_free(tmp_path)
    (tmp_path / "mine").touch()
    assert not is_free(tmp_path)
