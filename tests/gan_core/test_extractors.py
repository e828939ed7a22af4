"""Feature extractors: trained once, the same ever after, and able to tell digits apart."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gan_core.data import Images, open_data
from gan_core.datasets import cache_dir
from gan_core.errors import ConfigError
from gan_core.extractors import EXTRACTORS, INCEPTION_FILE, digits_classifier

if TYPE_CHECKING:
    from gan_core.evaluation import Extractor
    from gan_core.plugins import Plugins

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
LOAD = {extractor.name: extractor.load for extractor in EXTRACTORS}


def features(extractor: Extractor, pixels: NDArray[Any]) -> Array:
    found, _ = extractor.extract(pixels)
    return found


def noise(n: int, side_px: int, channels: int) -> Pixels:
    shape = (n, side_px, side_px, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def digits(plugins: Plugins) -> Images:
    return open_data("digits", 32, plugins)[1]


@pytest.fixture(scope="module")
def classifier() -> Extractor:
    return LOAD["digits-classifier"]("")


def test_the_classifier_knows_the_digits(digits: Images) -> None:
    batch = digits.batch(np.arange(len(digits))).to(torch.device("cpu"))
    with torch.no_grad():
        _, logits = digits_classifier()(batch.real)
    assert batch.label is not None
    assert (logits.argmax(1) == batch.label).float().mean() > 0.97


def test_its_features_are_one_row_per_image(classifier: Extractor, digits: Images) -> None:
    found, logits = classifier.extract(digits.pixels[:5].transpose(0, 2, 3, 1))
    assert logits is not None
    assert (found.shape, found.dtype.name, logits.shape) == ((5, 64), "float64", (5, 10))


def test_its_logits_are_of_the_digits(classifier: Extractor, digits: Images) -> None:
    _, logits = classifier.extract(digits.pixels[:200].transpose(0, 2, 3, 1))
    assert logits is not None
    assert digits.labels is not None
    assert (logits.argmax(1) == digits.labels[:200]).mean() > 0.97


def test_its_features_do_not_depend_on_the_batch(classifier: Extractor, digits: Images) -> None:
    pixels = digits.pixels[:5].transpose(0, 2, 3, 1)
    alone = np.concatenate([features(classifier, pixels[i : i + 1]) for i in range(5)])
    # convolutions of other batch sizes sum in another order
    np.testing.assert_allclose(features(classifier, pixels), alone, atol=1e-4)


def test_it_is_trained_once(classifier: Extractor) -> None:
    (path,) = (cache_dir() / "extractors").iterdir()
    written = path.stat().st_mtime_ns
    assert (LOAD["digits-classifier"]("").identity, path.stat().st_mtime_ns) == (
        classifier.identity,
        written,
    )


@pytest.mark.usefixtures("classifier")
def test_training_it_again_gives_the_same_weights(
    classifier: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    assert LOAD["digits-classifier"]("").identity == classifier.identity


def test_training_it_takes_no_random_number_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr("gan_core.extractors.TRAINING_STEPS", 1)
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    LOAD["digits-classifier"]("")
    assert torch.equal(torch.rand(1), expected)


def test_it_takes_colour_and_other_sizes(classifier: Extractor) -> None:
    assert features(classifier, np.zeros((2, 48, 48, 3), np.uint8)).shape == (2, 64)


def test_pixels_at_8_px_are_the_image_itself() -> None:
    pixels = noise(2, 8, 3)
    found, logits = LOAD["pixels"]("").extract(pixels)
    expected = pixels.transpose(0, 3, 1, 2).reshape(2, -1) / 255
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert logits is None


def test_pixels_of_other_sizes_are_averaged_down() -> None:
    pixels = np.full((1, 64, 64, 1), 51, np.uint8)
    np.testing.assert_allclose(features(LOAD["pixels"](""), pixels), 0.2, atol=1e-6)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda extractor: extractor.name)
def test_every_extractor_says_what_it_is(extractor: object) -> None:
    assert getattr(extractor, "summary", "")


@pytest.mark.parametrize("name", ["digits-classifier", "pixels"])
def test_an_argument_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' takes no argument, not 'x'"):
        LOAD[name]("x")


def test_a_classifier_knows_a_collapsed_generator(classifier: Extractor) -> None:
    from gan_core.evaluation import see
    from gan_core.metrics import kid

    one = noise(1, 32, 1)
    batches = iter([one.repeat(n, axis=0) for n in (64, 6)])  # which sum in different orders
    fake = see(classifier, batches)
    assert kid(fake, fake).caveats == ("all generated images are the same",)


# any ONNX file


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    outputs: dict[str, list[int | str]],
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> str:
    """An ONNX file that takes ``inputs`` tensors of a shape: images, images1, …"""
    taken = [helper.make_tensor_value_info(f"images{i or ''}", kind, shape) for i in range(inputs)]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(nodes, "toy", taken, given, [axes])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


def flattening(path: Path, shape: list[int | str], **options: Any) -> str:
    """Its features are its input."""
    nodes = [helper.make_node("Flatten", ["images"], ["features"])]
    return write(path, nodes, shape, {"features": [shape[0], "dim"]}, **options)


def averaging(path: Path, outputs: dict[str, list[int | str]]) -> str:
    """Its outputs are the mean of each channel: one [N, 3] and the others [N, 3, 1, 1]."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], [name], keepdims=int(len(shape) == 4))
        for name, shape in outputs.items()
    ]
    return write(path, nodes, ["n", 3, "h", "w"], outputs)


def scaled(pixels: Pixels) -> Array:
    return pixels / 127.5 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.onnx"


def test_an_onnx_file_gets_images_in_minus_one_to_one(path: Path) -> None:
    pixels = noise(2, 4, 3)
    found = features(LOAD["onnx"](flattening(path, ["n", 3, "h", "w"])), pixels)
    expected = scaled(pixels).transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_onnx_file_may_take_channels_last(path: Path) -> None:
    pixels = noise(2, 4, 3)
    found = features(LOAD["onnx"](flattening(path, ["n", "h", "w", 3])), pixels)
    np.testing.assert_allclose(found, scaled(pixels).reshape(2, -1), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_an_onnx_file_may_take_a_fixed_batch(path: Path, batch: int) -> None:
    pixels = noise(5, 4, 3)
    found = features(LOAD["onnx"](flattening(path, [batch, 4, 4, 3])), pixels)
    np.testing.assert_allclose(found, scaled(pixels).reshape(5, -1), atol=1e-6)


@pytest.mark.parametrize("shape", [["n", 3, 6, 6], ["n", 6, 6, 3]], ids=str)
def test_images_are_resized_to_a_fixed_side(path: Path, shape: list[int | str]) -> None:
    extractor = LOAD["onnx"](flattening(path, shape))
    found = features(extractor, np.full((2, 16, 16, 3), 51, np.uint8))
    assert (found.shape, extractor.resize) == ((2, 108), "bilinear, antialiased")
    np.testing.assert_allclose(found, 51 / 127.5 - 1, atol=1e-6)


def test_images_are_not_resized_where_any_side_is_taken(path: Path) -> None:
    extractor = LOAD["onnx"](flattening(path, ["n", 3, "h", "w"]))
    assert (features(extractor, noise(2, 9, 3)).shape, extractor.resize) == ((2, 243), "none")


def test_a_grey_input_gets_the_mean_of_the_colours(path: Path) -> None:
    pixels = noise(2, 4, 3)
    found = features(LOAD["onnx"](flattening(path, ["n", 1, "h", "w"])), pixels)
    np.testing.assert_allclose(found, scaled(pixels).mean(3).reshape(2, -1), atol=1e-6)


def test_a_colour_input_gets_grey_images_three_times(path: Path) -> None:
    pixels = noise(2, 4, 1)
    found = features(LOAD["onnx"](flattening(path, ["n", "h", "w", 3])), pixels)
    np.testing.assert_allclose(found, scaled(pixels).repeat(3, axis=3).reshape(2, -1), atol=1e-6)


def test_the_second_output_is_logits(path: Path) -> None:
    outputs: dict[str, list[int | str]] = {"features": ["n", 3, 1, 1], "logits": ["n", 3]}
    pixels = noise(4, 6, 3)
    found, logits = LOAD["onnx"](averaging(path, outputs)).extract(pixels)
    assert logits is not None
    assert (found.dtype.name, logits.dtype.name) == ("float64", "float64")
    np.testing.assert_allclose(logits, scaled(pixels).mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(found, logits)


def test_a_second_output_of_another_rank_is_no_logits(path: Path) -> None:
    outputs: dict[str, list[int | str]] = {"features": ["n", 3], "maps": ["n", 3, 1, 1]}
    assert LOAD["onnx"](averaging(path, outputs)).extract(noise(4, 6, 3))[1] is None


def test_an_onnx_file_is_known_by_its_name_and_hash(path: Path) -> None:
    flattening(path, ["n", 3, "h", "w"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert LOAD["onnx"](str(path)).identity == f"my.onnx {digest[:12]}"


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (["n", 3], {}),
        (["n", 3, 4, 4, 4], {}),
        (["n", 3, "h", "w"], {"kind": TensorProto.INT64}),
        (["n", 3, "h", "w"], {"kind": TensorProto.UINT8}),
        (["n", 3, "h", "w"], {"inputs": 2}),
        (["n", 4, "h", "w"], {}),
        (["n", 3, 4, 8], {}),
        (["n", 4, 8, 3], {}),
    ],
    ids=str,
)
def test_an_onnx_file_that_takes_no_images_is_refused(
    path: Path, shape: list[int | str], options: dict[str, Any]
) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["features"]),
    ]
    write(path, nodes, shape, {"features": ["n", "dim"]}, **options)
    with pytest.raises(ConfigError, match=r"my\.onnx doesn't take square float images .*: images"):
        LOAD["onnx"](str(path))


@pytest.mark.parametrize("argument", ["", "/no/such.onnx", "/tmp"])
def test_an_onnx_file_that_is_not_there_is_one_error(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"'{argument}' is no file: write onnx:PATH"):
        LOAD["onnx"](argument)


def test_what_is_not_onnx_is_one_error(path: Path) -> None:
    path.write_text("nothing of the kind")
    with pytest.raises(ConfigError, match=r"my\.onnx can't be run: ") as caught:
        LOAD["onnx"](str(path))
    assert "\n" not in str(caught.value)


# Inception, without its weights


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureExtractorInceptionV3]:
    """A file of random weights, and torch-fidelity's network with them."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(torch, "load", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], "none")
        for name, weights in network.named_parameters():
            if name.endswith("bn.bias"):  # else next to nothing would come through 90 layers
                weights.copy_(torch.rand(weights.shape))
    torch.save(network.state_dict(), path)
    return path, network


@pytest.fixture
def accepted(
    inception: tuple[Path, FeatureExtractorInceptionV3], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The file of random weights, taken for the published ones."""
    path, _ = inception
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("gan_core.extractors.INCEPTION_SHA256", digest)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_sees_what_torch_fidelitys_network_sees(
    inception: tuple[Path, FeatureExtractorInceptionV3], accepted: Path, channels: int
) -> None:
    pixels = noise(2, 32, channels)
    found, logits = LOAD["inception"](str(accepted)).extract(pixels)
    images = torch.from_numpy(pixels.repeat(3 // channels, axis=3)).permute(0, 3, 1, 2)
    expected = inception[1](images)
    assert logits is not None
    assert (found.shape, logits.shape) == ((2, 2048), (2, 1008))
    # the same operations, but for the memory format
    for ours, theirs in zip((found, logits), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-3


def test_inception_is_known_by_its_weights(accepted: Path) -> None:
    extractor = LOAD["inception"](str(accepted))
    digest = hashlib.sha256(accepted.read_bytes()).hexdigest()
    assert extractor.identity == f"inception-2015-12-05 {digest[:12]}"
    assert extractor.resize == "bilinear, TF 1"


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_of_another_hash_are_not_unpickled(tmp_path: Path) -> None:
    sprung, weights = tmp_path / "sprung", tmp_path / "weights.pth"
    weights.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(
        ConfigError, match=rf"weights\.pth is not {INCEPTION_FILE}: its sha256 is \w{{8}}…, not "
    ):
        LOAD["inception"](str(weights))
    assert not sprung.exists()
    pickle.loads(weights.read_bytes())
    assert sprung.exists()  # it would have been


def test_weights_that_are_not_there_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no is no file: inception:PATH names {INCEPTION_FILE}"):
        LOAD["inception"](str(tmp_path / "no"))


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_a_failed_download_names_the_file_and_its_hash(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConfigError, match=r"can't download https://.*: ") as caught:
        LOAD["inception"]("")
    for told in (INCEPTION_FILE, "sha256 6726825d", "inception:PATH", error.args[0]):
        assert told in str(caught.value)


def test_weights_are_downloaded_once(
    accepted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def download(url: str, destination: str, hash_prefix: str) -> None:
        asked.append(url.rsplit("/", 1)[1])
        Path(destination).symlink_to(accepted)

    monkeypatch.setenv("GANFORGE_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        LOAD["inception"]("")
    assert asked == [INCEPTION_FILE]
