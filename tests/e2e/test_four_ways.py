"""One seed, one picture: in process, on Triton directly, through either gateway, and in torch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gan_client import AsyncClient, Client
from gan_core.card import DataSource
from gan_core.data import Images
from gan_core.errors import ModelNotFound
from gan_core.evaluation import compare, score
from gan_core.latents import draw, latents, seed_range
from gan_core.plugins import Plugins
from gan_core.sources import of_graph
from gan_serving.vips import opened, png
from tests.serving.gan import contrasted, contrasted_classes
from tests.serving.graphs import doubled, watermarked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.serving.processes import Serving

WAYS = [
    *("local", "triton", "http over triton", "http over ort"),
    *("grpc over triton", "grpc over ort"),
]
SEED = 2**63 + 5


def url_of(way: str, request: pytest.FixtureRequest) -> str:
    if way == "local":
        return f"local:{request.getfixturevalue('repository')}"
    over = "over_ort" if way.endswith("ort") else "over_triton"
    serving: Serving = request.getfixturevalue(over)
    if way != "triton":
        return serving.url if way.startswith("http") else serving.grpc
    port = re.search(r"--grpc-port=(\d+)", " ".join(serving.triton().cmdline()))
    assert port
    return f"triton://127.0.0.1:{port[1]}"


@pytest.fixture(scope="module", params=WAYS)
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def in_torch() -> NDArray[Any]:
    """Five pictures of the very generator that was exported, without ONNX."""
    served = contrasted()
    inputs = draw(served.inputs, seed_range(SEED, 5))
    with torch.no_grad():
        return np.asarray(served(*map(torch.from_numpy, inputs.values())))


def test_the_pixels_are_torchs(client: Client, in_torch: NDArray[Any]) -> None:
    batch = client.images.generate(model="tiny_dcgan", n=5, seed=SEED)
    assert np.abs(batch.numpy().astype(int) - in_torch).max() <= 1


def test_the_pictures_differ_from_each_other(in_torch: NDArray[Any]) -> None:
    differences = [np.abs(in_torch[0].astype(int) - other).max() for other in in_torch[1:]]
    assert min(differences) > 50  # else agreement to one level would say nothing


def test_four_at_once_are_four_times_one(client: Client) -> None:
    four = client.images.generate(model="tiny_dcgan", n=4, seed=SEED).numpy()
    ones = [client.images.generate(model="tiny_dcgan", seed=SEED + i).numpy() for i in range(4)]
    assert np.abs(four.astype(int) - np.concatenate(ones)).max() <= 1


def test_the_seeds_come_back(client: Client) -> None:
    batch = client.images.generate(model="marked", n=3, seed=2**64 - 2)
    assert batch.seeds == [2**64 - 2, 2**64 - 1, 0]


def test_a_seed_that_was_drawn_makes_its_picture_again(client: Client) -> None:
    first = client.images.generate(model="tiny_dcgan", n=2)[1]
    again = client.images.generate(model="tiny_dcgan", seed=first.seed)
    assert np.abs(again[0].numpy().astype(int) - first.numpy()).max() <= 1


def test_labels_and_truncation_reach_the_graph(client: Client) -> None:
    batch = client.images.generate(model="marked", labels=[3, "nine"], truncation=0.5, seed=1)
    np.testing.assert_array_equal(batch.numpy(), watermarked([1, 2], [3, 9], 0.5))


def test_classes_and_truncated_latents_are_torchs(client: Client) -> None:
    served, seeds, labels = contrasted_classes(), seed_range(SEED, 5), [0, 1, 2, 0, 1]
    z = latents(served.inputs[0], seeds, 0.5)  # type: ignore[arg-type] # the first is the latent
    with torch.no_grad():
        expected = served(torch.from_numpy(z), torch.tensor(labels)[:, None]).numpy().astype(int)
    batch = client.images.generate(model="tiny_biggan", labels=labels, truncation=0.5, seed=SEED)
    assert np.abs(batch.numpy() - expected).max() <= 1
    assert np.abs(expected[0] - expected[1]).max() > 50  # else it would say nothing


def test_a_class_is_asked_for_by_its_name_or_number(client: Client) -> None:
    asked = [client.images.generate(model="tiny_biggan", label=label, seed=1) for label in (2, "c")]
    np.testing.assert_array_equal(asked[0].numpy(), asked[1].numpy())


def test_latents_reach_the_graph(client: Client) -> None:
    latents = np.array([[0, 0.5, -1, 1]] * 2, np.float32)
    batch = client.images.generate(model="marked", latents=latents, label=0)
    assert batch.seeds == [None, None]
    np.testing.assert_array_equal(batch.numpy()[0, :, 0, 0], [128, 191, 0, 255])


def test_more_than_a_batch_is_answered_in_order(client: Client) -> None:
    batch = client.images.generate(model="marked", n=64, seed=0)
    np.testing.assert_array_equal(batch.numpy(), watermarked(range(64)))


def test_a_score_is_the_same_whoever_serves(client: Client, url: str, repository: Path) -> None:
    card = client.models.retrieve("tiny_dcgan")
    side, channels = card.output.width or 0, card.output.channels
    noise = np.random.default_rng(0).integers(0, 256, (48, channels, side, side), dtype=np.uint8)
    references = Images(noise, DataSource(name="noise", fingerprint="four ways"))
    plugins = Plugins()
    extractor = plugins.feature_extractors["pixels"].load("")
    metrics = [plugins.metrics[name] for name in ("fid", "kid", "coverage")]
    graph = of_graph(repository / "tiny_dcgan" / "1" / "model.onnx", card)
    ours, theirs = (
        score(source, references, extractor, metrics, samples=40, seed=SEED)
        for source in (graph, plugins.model_source("tiny_dcgan", None, url))
    )
    for one, other in zip(ours, theirs, strict=True):
        # compare() refuses another provenance; a pixel may differ by a level
        assert abs(compare(one, other)) <= 1e-3 * max(1.0, abs(one.value)), one.metric


def test_the_same_models_are_listed(client: Client, repository: Path) -> None:
    with Client(f"local:{repository}") as local:
        assert client.models.list() == local.models.list()


def test_the_newest_version_answers_and_is_named(client: Client) -> None:
    assert client.images.generate(model="versioned").version == 2


def test_each_version_has_its_card(client: Client) -> None:
    first, newest = (client.models.retrieve("versioned", version) for version in (1, None))
    assert first.sha256 != newest.sha256
    assert client.models.retrieve("versioned", 2) == newest
    with pytest.raises(ModelNotFound, match="has no version 9"):
        client.models.retrieve("versioned", 9)


def test_the_async_client_gives_the_same(url: str, in_torch: NDArray[Any]) -> None:
    async def ask() -> list[NDArray[np.uint8]]:
        async with AsyncClient(url) as client:
            calls = (
                client.images.generate(model="tiny_dcgan", seed=SEED + i, n=1) for i in range(5)
            )
            return [batch.numpy() for batch in await asyncio.gather(*calls)]

    pictures = np.concatenate(asyncio.run(ask())).astype(int)
    assert np.abs(pictures - in_torch).max() <= 1


@pytest.mark.parametrize("size", [(5, 7), (300, 511)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_doubled_as_it_is(
    client: Client, size: tuple[int, int], dtype: type[np.unsignedinteger[Any]]
) -> None:
    most = np.iinfo(dtype).max
    picture = np.random.default_rng(0).integers(0, most, (*size, 3), dtype=dtype, endpoint=True)
    found = client.images.upscale(picture, model="doubling")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, doubled(picture))
    file = client.images.upscale(png(picture), model="doubling")
    np.testing.assert_array_equal(opened(file, "PNG").whole(), doubled(picture))
