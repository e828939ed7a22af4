"""Generates the protobuf modules of this package from their .proto file.

    python -m gan_serving.grpc_api.generate

Needs the version of grpcio-tools that the ``dev`` extra names: generated code runs with its own
version of protobuf and with newer ones, so it is made with the oldest that is to be supported.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["GENERATED", "generate"]

PACKAGE = Path(__file__).parent
PROTO = PACKAGE.parent / "proto"
SOURCE = Path("ganforge/v1/image_service.proto")
GENERATED = ("image_service_pb2.py", "image_service_pb2.pyi", "image_service_pb2_grpc.py")


def generate(folder: Path) -> None:
    """Write the modules into a folder.

    Raises:
        CalledProcessError: protoc refuses the .proto file, or grpcio-tools isn't installed.
    """
    with tempfile.TemporaryDirectory() as made:
        outputs = [f"--{kind}_out={made}" for kind in ("python", "pyi", "grpc_python")]
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outputs, str(SOURCE)]
        subprocess.run(protoc, check=True, cwd=PROTO)
        for name in GENERATED:
            text = (Path(made) / SOURCE.parent / name).read_text()
            # the .proto file's name is the same for every language, and isn't this package's
            (folder / name).write_text(text.replace("from ganforge.v1 import", "from . import"))


if __name__ == "__main__":
    generate(PACKAGE)
