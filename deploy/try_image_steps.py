"""The gateway image's steps without a container engine: build, install, serve, probe, stop.

Does what the Dockerfile says, with a folder in place of the image: its RUN lines in a copy of the
build context, then its ENTRYPOINT and CMD with its ENV and nothing else. The Python that runs this
stands in for the base image's, so it should be of the same version. As root, the server runs as
the image's user, with a file of keys as Kubernetes mounts it (root's, 0440, lent to the group);
that user must be able to read this Python and the repository.

    python3.12 deploy/try_image_steps.py --repository demo/model_repository
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCALLY = ("--host=127.0.0.1", "--admin-host=127.0.0.1")
FREE_PORTS = ("--http-port=0", "--grpc-port=0", "--admin-port=0")
PROBE_S = 10


@dataclass(frozen=True)
class Image:
    """A folder that stands in for the image's file system."""

    root: Path

    @property
    def path(self) -> str:
        """PATH: the image's own programs, then those of its base."""
        return f"{self.root}/opt/ganforge/bin:{self.root}/base/bin:/usr/bin:/bin"

    def inside(self, text: str) -> str:
        """The Dockerfile's paths, in the folder."""
        return text.replace("/opt/ganforge", f"{self.root}/opt/ganforge")


def instructions(stage: str) -> list[tuple[str, str]]:
    """Each instruction of a stage: its name, and what follows it."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (body,) = re.findall(rf"^FROM .* AS {stage}\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    lines = (line.partition(" ") for line in body.splitlines() if not line.startswith("#"))
    return [(name, rest.strip()) for name, _, rest in lines if name]


def copy_context(target: Path) -> None:
    """What .dockerignore lets into the build."""
    names = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for source in (path for name in names for path in ROOT.glob(name)):
        place = target / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, place)


def build(image: Image) -> None:
    """The build stage's RUN lines."""
    venv.create(image.root / "base", symlinks=True, with_pip=True)
    copy_context(image.root / "src")
    variables = {**os.environ, "PATH": f"{image.root}/base/bin:/usr/bin:/bin"}
    variables.pop("PYTHONPATH", None)
    for command in [rest for name, rest in instructions("build") if name == "RUN"]:
        began = time.monotonic()
        print("RUN", command)
        subprocess.run(
            ["/bin/sh", "-ec", image.inside(command)],
            cwd=image.root / "src",
            env=variables,
            check=True,
        )
        print(f"    {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def serving(image: Image, repository: Path, keys: Path) -> Iterator[subprocess.Popen[str]]:
    """The image's command, as its user where this runs as root."""
    told = dict(instructions("gateway"))
    user = int(told["USER"].partition(":")[0]) if os.geteuid() == 0 else None
    command = [*json.loads(told["ENTRYPOINT"]), *json.loads(told["CMD"])]
    command[0] = f"{image.root}/opt/ganforge/bin/{command[0]}"
    places = {"/models": repository.resolve(), "/run/secrets/ganforge": keys.parent}
    for place, path in places.items():
        command = [word.replace(f"={place}", f"={path}") for word in command]
    variables = dict(word.split("=", 1) for word in shlex.split(told["ENV"]))
    print("CMD", *command)
    process = subprocess.Popen(
        [*command, *LOCALLY, *FREE_PORTS],
        env=variables | {"PATH": image.path},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answer(url: str, key: str = "", body: object = None) -> tuple[int, bytes]:
    """Status and body."""
    headers = {"Accept": "image/png", "Content-Type": "application/json"} if body else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, headers)  # noqa: S310  loopback
    try:
        with urllib.request.urlopen(request, timeout=PROBE_S) as found:  # noqa: S310  loopback
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(what: str, found: object, wanted: object) -> None:
    """Say how it went, and stop where it went wrong."""
    print(f"{what}: {found}")
    if found != wanted:
        raise SystemExit(f"{what}: {found!r}, expected {wanted!r}")


def probe(process: subprocess.Popen[str], key: str, began: float) -> None:
    """Ask the running server, then stop it as an orchestrator does."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"the server ended at once, with exit code {process.wait()}")
    print(f"{line.rstrip()}  after {time.monotonic() - began:.1f} s")
    url, admin = re.findall(r"https?://\S+", line)
    expect("GET /livez", answer(f"{url}/livez")[0], 200)
    expect("GET /readyz", answer(f"{url}/readyz")[0], 200)
    expect("GET /v1/models without a key", answer(f"{url}/v1/models")[0], 401)
    model = json.loads(answer(f"{url}/v1/models", key)[1])["data"][0]["id"]
    status, picture = answer(f"{url}/v1/images/generations", key, {"model": model, "seed": 7})
    expect(f"a picture of {model}", (status, picture[:4]), (200, b"\x89PNG"))
    metrics = answer(f"{admin}/metrics")[1]
    expect("GET /metrics counts it", b"ganforge_requests_total{" in metrics, wanted=True)
    (health,) = [rest for name, rest in instructions("gateway") if name == "HEALTHCHECK"]
    check: list[str] = json.loads(health[health.index("[") :])
    check[-1] = check[-1].replace("http://127.0.0.1:8080", url)
    expect("HEALTHCHECK", subprocess.run([sys.executable, *check[1:]], check=False).returncode, 0)
    stop(process, url)


def stop(process: subprocess.Popen[str], url: str) -> None:
    """SIGTERM: the probe says no first, then the server ends by itself."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    while (status := answer(f"{url}/readyz")[0]) == 200 and time.monotonic() - began < PROBE_S:
        time.sleep(0.05)
    expect("GET /readyz after SIGTERM", status, 503)
    expect("GET /livez after SIGTERM", answer(f"{url}/livez")[0], 200)
    expect("exit code", process.wait(60), 0)
    print(f"stopped after {time.monotonic() - began:.1f} s")


def make_key(image: Image, path: Path) -> str:
    """A key, in a file as a Kubernetes secret is mounted where that can be."""
    path.parent.mkdir()
    program = f"{image.root}/opt/ganforge/bin/ganforge"
    command = [program, "keys", "new", "probe", "--file", str(path)]
    made = subprocess.run(command, env={}, cwd="/", stdout=subprocess.PIPE, text=True, check=True)
    if os.geteuid() == 0:
        os.chown(path, 0, int(dict(instructions("gateway"))["USER"].partition(":")[2]))
        path.chmod(0o440)
    return made.stdout.strip()


def main() -> None:
    """Build, serve, probe, stop."""
    parser = argparse.ArgumentParser(description="The gateway image's steps, without a container.")
    parser.add_argument("--repository", type=Path, required=True, help="with a published model")
    repository = parser.parse_args().repository
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        image = Image(Path(folder))
        image.root.chmod(0o755)
        build(image)
        venv_size = sum(path.lstat().st_size for path in (image.root / "opt/ganforge").rglob("*"))
        print(f"/opt/ganforge: {venv_size / 1e6:.0f} MB")
        keys = image.root / "keys" / "keys.yaml"
        key, began = make_key(image, keys), time.monotonic()
        with serving(image, repository, keys) as process:
            probe(process, key, began)


if __name__ == "__main__":
    main()
