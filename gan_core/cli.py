"""The ``ganforge`` command line. It is composed: plugins add commands through a hook.

Nothing heavy is imported before a command needs it, so ``ganforge --help`` is quick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from .commands import add_measuring
from .console import RunPath, console, errors, read_settings, say
from .errors import ConfigError, GanforgeError
from .plugins import Plugins

if TYPE_CHECKING:
    from .run import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="ganforge",
    help="Train GANs as plugins, export them to ONNX, serve them on Triton.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:  # noqa: FBT001 typer's signature
    if asked:
        from importlib.metadata import version

        typer.echo(f"ganforge {version('ganforge')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options come before the command."""


@app.command(epilog="Example: ganforge train dcgan --data digits --run runs/first --kimg 60")
def train(
    context: typer.Context,
    variant: Annotated[
        str | None, typer.Argument(help="A variant; see 'ganforge plugins'. Not with --resume.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, created.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, folder:PATH, mnist, …")] = None,
    kimg: Annotated[float | None, typer.Option(help="Budget in 10³ real images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, data order and noise.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, as 'ganforge config' prints.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; repeat.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an existing run.")] = False,
) -> None:
    """Train a variant, or go on with a run. Ctrl-C saves a checkpoint and stops."""
    settings = read_settings(config, set_ or [], {"kimg": kimg, "seed": seed})
    if run is None:
        raise typer.BadParameter("say where: --run runs/NAME")
    if resume:
        _resume(context.obj, run, variant, data, settings)
    elif variant is None or data is None:
        raise typer.BadParameter("say what: ganforge train VARIANT --data NAME --run runs/NAME")
    else:
        _start(context.obj, run, variant, data, settings)


def _start(plugins: Plugins, path: Path, variant: str, data: str, settings: dict[str, Any]) -> None:
    from .workflow import start_run

    _only_the_main_process_prints()
    run, images = start_run(path, plugins.variant(variant), data, settings, plugins)
    say(
        f"{run.variant.name} on {data}: {len(images):,} images of {images.resolution_px}×"
        f"{images.resolution_px}×{images.channels} px, {run.config.kimg:g} kimg, in {path}",
    )
    _train(run, images, plugins)


def _resume(
    plugins: Plugins, path: Path, variant: str | None, data: str | None, settings: dict[str, Any]
) -> None:
    from .checkpoint import latest
    from .run import Run
    from .variant import TrainConfig
    from .workflow import absolute, open_images, open_run

    if fixed := sorted(name for name in settings if not TrainConfig.may_change(name)):
        raise ConfigError(
            "a resumed run keeps its settings; only kimg, keep_checkpoints and the guard's can "
            f"change, not {', '.join(fixed)}"
        )
    _only_the_main_process_prints()
    run = open_run(path, plugins, settings)
    if variant not in (None, run.variant.name) or (data and absolute(data) != run.data):
        raise ConfigError(f"{path} trains {run.variant.name} on {run.data}")
    newest = latest(run.checkpoints)
    done_kimg = float(newest.name) if newest else 0.0
    if done_kimg >= run.config.kimg:
        say(f"{path} is at {done_kimg:g} of {run.config.kimg:g} kimg: more with --kimg")
        return
    say(f"going on from {done_kimg:g} of {run.config.kimg:g} kimg")
    if run.config.kimg != (before := Run.read(path)["config"]["kimg"]):
        say(f"the budget was {before:g} kimg: schedules over the whole budget bend to the new one")
    _train(run, open_images(run, plugins), plugins)


def _only_the_main_process_prints() -> None:
    from accelerate import Accelerator

    console.quiet = not Accelerator().is_main_process


def _train(run: Run, images: Any, plugins: Plugins) -> None:
    from .progress import training_progress
    from .stopping import Interrupted
    from .workflow import train as train_run

    try:
        with training_progress(console, run.config.kimg) as progress:
            path = train_run(run, images, plugins, progress)
    except Interrupted as stop:
        say(f"{stop}\nGo on with: ganforge train --run {run.path} --resume")
        raise typer.Exit(130) from stop
    say(f"checkpoint {path}\nsamples    {run.samples}")
    say(f"Next: ganforge evaluate {run.path}")


@app.command(epilog="Example: ganforge export runs/first --model digits_dcgan")
def export(
    context: typer.Context,
    run: RunPath,
    model: Annotated[str | None, typer.Option(help="Name to serve under: a-z, 0-9 and _.")] = None,
) -> None:
    """Export a run's newest checkpoint to ONNX, and prove that its pixels are the same."""
    from .workflow import export_run, open_run

    plugins: Plugins = context.obj
    opened = open_run(run, plugins)
    card = export_run(opened, plugins, model)
    say(
        f"{opened.export / 'model.onnx'}\n"
        f"parity: at most {card.parity_levels} of 255 levels between torch and onnxruntime\n"
        f"Next: ganforge publish {run} --model {card.model}",
    )


@app.command(epilog="Example: ganforge config dcgan > my.yaml")
def config(
    context: typer.Context, variant: Annotated[str, typer.Argument(help="A variant.")]
) -> None:
    """Print a variant's settings as YAML, each with its meaning: edit it, then train --config."""
    from .workflow import FROM_DATA

    for name, field in context.obj.variant(variant).config.model_fields.items():
        from_data = name in FROM_DATA
        if from_data and not FROM_DATA[name]:
            continue
        typer.echo(f"# {' '.join((field.description or '').split())}")
        default = field.get_default(call_default_factory=True)
        value = list(default) if isinstance(default, tuple) else default
        setting = yaml.safe_dump({name: value}, default_flow_style=False).strip()
        typer.echo(f"# {setting}" if from_data else setting)


@app.command(epilog="Example: ganforge plugins --json")
def plugins(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if one failed.")] = False,
) -> None:
    """List plugins, what they provide, and what went wrong with which."""
    from dataclasses import asdict

    found: Plugins = context.obj
    found.add_commands(typer.Typer())  # so that a failure there is listed too
    provided = _provided(found)
    if as_json:
        document = {
            "plugins": [asdict(info) for info in found.loaded],
            "failures": [asdict(failure) for failure in found.failures],
            **provided,
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        table = Table("plugin", "distribution", "version", "state")
        failed = {failure.name for failure in found.failures}
        for info in (info for info in found.loaded if info.name not in failed):
            table.add_row(info.name, info.distribution, info.version, "[green]loaded")
        for failure in found.failures:
            state = f"[red]failed at {failure.stage}: {escape(failure.error)}"
            table.add_row(failure.name, failure.distribution, failure.version, state)
        console.print(table)
        for kind, names in provided.items():
            say(f"{kind.replace('_', ' ')}: {', '.join(names)}")
    if strict and found.failures:
        raise typer.Exit(1)


@app.command(epilog="Example: ganforge check dcgan")
def check(
    context: typer.Context, variant: Annotated[str, typer.Argument(help="A variant.")]
) -> None:
    """Run the conformance kit on a variant: state, resume, export, serving, and its paper."""
    from .testing import checks, run_checks

    found: Plugins = context.obj
    chosen = found.variant(variant)
    failed = 0
    for result in run_checks(chosen, checks(chosen, found)):
        failed += result.error is not None
        say("fail" if result.error else "pass", result.name, style="red" if result.error else "")
        if result.error:
            say(f"     {result.error}")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: ganforge new my_gan && pip install -e my_gan")
def new(
    name: Annotated[str, typer.Argument(help="Name of the variant: a-z, 0-9 and _.")],
    into: Annotated[Path, typer.Option("--into", help="Where to put the project.")] = Path(),
) -> None:
    """Write a plugin project of your own, ready to install, train and serve."""
    from .scaffold import scaffold

    project = scaffold(name, into)
    say(
        f"wrote {project}\n"
        f"Next: pip install -e {project} && ganforge check {name} && "
        f"ganforge train {name} --data digits --run runs/{name}",
    )


def _provided(found: Plugins) -> dict[str, list[str]]:
    """Names of what plugins provide, by kind; none where training isn't installed."""
    try:
        return {
            "variants": list(found.variants),
            "datasets": list(found.datasets),
            "metrics": list(found.metrics),
            "feature_extractors": list(found.feature_extractors),
        }
    except ModuleNotFoundError as error:
        errors.print(f"what they provide needs {error.name}: pip install 'ganforge\\[train]'")
        return {}


add_measuring(app)


def main() -> None:
    """Entry point: exit 2 for wrong usage, 1 for a failure, with one line that says why."""
    plugins = Plugins()
    plugins.add_commands(app)
    try:
        app(obj=plugins)
    except GanforgeError as error:
        _fail(error, "\n".join([str(error), *getattr(error, "__notes__", [])]))
    except OSError as error:
        what = error.strerror or str(error)
        _fail(error, what if error.filename is None else f"{error.filename}: {what}")
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gan_"):
            raise
        _fail(
            error,
            f"this needs {error.name}, which isn't installed: "
            "pip install 'ganforge[train]' to train, 'ganforge[serve]' to serve",
        )


def _fail(error: Exception, message: str) -> NoReturn:
    if "--debug" in sys.argv:
        raise error
    errors.print("[red]error:[/] ", end="")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
