"""The commands that serving adds to ``ganforge``: publish, serve, generate, upscale and more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from gan_core.errors import ConfigError, ConnectionFailed

if TYPE_CHECKING:
    from gan_client import Client
    from gan_core.card import ModelCard

    from .tls import Tls

__all__ = ["DEFAULT_URL", "Url", "add_commands", "connected", "print_table", "say"]

console = Console()
say = partial(console.print, highlight=False, soft_wrap=True, markup=False)

WHOLE = 10_000
"""Columns of a table that no terminal shows: no cell is wrapped."""
SHOWN = 4
"""Scores of a model in the list."""
DEFAULT_URL = "http://127.0.0.1:8080"
Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
Url = Annotated[
    str, typer.Option(help="http://…, grpc://host:port, triton://host:port or local:PATH.")
]


class EngineName(StrEnum):
    """What runs the graphs."""

    TRITON = "triton"
    ORT = "ort"


class LogStyle(StrEnum):
    """What a line of the log looks like."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """What is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def add_commands(app: typer.Typer) -> None:
    """Add them."""
    from .augment_command import augment
    from .bench.command import bench
    from .key_commands import app as keys
    from .release_commands import canary, promote, rollback
    from .triton_commands import app as triton
    from .upscale_command import upscale

    for command, example in (
        (publish, "ganforge publish runs/first --model digits_dcgan"),
        (canary, "ganforge canary digits_dcgan --weight 0.1"),
        (promote, "ganforge promote digits_dcgan"),
        (rollback, "ganforge rollback digits_dcgan"),
        (serve, "ganforge serve --engine triton --http-port 8080"),
        (generate, "ganforge generate digits_dcgan -n 64 --seed 7 --out grid.png"),
        (augment, "ganforge augment digits_cgan --per-class 3=500 --seed 7 --out extra/"),
        (upscale, "ganforge upscale photos/ larger/ --model photos_x4"),
        (models, "ganforge models --json"),
        (bench, "ganforge bench digits_dcgan --concurrency 1,8,32"),
    ):
        app.command(epilog=f"Example: {example}")(command)
    app.add_typer(keys)
    app.add_typer(triton)


def publish(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a folder with an export.")],
    model: Annotated[str | None, typer.Option(help="Name to serve under: a-z, 0-9 and _.")] = None,
    repository: Repository = Path("model_repository"),
    triton: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Triton to load it into, gRPC.")
    ] = None,
    canary: Annotated[
        float | None, typer.Option(help="Share of the requests it gets, on trial; all by default.")
    ] = None,
) -> None:
    """Publish an exported generator as a new version; a running 'ganforge serve' picks it up."""
    from gan_core.card import NAMES, is_name

    from .release_commands import load_into
    from .repository import publish as publish_to

    if model is not None and not is_name(model):
        raise ConfigError(f"--model {model!r}: use {NAMES}")
    source = _export_of(run)
    published, path = publish_to(source, repository, model, canary)
    version = int(path.name)
    context.obj.notify(
        "ganforge_published", card=published.cards[version], version=version, path=path
    )
    trial = "" if canary is None else f", for {canary:.0%} of the requests"
    say(f"{path}: {published.name} version {version}{trial}")
    if triton:
        load_into(triton, published.name)
        say(f"loaded by Triton at {triton}")
    say(f"Next: ganforge serve --repository {repository}")


def _export_of(run: Path) -> Path:
    """The folder with model.onnx: a run's export, if it is of its newest checkpoint."""
    if (run / "card.json").exists() or not (run / "config.yaml").exists():
        return run
    export = run / "export"
    try:
        exported_kimg = float(json.loads((export / "card.json").read_text())["trained_kimg"])
    except OSError as error:
        raise ConfigError(f"{run} is not exported yet: ganforge export {run}") from error
    except (ValueError, KeyError, TypeError) as error:
        damaged = f"{export / 'card.json'} is damaged ({type(error).__name__}: {error})"
        raise ConfigError(f"{damaged}: write it anew with 'ganforge export {run}'") from error
    newest = max((path.name for path in run.glob("checkpoints/[0-9]*")), default="0")
    if exported_kimg != float(newest):
        raise ConfigError(
            f"{export} is of {exported_kimg:g} kimg, the newest checkpoint of {float(newest):g}: "
            f"'ganforge export {run}' again, or 'ganforge publish {export}' as it is"
        )
    return export


def serve(
    repository: Repository = Path("model_repository"),
    engine: Annotated[
        EngineName | None, typer.Option(help="triton where it is installed, else ort.")
    ] = None,
    triton: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Triton that runs already, gRPC.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free one.")] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="0 = any free one, -1 = no gRPC.")
    ] = 8081,
    admin_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="For metrics; 0 = any free one, -1 = none.")
    ] = -1,
    admin_host: Annotated[str, typer.Option(help="Address of the admin port.")] = "127.0.0.1",
    keys: Annotated[
        Path | None, typer.Option(help="File of 'ganforge keys'; without, anybody may ask.")
    ] = None,
    quota_storage: Annotated[
        str, typer.Option(metavar="URI", help="Where rates are counted; redis://… to share them.")
    ] = "memory://",
    jobs: Annotated[
        Path | None, typer.Option(help="SQLite file of jobs, to outlive a restart.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate, of both ports.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its PEM key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM of who signs clients' certificates (mTLS).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without keys.")
    ] = False,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="OTEL_EXPORTER_OTLP_ENDPOINT", help="Collector of traces."
        ),
    ] = None,
    max_n: Annotated[int, typer.Option(min=1, max=10_000, help="Images per request.")] = 64,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Whose web pages may ask; repeat, or '*' for any."),
    ] = None,
    max_image_mb: Annotated[
        int, typer.Option(min=1, max=1024, help="Largest picture that is taken, in MiB.")
    ] = 128,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Images that may wait for a model; more get 429.")
    ] = 512,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest a request may take.")] = 30.0,
    workers: Annotated[
        int, typer.Option(min=0, max=256, help="Gateway processes; 0 = by the cores.")
    ] = 0,
    drain_s: Annotated[
        float, typer.Option(min=0, help="After SIGTERM: probes say no this long, then it stops.")
    ] = 0.0,
    log_format: Annotated[LogStyle, typer.Option(help="One JSON object per line, or text.")] = (
        LogStyle.TEXT
    ),
    log_level: Annotated[LogLevel, typer.Option(help="'info' logs every request.")] = (
        LogLevel.WARNING
    ),
) -> None:
    """Serve a repository over HTTP and gRPC, until Ctrl-C or SIGTERM."""
    import os

    import uvloop

    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # what is started here never forks on
    from .logs import set_up_logs
    from .options import Listening, Options, check_origin
    from .server import serve as run_server
    from .sockets import is_loopback
    from .tracing import check_endpoint
    from .triton_engine import check_address
    from .workers import default_workers

    set_up_logs(log_format.value, log_level.value)
    chosen = engine or (EngineName.TRITON if triton or _has_triton() else EngineName.ORT)
    if triton and chosen is EngineName.ORT:
        raise ConfigError("--triton goes with --engine triton")
    if triton:
        check_address(triton)
    if otlp_endpoint is not None:
        check_endpoint(otlp_endpoint)
    for origin in cors_origin or ():
        check_origin(origin)
    options = Options(
        repository=repository,
        engine=chosen.value,
        triton=triton,
        host=host,
        http_port=http_port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        admin_port=None if admin_port < 0 else admin_port,
        admin_host=admin_host,
        keys=keys,
        quota_storage=quota_storage,
        jobs=jobs,
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        drain_s=drain_s,
        max_waiting=max_waiting,
        max_n=max_n,
        cors_origins=tuple(cors_origin or ()),
        max_image_mb=max_image_mb,
        timeout_s=timeout_s,
        workers=workers or default_workers(chosen.value),
        log_format=log_format.value,
        log_level=log_level.value,
        otlp_endpoint=otlp_endpoint,
    )
    if not is_loopback(host) and keys is None and not insecure:
        raise ConfigError(
            f"whoever reaches {host} could use this server: name a file of API keys with --keys "
            "('ganforge keys new NAME' makes one), or say --insecure"
        )
    note = "" if engine or triton or chosen is EngineName.TRITON else f" ({_why_no_triton()})"

    def started(at: Listening) -> None:
        admin = at.admin and f"admin {at.admin}"
        say("  ".join(filter(None, (at.http, at.grpc, admin, f"engine {chosen.value}{note}"))))

    uvloop.run(run_server(options, started))


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    from .tls import Tls

    if certificate and key:
        return Tls(certificate=certificate, key=key, client_ca=client_ca)
    if certificate or key or client_ca:
        raise ConfigError("TLS needs both --tls-cert and --tls-key")
    return None


def _has_triton() -> bool:
    from . import local_triton

    return local_triton.unsupported() is None and local_triton.installed(local_triton.home())


def _why_no_triton() -> str:
    from . import local_triton

    return local_triton.unsupported() or "no local Triton: 'ganforge triton install' brings it"


def generate(
    model: Annotated[str, typer.Argument(help="A published model; see 'ganforge models'.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Images.")] = 16,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first; random by default.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The newest by default.")] = None,
    label: Annotated[str | None, typer.Option(help="Class, by index or name.")] = None,
    truncation: Annotated[float | None, typer.Option(help="ψ; less is more typical.")] = None,
    out: Annotated[Path, typer.Option(help="A .png for a grid, or a folder for single files.")] = (
        Path("grid.png")
    ),
    url: Url = DEFAULT_URL,
) -> None:
    """Generate images and save them."""
    is_grid = out.suffix.lower() == ".png"
    if out == Path() or (not is_grid and out.suffix.lower() in Image.registered_extensions()):
        raise ConfigError(f"--out {out}: name a .png for a grid, or a folder for single images")
    chosen = int(label) if label is not None and label.isdecimal() else label
    with connected(url) as client:
        batch = client.images.generate(
            model=model, n=n, version=version, seed=seed, label=chosen, truncation=truncation
        )
    try:
        if is_grid:
            out.parent.mkdir(parents=True, exist_ok=True)
            batch.grid().save(out)
        else:
            batch.save(out)
    except OSError as error:
        raise ConfigError(f"can't write {out}: {error}") from error
    say(f"{out}: {n} images of {batch.model} version {batch.version}, seed {batch.seeds[0]}")


def models(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the models that a server, a Triton or a repository offers."""
    with connected(url) as client:
        cards = client.models.list()
    if as_json:
        typer.echo(json.dumps([card.model_dump(mode="json") for card in cards]))
        return
    table = Table("model", "variant", "data", "inputs", "image", "kimg", "scores")
    for card in cards:
        output = card.output
        table.add_row(
            card.model,
            card.variant,
            card.data.name,
            ", ".join(item.role for item in card.inputs),
            f"{output.width}×{output.height}×{output.channels}",
            f"{card.trained_kimg:g}",
            _headline(card),
        )
    print_table(table)


def print_table(table: Table) -> None:
    """A table on stdout: as wide as the terminal, and elsewhere as its cells."""
    Console(width=None if console.is_terminal else WHOLE).print(table)


def _headline(card: ModelCard) -> str:
    """A model's first scores: of what it makes by itself, from the most images."""
    untruncated = [score for score in card.metrics if score.provenance.truncation is None]
    best = {
        score.metric: score for score in sorted(untruncated, key=lambda s: s.provenance.samples)
    }
    shown = [f"{name} {score.value:.4g}" for name, score in best.items()]
    more = [f"and {len(shown) - SHOWN}: --json"] if len(shown) > SHOWN else []
    extractors = {score.provenance.extractor.split()[0] for score in best.values()}
    return "\n".join([*shown[:SHOWN], *more, *(f"({name})" for name in sorted(extractors))])


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client; a server that can't be reached is told with what would help."""
    from gan_client import Client

    try:
        with Client(url) as client:
            yield client
    except ConnectionFailed as error:
        raise ConfigError(
            f"{error}; start one with 'ganforge serve', or name another --url, such as local:PATH"
        ) from error
