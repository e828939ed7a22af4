"""The built-in feature extractors: Inception, a small classifier of digits, any ONNX file, pixels.

What a name takes after a colon is a path: ``inception:PATH``, ``onnx:PATH``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from .assets import path_of, sha256_of
from .datasets import cache_dir, digits
from .errors import ConfigError
from .evaluation import Extractor, FeatureExtractor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .data import Images

__all__ = ["EXTRACTORS", "DigitsClassifier", "digits_classifier", "train_digits_classifier"]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""The first digits, as published in the file's name."""
FEATURES = 64
TRAINING_STEPS = 300
RECIPE = "3"
"""Goes into the cached file's name: change it with anything that changes the weights."""


class DigitsClassifier(nn.Module):
    """Images [N, 1, 32, 32] in [-1, 1] -> (features [N, 64], logits [N, 10])."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, FEATURES, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(FEATURES * 4, FEATURES),
            nn.LayerNorm(FEATURES),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and class logits."""
        features = self.body(images)
        return features, self.head(features)


def digits_classifier() -> DigitsClassifier:
    """The classifier of the embedded digits: trained once with a fixed seed, then cached."""
    with torch.random.fork_rng(devices=[]):
        network = DigitsClassifier().eval()
    path = _weights()
    if not path.exists():
        _train(path)
    network.load_state_dict(load_file(path))
    return network


def _weights() -> Path:
    return cache_dir() / "extractors" / f"digits-classifier-{RECIPE}.safetensors"


def train_digits_classifier(images: Images) -> DigitsClassifier:
    """A classifier trained on labelled digits of 32 px, the same every time."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = DigitsClassifier().train()
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        source = images.batches(128, seed=0)
        for _ in range(TRAINING_STEPS):
            batch = next(source).to(torch.device("cpu"))
            _, logits = network(batch.real)
            optimizer.zero_grad()
            cross_entropy(logits, cast("Tensor", batch.label)).backward()
            optimizer.step()
    return network.eval()


def _train(path: Path) -> None:
    network = train_digits_classifier(digits())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(network.state_dict(), temporary)
    temporary.replace(path)


def _load_digits_classifier(argument: str) -> Extractor:
    _no_argument("digits-classifier", argument)
    network = digits_classifier()

    @torch.no_grad()
    def extract(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        images = _to_side(_scaled(pixels).mean(1, keepdim=True), 32)
        features, logits = network(images)
        return features.double().numpy(), logits.double().numpy()

    identity = f"digits-classifier {sha256_of(_weights())[:12]}"
    return Extractor(identity, "bilinear, antialiased", extract)


def _load_pixels(argument: str) -> Extractor:
    _no_argument("pixels", argument)

    def extract(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], None]:
        images = (_scaled(pixels) + 1) / 2
        return _to_side(images, 8).flatten(1).double().numpy(), None

    return Extractor("pixels 8x8", "bilinear, antialiased", extract)


def _load_inception(argument: str) -> Extractor:
    """The network of the published FIDs and Inception Scores, as torch-fidelity ported it.

    Raises:
        ConfigError: there are no weights, or they are others.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3,
    )

    path = _inception_weights(argument)
    try:
        torch.load(path, weights_only=True)  # what this refuses isn't given to its own unpickler
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path} holds more than weights: {str(error)[:80]}") from error
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))

    @torch.no_grad()
    def extract(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        features, logits = network(images.expand(-1, 3, -1, -1))
        return features.double().numpy(), logits.double().numpy()

    identity = f"inception-2015-12-05 {sha256_of(path)[:12]}"
    return Extractor(identity, "bilinear, TF 1", extract, takes_floats=False)


def _inception_weights(argument: str) -> Path:
    """The weights' file, downloaded if none is named, with the right hash."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(argument).expanduser() if argument else _downloaded(URL_INCEPTION_V3)
    if not path.is_file():
        raise ConfigError(f"{path} is no file: inception:PATH names {INCEPTION_FILE}")
    digest = sha256_of(path)
    # its loader unpickles: nothing else may come that far
    if not digest.startswith(INCEPTION_SHA256):
        raise ConfigError(
            f"{path} is not {INCEPTION_FILE}: its sha256 is {digest[:8]}…, not {INCEPTION_SHA256}…"
        )
    return path


def _downloaded(url: str) -> Path:
    path = cache_dir() / "extractors" / INCEPTION_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_SHA256)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"can't download {url}: {error}; bring {INCEPTION_FILE} (sha256 "
                f"{INCEPTION_SHA256}…) here by other means, and name it: inception:PATH"
            ) from error
    return path


def _load_onnx(argument: str) -> Extractor:
    """Any network that takes images as floats, NCHW or NHWC; its first output are the features.

    A second output of shape [N, K] is taken for logits. Images are resized to a fixed side of
    the input and scaled to [-1, 1].

    Raises:
        ConfigError: there is no such file, or it doesn't take images.
    """
    import onnxruntime

    path = Path(argument).expanduser()
    if not argument or not path.is_file():
        raise ConfigError(f"{argument!r} is no file: write onnx:PATH")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises what it likes
        raise ConfigError(f"{path} can't be run: {str(error).splitlines()[0]}") from error
    taken = session.get_inputs()
    if len(taken) != 1 or not _takes_images(taken[0].type, taken[0].shape):
        signature = ", ".join(f"{item.name} {item.type} {item.shape}" for item in taken)
        raise ConfigError(
            f"{path} doesn't take square float images of 1 or 3 channels, [N, C, H, W] or "
            f"[N, H, W, C]: {signature}"
        )
    batch, *shape = taken[0].shape
    last = shape[2] in (1, 3)  # channels
    side, channels = (shape[0], shape[2]) if last else (shape[1], shape[0])

    def extract(
        pixels: NDArray[np.uint8],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        images = _scaled(pixels)
        if channels == 1:
            images = images.mean(1, keepdim=True)
        if isinstance(side, int):
            images = _to_side(images, side)
        images = images.expand(-1, channels if isinstance(channels, int) else -1, -1, -1)
        array = (images.permute(0, 2, 3, 1) if last else images).numpy()
        runs = [
            session.run(None, {taken[0].name: part})
            for part in _parts(array, batch if isinstance(batch, int) else len(array))
        ]
        outputs = [np.concatenate(found)[: len(array)] for found in zip(*runs, strict=True)]
        logits = outputs[1] if len(outputs) > 1 and outputs[1].ndim == 2 else None
        features = outputs[0].reshape(len(array), -1).astype(np.float64)
        return features, None if logits is None else logits.astype(np.float64)

    resize = "bilinear, antialiased" if isinstance(side, int) else "none"
    return Extractor(f"{path.name} {sha256_of(path)[:12]}", resize, extract)


def _takes_images(kind: str, shape: Sequence[int | str | None]) -> bool:
    """Whether an input of an ONNX file is a batch of images; what isn't fixed may be anything."""
    if kind != "tensor(float)" or len(shape) != 4:
        return False
    channels, *sides = (shape[3], *shape[1:3]) if shape[3] in (1, 3) else shape[1:]
    fixed = {side for side in sides if isinstance(side, int)}
    return (channels in (1, 3) or not isinstance(channels, int)) and len(fixed) <= 1


def _parts(array: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    """Batches of exactly ``size``, the last one filled up with its first image."""
    for start in range(0, len(array), size):
        part = array[start : start + size]
        filling = part[:1].repeat(size - len(part), axis=0)
        yield np.ascontiguousarray(np.concatenate([part, filling]))


def _load_vgg16(argument: str) -> Extractor:
    """The third and fourth block of a VGG16 trained with Caffe for ImageNet: 768 features.

    A place's activations are divided by their norm, as in LPIPS, and averaged over all places.

    Raises:
        ConfigError: its weights haven't been fetched.
    """
    import onnx
    import onnxruntime

    _no_argument("vgg16", argument)
    path = path_of("vgg16-caffe")
    model = onnx.load(path)
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    del model.graph.output[:]
    for name in (relus[6], relus[9]):  # conv3_3 and conv4_3
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    taken = model.graph.input[0].name
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    mean = np.array([103.939, 116.779, 123.68], np.float32)  # of BGR

    def extract(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], None]:
        images = _to_side(_scaled(pixels), side).expand(-1, 3, -1, -1)
        rgb = ((images + 1) * 127.5).permute(0, 2, 3, 1).numpy()
        found = session.run(None, {taken: np.ascontiguousarray(rgb[..., ::-1]) - mean})
        means = []
        for block in found:  # [N, C, h, w]
            maps = block.astype(np.float64)
            norms = np.sqrt(np.square(maps).sum(1, keepdims=True))
            means.append((maps / np.maximum(norms, 1e-10)).mean((2, 3)))
        return np.concatenate(means, 1), None

    return Extractor(f"vgg16-caffe {sha256_of(path)[:12]}", "bilinear, antialiased", extract)


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"feature extractor {name!r} takes no argument, not {argument!r}")


def _scaled(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [N, H, W, C] as float32 [N, C, H, W] in [-1, 1]."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1


def _to_side(images: Tensor, side_px: int) -> Tensor:
    if images.shape[-2:] == (side_px, side_px):
        return images
    return interpolate(images, size=(side_px, side_px), mode="bilinear", antialias=True)


EXTRACTORS = (
    FeatureExtractor(
        "inception", "InceptionV3 of 2015-12-05, as in published scores", _load_inception
    ),
    FeatureExtractor(
        "digits-classifier",
        "64 features of a small classifier trained on the embedded digits",
        _load_digits_classifier,
    ),
    FeatureExtractor("vgg16", "VGG16 for ImageNet: 'ganforge data fetch vgg16-caffe'", _load_vgg16),
    FeatureExtractor("onnx", "onnx:PATH, any network that takes float images", _load_onnx),
    FeatureExtractor("pixels", "the image itself at 8x8 px: coarse, for any data", _load_pixels),
)
