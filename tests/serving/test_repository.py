"""Publishing: what is refused, what a version looks like, what a crash leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from gan_core.card import (
    NAMES,
    DataSource,
    ImageOutput,
    LabelInput,
    LatentInput,
    ModelCard,
    Provenance,
    Score,
    TruncationInput,
)
from gan_core.errors import ModelNotFound, PublishError, Unavailable
from gan_core.latents import draw
from gan_serving.ort_engine import OrtEngine
from gan_serving.published import MAX_BATCH_SIZE
from gan_serving.repository import model_names, publish, read
from tests.serving.graphs import (
    DOUBLED_INPUTS,
    DOUBLED_OUTPUT,
    LABELLED_INPUTS,
    WATERMARK_INPUTS,
    WATERMARK_OUTPUT,
    blank,
    card_of,
    doubling,
    watermark,
    watermarked,
    write_export,
)

Snapshot = dict[str, bytes]


def snapshot(folder: Path) -> Snapshot:
    """Every file by its path, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def config_of(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export", "marked")


@pytest.fixture
def published(tmp_path: Path, source: Path) -> Path:
    """A repository with one version of ``marked``."""
    publish(source, tmp_path / "repository")
    return tmp_path / "repository"


texts = st.text(max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.sampled_from(["z", "label", "truncation", "noise", "a_b"])
scores = st.builds(
    Score,
    metric=texts,
    value=finite,
    provenance=st.builds(
        Provenance,
        extractor=texts,
        resize=texts,
        reference=texts,
        samples=st.integers(0, 10**9),
        seed=st.integers(0, 2**64 - 1),
    ),
)
inputs = st.tuples(
    st.builds(
        LatentInput, dim=st.integers(1, 9), distribution=st.sampled_from(["normal", "uniform"])
    ),
    st.builds(LabelInput, classes=st.lists(texts, min_size=1, max_size=5).map(tuple)),
    st.builds(TruncationInput, default=st.floats(0, 1), cutoff_layers=st.none() | st.integers(1)),
).flatmap(lambda found: st.sampled_from([found[:1], found[:2], found, found[::2]]))
outputs = st.builds(
    ImageOutput,
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.sampled_from([1, 3, 4]),
    bit_depth=st.just(8),
)


@st.composite
def exports_of_any_card(draw: st.DrawFn) -> tuple[onnx.ModelProto, ModelCard]:
    made = draw(inputs), draw(outputs)
    graph = blank(*made)
    card = card_of(
        graph,
        draw(st.from_regex(r"[a-z0-9_]{1,64}", fullmatch=True)),
        *made,
        variant=draw(texts),
        trained_kimg=draw(finite),
        data=DataSource(name=draw(texts), fingerprint=draw(texts), licence=draw(texts)),
        metrics=tuple(draw(st.lists(scores, max_size=2))),
        created=draw(st.datetimes(timezones=st.just(UTC))),
    )
    return graph, card


@settings(derandomize=True, deadline=None, max_examples=30)
@given(exports_of_any_card())
def test_any_card_comes_back_from_the_repository_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, export: tuple[onnx.ModelProto, ModelCard]
) -> None:
    graph, card = export
    folder = tmp_path_factory.mktemp("any")
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    (folder / "card.json").write_text(card.model_dump_json())
    publish(folder, folder / "repository")
    assert read(folder / "repository", card.model).cards == {1: card}


def test_versions_count_from_one(source: Path, tmp_path: Path) -> None:
    found = [publish(source, tmp_path / "new")[0].version for _ in range(3)]
    assert found == [1, 2, 3]


def test_a_version_number_is_never_used_twice(source: Path, published: Path) -> None:
    (published / "marked" / "7").mkdir()  # as a crash between the two renames leaves it
    assert publish(source, published)[0].version == 8


def test_two_versions_stay_warm_with_their_own_cards(published: Path, tmp_path: Path) -> None:
    for kimg in (1.0, 2.0):
        publish(write_export(tmp_path / str(kimg), "marked", trained_kimg=kimg), published)
    cards = read(published, "marked").cards
    assert {version: card.trained_kimg for version, card in cards.items()} == {2: 1.0, 3: 2.0}


def test_an_old_version_stays_on_disk(source: Path, published: Path) -> None:
    for _ in range(2):
        publish(source, published)
    assert sorted(p.parent.name for p in published.glob("marked/*/model.onnx")) == ["1", "2", "3"]


def test_the_graph_is_published_byte_for_byte(source: Path, published: Path) -> None:
    graph = (published / "marked" / "1" / "model.onnx").read_bytes()
    assert graph == (source / "model.onnx").read_bytes()


def test_a_model_can_be_published_under_another_name(source: Path, tmp_path: Path) -> None:
    found, path = publish(source, tmp_path / "new", "other")
    assert (found.name, found.card.model, path.parent.name) == ("other", "other", "other")


def test_the_configuration_is_exactly_this(source: Path, published: Path) -> None:
    publish(source, published)
    config = config_of(published, "marked")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    for key in ("ganforge.card", "ganforge.card.1"):
        assert ModelCard.model_validate_json(parameters.pop(key)).model == "marked"
    assert parameters == {
        "cudnn_conv_algo_search": "1",
        "arena_extend_strategy": "1",
        "ganforge.release": '{"version":2,"previous":1}',
    }
    config.ClearField("parameters")
    wanted = model_config_pb2.ModelConfig()
    text_format.Parse(
        """
        name: "marked"
        backend: "onnxruntime"
        max_batch_size: 32
        input { name: "z" data_type: TYPE_FP32 dims: 4 }
        input { name: "label" data_type: TYPE_INT64 dims: 1 }
        input { name: "truncation" data_type: TYPE_FP32 dims: 1 }
        output { name: "image" data_type: TYPE_UINT8 dims: [ 4, 6, 3 ] }
        version_policy { specific { versions: [ 1, 2 ] } }
        instance_group { count: 2 kind: KIND_AUTO }
        dynamic_batching { default_queue_policy {
            timeout_action: REJECT default_timeout_microseconds: 10000000
            allow_timeout_override: true max_queue_size: 256 } }
        """
        + "".join(
            f"""
            model_warmup {{ name: "batch_{n}" batch_size: {n}
                inputs {{ key: "z" value {{ data_type: TYPE_FP32 dims: 4 zero_data: true }} }}
                inputs {{ key: "label" value {{ data_type: TYPE_INT64 dims: 1 zero_data: true }} }}
                inputs {{
                    key: "truncation" value {{ data_type: TYPE_FP32 dims: 1 zero_data: true }}
                }}
            }}"""
            for n in (1, 32)
        ),
        wanted,
    )
    assert config == wanted


def change_a_byte(folder: Path) -> Path:
    graph = bytearray((folder / "model.onnx").read_bytes())
    graph[-1] ^= 1
    (folder / "model.onnx").write_bytes(bytes(graph))
    return folder


def replace_graph(folder: Path, content: bytes) -> Path:
    """Another file under a card that knows its sha256."""
    card = ModelCard.model_validate_json((folder / "card.json").read_text())
    card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    (folder / "model.onnx").write_bytes(content)
    (folder / "card.json").write_text(card.model_dump_json())
    return folder


def remove(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def without_an_edge() -> bytes:
    """The graph with a node that reads what nobody gives."""
    graph = watermark()
    graph.graph.node[0].input[0] = "nobody"
    return graph.SerializeToString()


NARROW = ImageOutput(height=4, width=5, channels=3)
FIVE = LatentInput(dim=5, distribution="uniform")
TWO_CLASSES = LabelInput(classes=("a", "b"))
TALL = ImageOutput(height=5, width=6, channels=3)
refusals: dict[str, tuple[Callable[[Path], Path], str]] = {
    "changed graph": (
        lambda folder: change_a_byte(write_export(folder, "marked")),
        "has sha256 .* its card says .*: export again",
    ),
    "16 bits": (
        lambda folder: write_export(
            folder, "marked", output=WATERMARK_OUTPUT.model_copy(update={"bit_depth": 16})
        ),
        "generated images of 16 bits can't be served",
    ),
    "failed parity": (
        lambda folder: write_export(folder, "marked", parity_levels=2),
        "differs from torch by 2 levels; at most 1",
    ),
    "another z": (
        lambda folder: write_export(
            folder,
            "marked",
            blank((FIVE, *WATERMARK_INPUTS[1:]), WATERMARK_OUTPUT),
            (FIVE, *WATERMARK_INPUTS[1:]),
        ),
        r"has other inputs or output; publish under another --model.*z float32\[5\]",
    ),
    "other classes": (
        lambda folder: write_export(
            folder,
            "marked",
            inputs=(WATERMARK_INPUTS[0], TWO_CLASSES, WATERMARK_INPUTS[2]),
        ),
        "has other inputs or output",
    ),
    "another size": (
        lambda folder: write_export(folder, "marked", watermark(width=5), output=NARROW),
        r"has other inputs or output.*image uint8\[4, 5, 3\]",
    ),
    "not a graph": (
        lambda folder: replace_graph(write_export(folder, "marked"), b"no graph"),
        "the graph doesn't run: ",
    ),
    "an invalid graph": (
        lambda folder: replace_graph(write_export(folder, "marked"), without_an_edge()),
        "the graph doesn't run: .*nobody",
    ),
    "another width than the card's": (
        lambda folder: write_export(folder, "marked", watermark(width=5)),
        r"gives {'image': \[-1, 4, 5, 3\]}, the card says {'image': \[-1, 4, 6, 3\]}",
    ),
    "another type than the card's": (
        lambda folder: write_export(folder, "marked", watermark(dtype=TensorProto.FLOAT)),
        r"gives float32\(1, 4, 6, 3\), the card says uint8",
    ),
    "another name of the output": (
        lambda folder: write_export(folder, "marked", watermark(output="pixels")),
        "the graph gives {'pixels': .*}, the card says {'image': ",
    ),
    "other inputs than the card's": (
        lambda folder: write_export(folder, "marked", inputs=LABELLED_INPUTS),
        r"takes \['label', 'truncation', 'z'\], its card \['label', 'z'\]",
    ),
    "too new an IR version": (
        lambda folder: write_export(folder, "marked", watermark(ir_version=10)),
        "has IR version 10 and opset 18; Triton's containers read up to 9 and 20",
    ),
    "too new an opset": (
        lambda folder: write_export(folder, "marked", watermark(opset=21)),
        "has IR version 8 and opset 21",
    ),
    "no graph": (
        lambda folder: remove(write_export(folder, "marked"), "model.onnx"),
        "holds no exported generator",
    ),
    "no card": (
        lambda folder: remove(write_export(folder, "marked"), "card.json"),
        "holds no exported generator",
    ),
    "nothing at all": (lambda folder: folder, "holds no exported generator"),
}


@pytest.mark.parametrize(("make", "reason"), refusals.values(), ids=list(refusals))
def test_a_refusal_says_why_and_leaves_the_repository_as_it_was(
    published: Path, tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    before = snapshot(published)
    with pytest.raises(PublishError, match=reason):
        publish(make(tmp_path / "refused"), published)
    assert snapshot(published) == before


@pytest.mark.parametrize("name", ["Big", "a-b", "../up", "a/b", "", ".", "x" * 65, "ä", "a\n"])
def test_a_bad_name_is_refused(source: Path, published: Path, name: str) -> None:
    before = snapshot(published.parent)
    if name:
        with pytest.raises(PublishError, match=f"model: use {NAMES}"):
            publish(source, published, name)
        assert snapshot(published.parent) == before
    else:
        assert publish(source, published, name)[0].name == "marked"  # the card's own


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('name: "marked" backend: "python"', "lists no version and carries no 'ganforge.card'"),
        ("version_policy { specific { versions: [ 1 ] } }", "unreadable config.pbtxt"),
        ("{{{", "unreadable config.pbtxt"),
    ],
)
def test_somebody_elses_model_is_left_alone(
    source: Path, tmp_path: Path, config: str, reason: str
) -> None:
    path = tmp_path / "theirs" / "marked" / "config.pbtxt"
    path.parent.mkdir(parents=True)
    path.write_text(config)
    with pytest.raises(PublishError, match=reason):
        publish(source, tmp_path / "theirs")
    assert path.read_text() == config
    assert [p.name for p in path.parent.iterdir()] == ["config.pbtxt"]


def test_a_repository_that_cannot_be_written_is_named(source: Path) -> None:
    with pytest.raises(PublishError, match="can't write to /proc/self/repository"):
        publish(source, Path("/proc/self/repository"))  # nobody may, not even root


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_repository_stays_as_it_was(source: Path, published: Path) -> None:
    before = snapshot(published)
    published.chmod(0o555)
    with pytest.raises(PublishError, match="can't write to"):
        publish(source, published)
    assert snapshot(published) == before


def test_publishers_at_the_same_time_get_different_versions(source: Path, published: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: publish(source, published)[0].version, range(4))
    assert sorted(found) == [2, 3, 4, 5]
    assert sorted(read(published, "marked").cards) == [4, 5]


# Publishes again and again from one base, each time killed one step later, until it ends.
KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
import onnx, onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from gan_serving.repository import publish
base, source, work = map(Path, sys.argv[1:])
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.truncate"}

def kill_at(step, repository):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        changes = event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITES)
        if changes and (seen or str(repository) in str(arguments[0])):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for step in range(1, 100):
    repository = work / str(step)
    if base.exists():
        shutil.copytree(base, repository)
    child = os.fork()
    if not child:
        kill_at(step, repository)
        publish(source, repository)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(step - 1)
        break
"""


def killed_at_every_step(base: Path, source: Path, work: Path) -> list[Path]:
    """A repository for every step of a publication, as SIGKILL before that step leaves it."""
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, *map(str, (base, source, work))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    steps = int(done.stdout)
    assert steps > 5, "the audit hook saw no publication"
    return [work / str(step) for step in range(1, steps + 1)]


def served(repository: Path) -> dict[int, float]:
    """The trained_kimg of every version that serves, each proven by its picture."""

    async def ask() -> dict[int, float]:
        engine = OrtEngine(repository, cores=1)
        published = await engine.published("marked")
        for version, card in published.cards.items():
            graph = (repository / "marked" / str(version) / "model.onnx").read_bytes()
            assert hashlib.sha256(graph).hexdigest() == card.sha256
            answer = await engine.infer("marked", draw(card.inputs, [3]), version, 10)
            np.testing.assert_array_equal(answer.image, watermarked([3]))
        await engine.close()
        return {version: card.trained_kimg for version, card in published.cards.items()}

    there = repository.exists() and "marked" in model_names(repository)
    return asyncio.run(ask()) if there else {}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """What publishing a second version leaves when killed at each step; and that version."""
    folder = tmp_path_factory.mktemp("killed")
    publish(write_export(folder / "older", "marked"), folder / "base")
    newer = write_export(folder / "newer", "marked", trained_kimg=5)
    return killed_at_every_step(folder / "base", newer, folder / "work"), newer


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(
    killed: tuple[list[Path], Path],
) -> None:
    left = [served(one) for one in killed[0]]
    old, new = {1: 0.0}, {1: 0.0, 2: 5.0}
    assert {len(state) for state in left} == {1, 2}
    assert all(state in (old, new) for state in left)


def test_a_kill_at_any_step_of_the_first_publication_leaves_nothing_or_the_model(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    steps = killed_at_every_step(tmp_path / "nothing", source, tmp_path / "work")
    assert {tuple(served(one)) for one in steps} == {(), (1,)}


def test_the_next_publication_clears_up_after_a_killed_one(
    killed: tuple[list[Path], Path], tmp_path: Path
) -> None:
    steps, newer = killed
    littered = next(one for one in steps if list(one.glob(".publish-*/**/model.onnx")))
    shutil.copytree(littered, tmp_path / "copy")
    publish(newer, tmp_path / "copy")
    assert list((tmp_path / "copy").glob(".publish-*")) == []


def test_names_are_those_of_models_alone(published: Path) -> None:
    for name in (".publish-x", "Other", "empty"):
        (published / name).mkdir()
    (published / "Other" / "config.pbtxt").touch()
    assert model_names(published) == ["marked"]


def test_an_unknown_model_is_answered_with_those_there_are(published: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model is called 'other'; published: marked"):
        read(published, "other")


@pytest.mark.parametrize("name", ["../repository/marked", "a\0b", "\ud800", "x" * 5000, "", "/etc"])
def test_no_name_leaves_the_repository(published: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        read(published, name)


def test_an_unreadable_configuration_is_unavailable(published: Path) -> None:
    (published / "marked" / "config.pbtxt").write_text("{{{")
    with pytest.raises(Unavailable, match=r"unreadable config\.pbtxt"):
        read(published, "marked")


def test_max_batch_size_is_what_the_configuration_says(published: Path) -> None:
    assert config_of(published, "marked").max_batch_size == MAX_BATCH_SIZE


def test_a_model_of_pictures_has_no_fixed_sides(exports: Path, tmp_path: Path) -> None:
    publish(exports / "doubling", tmp_path)
    config = config_of(tmp_path, "doubling")
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([-1, -1, 3], [-1, -1, 3])


def test_a_picture_of_another_size_than_the_card_says_is_refused(
    exports: Path, tmp_path: Path
) -> None:
    thrice = DOUBLED_OUTPUT.model_copy(update={"scale": 3})
    write_export(tmp_path / "export", "thrice", doubling(), DOUBLED_INPUTS, thrice)
    with pytest.raises(PublishError, match=r"gives uint8\(1, 32, 32, 3\), the card says uint8\(1"):
        publish(tmp_path / "export", tmp_path / "repository")
