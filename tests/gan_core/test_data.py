"""The order of training images is a function of (seed, position), and nothing else."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gan_core.card import DataSource
from gan_core.data import Batch, Images, fingerprint, open_data
from gan_core.errors import DataError, PluginError

if TYPE_CHECKING:
    from gan_core.plugins import Plugins


CPU = torch.device("cpu")


def numbered(n: int) -> Images:
    """Image i is all i; so is its label."""
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return Images(pixels, DataSource(name="numbered", fingerprint="0"), np.arange(n))


def order(images: Images, size: int, steps: int, **where: int) -> list[list[int]]:
    """Labels of the first batches."""
    found = islice(images.batches(size, **{"seed": 0, **where}), steps)
    return [batch.label.tolist() for batch in found if batch.label is not None]


@given(
    n=st.integers(4, 40), size=st.integers(1, 4), done=st.integers(0, 30), seed=st.integers(0, 9)
)
def test_a_resumed_order_is_the_rest_of_the_whole_one(
    n: int, size: int, done: int, seed: int
) -> None:
    images = numbered(n)
    whole = order(images, size, done + 5, seed=seed)
    assert order(images, size, 5, seed=seed, start=done * size) == whole[done:]


@given(
    n=st.integers(8, 20),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    seed=st.integers(0, 9),
)
def test_batches_of_any_size_cut_one_stream(n: int, sizes: list[int], seed: int) -> None:
    # as where a variant's batch changes over training
    images, cut = numbered(n), list[int]()
    for size in sizes:
        (batch,) = order(images, size, 1, seed=seed, start=len(cut))
        cut += batch
    stream = chain(*order(images, 1, len(cut), seed=seed))
    assert cut == list(stream)


@given(n=st.integers(8, 40), size=st.integers(1, 4), world=st.integers(1, 2))
def test_ranks_share_a_step_without_overlap(n: int, size: int, world: int) -> None:
    images = numbered(n)
    ranks = [order(images, size, 4, rank=rank, world=world) for rank in range(world)]
    together = [list(chain(*step)) for step in zip(*ranks, strict=True)]
    assert together == order(images, size * world, 4)


def test_every_image_comes_once_in_an_epoch() -> None:
    epoch = order(numbered(12), 3, 4)
    assert sorted(chain(*epoch)) == list(range(12))


def test_each_epoch_has_another_order() -> None:
    both = order(numbered(12), 3, 8)
    assert both[:4] != both[4:]


def test_nothing_of_an_epoch_is_dropped() -> None:
    stream = list(chain(*order(numbered(10), 4, 5)))
    assert [sorted(stream[:10]), sorted(stream[10:])] == [list(range(10))] * 2


def test_a_batch_may_straddle_two_epochs() -> None:
    whole, batches = order(numbered(10), 10, 2), order(numbered(10), 4, 3)
    assert batches[2] == whole[0][8:] + whole[1][:2]


def test_every_batch_is_full() -> None:
    assert {len(batch) for batch in order(numbered(10), 4, 6)} == {4}


def test_another_seed_is_another_order() -> None:
    assert order(numbered(12), 3, 4) != order(numbered(12), 3, 4, seed=1)


def test_the_largest_seed_is_accepted() -> None:
    assert len(order(numbered(12), 3, 1, seed=2**63 - 1)) == 1


def test_a_set_smaller_than_the_batch_is_refused() -> None:
    with pytest.raises(DataError, match="numbered has 3 images, fewer than the batch of 4"):
        next(numbered(3).batches(4, seed=0))


def test_pixels_become_floats_from_minus_one_to_one() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    images = Images(pixels, DataSource(name="a", fingerprint="0"))
    batch = images.batch(np.arange(3)).to(CPU)
    torch.testing.assert_close(batch.real.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_floats_are_taken_as_they_are() -> None:
    # points in the plane: no levels to be scaled
    points = np.array([[0.25, -0.5]], np.float32).reshape(1, 2, 1, 1)
    images = Images(points, DataSource(name="a", fingerprint="0"))
    batch = images.batch(np.arange(1)).to(CPU)
    assert (batch.real.dtype, batch.real.flatten().tolist()) == (torch.float32, [0.25, -0.5])


def test_labels_stay_with_their_images() -> None:
    batch = numbered(20).batch(np.array([7, 3, 11])).to(CPU)
    assert batch.label is not None
    back = ((batch.real + 1) * 127.5).round()[:, 0, 0, 0]
    assert back.tolist() == batch.label.tolist() == [7, 3, 11]


def test_a_set_without_labels_gives_none() -> None:
    images = Images(np.zeros((2, 1, 2, 2), np.uint8), DataSource(name="a", fingerprint="0"))
    assert images.batch(np.arange(2)).label is None


def test_moving_a_batch_moves_all_of_it() -> None:
    batch = Batch(*(torch.zeros(1) for _ in range(4)))
    moved = batch.to(torch.device("meta"))
    parts = (moved.real, moved.label, moved.source, moved.text)
    assert [part.device.type for part in parts if part is not None] == ["meta"] * 4


def test_what_is_there_already_is_not_copied() -> None:
    images = torch.zeros(1)
    assert Batch(images).to(CPU).real is images


def test_images_travel_as_bytes_and_become_floats_on_the_device() -> None:
    stored = numbered(2).batch(np.arange(2))
    moved = stored.to(torch.device("meta"))
    assert (stored.real.dtype, moved.real.dtype) == (torch.uint8, torch.float32)


def test_an_image_to_image_source_is_scaled_like_the_target() -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    batch = Batch(levels, source=levels).to(CPU)
    assert batch.source is not None
    assert torch.equal(batch.source, batch.real)


@pytest.mark.parametrize("part", ["pixels", "shape", "labels", "no labels"])
def test_a_fingerprint_changes_with(part: str) -> None:
    pixels, labels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([0, 1])
    changed = {
        "pixels": (pixels + np.uint8(1), labels),
        "shape": (pixels.reshape(2, 2, 1, 2), labels),
        "labels": (pixels, labels[::-1]),
        "no labels": (pixels, None),
    }[part]
    assert fingerprint(*changed) != fingerprint(pixels, labels)


def test_a_fingerprint_does_not_depend_on_memory_layout() -> None:
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    assert fingerprint(np.asfortranarray(pixels), None) == fingerprint(pixels, None)


def test_an_unknown_dataset_lists_those_there_are(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match=r"no dataset is called 'digit' .*'digits'.*available: "):
        open_data("digit", None, plugins)


def test_what_follows_the_colon_reaches_the_dataset(plugins: Plugins) -> None:
    with pytest.raises(DataError, match="dataset 'digits' takes no argument, not 'x:y'"):
        open_data("digits:x:y", None, plugins)
