"""The .proto file: what is generated from it is up to date, documented and at peace with others."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

from gan_serving.grpc_api import generate as module
from gan_serving.grpc_api import image_service_pb2
from gan_serving.grpc_api.generate import GENERATED, PACKAGE, PROTO, SOURCE, generate


def made_with() -> str:
    """The version of grpcio-tools that made what is there."""
    text = (PACKAGE / "image_service_pb2_grpc.py").read_text()
    found = re.search(r"GRPC_GENERATED_VERSION = '(.*)'", text)
    assert found
    return found[1]


@pytest.mark.skipif(
    version("grpcio-tools") != made_with(), reason=f"needs grpcio-tools=={made_with()}"
)
def test_the_generated_modules_are_those_of_the_proto_file(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in GENERATED:
        assert (tmp_path / name).read_bytes() == (PACKAGE / name).read_bytes(), name


def test_generation_says_which_file_protoc_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SOURCE", Path("ganforge/v1/nothing.proto"))
    with pytest.raises(subprocess.CalledProcessError):
        generate(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_field_message_method_and_value_has_a_comment() -> None:
    lines = (PROTO / SOURCE).read_text().splitlines()
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("package")) :]
    defined = re.compile(r"\s*(message|enum|rpc|service)\b|\s*[\w .]+ = \d+;")
    bare = [
        line
        for before, line in pairwise(body)
        if defined.match(line) and not before.strip().startswith("//")
    ]
    assert bare == []


def test_a_field_that_is_unset_differs_from_its_zero() -> None:
    request = image_service_pb2.GenerateRequest(seed=0)
    assert request.HasField("seed")
    for name in ("version", "n", "label", "truncation", "latents", "size", "output_compression"):
        assert not request.HasField(name)


TOGETHER = """
import tritonclient.grpc
from tritonclient.grpc import model_config_pb2, service_pb2
from gan_serving.grpc_api import image_service_pb2
import onnx
message = image_service_pb2.GenerateRequest(model="m", n=2, latents=b"1234")
assert image_service_pb2.GenerateRequest.FromString(message.SerializeToString()) == message
config = model_config_pb2.ModelConfig(name="m")
assert model_config_pb2.ModelConfig.FromString(config.SerializeToString()) == config
"""


@pytest.mark.parametrize("turned", [False, True])
def test_the_messages_share_a_process_with_tritons(turned: bool) -> None:
    first, *rest = TOGETHER.strip().split("\n")
    imports, others = [first, *rest[:3]], rest[3:]
    program = "\n".join([*(reversed(imports) if turned else imports), *others])
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
