"""A run as one HTML file that opens from disk: curves, samples over time, and a diagnosis."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from .diagnosis import diagnose
from .errors import ConfigError
from .run import read_rows
from .variant import is_points

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study

    from .card import Score
    from .run import Run
    from .search import Found, Plan

__all__ = ["averaged", "spread", "write_report", "write_search_report"]

MOST_SAMPLES = 60
"""Sample grids in a report; of more, so many evenly through the run."""
EVOLVING, MOMENTS = 8, 10
"""Images whose evolution is shown, from the first row of a grid, and at how many moments."""
FEWEST_FOR_IMPORTANCE = 8
"""Completed trials; of fewer, which setting matters is a guess."""
SMOOTH = 0.05
"""A moving average is over this share of the ticks."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write a run's report, by default to its folder's report.html; returns where it is."""
    rows = run.rows()
    scores = list(read_rows(run.scores))
    events = list(read_rows(run.path / "guard.jsonl"))
    grids = [path for path in sorted(run.samples.glob("[0-9]*.png")) if _is_whole(path)]
    samples = spread(grids, MOST_SAMPLES)
    html = _template("report.html.j2").render(
        run=run,
        rows=rows,
        config=run.config.model_dump(mode="json", exclude_defaults=True),
        findings=diagnose(rows, events, scores),
        events=events,
        charts=[figure.to_json() for figure in _charts(rows, scores, events)],
        samples=[(float(sample.stem), _embedded(sample.read_bytes())) for sample in samples],
        evolution=_evolution(run, samples),
        scored=_scored(run),
        plotly=get_plotlyjs(),
    )
    target = path or run.path / "report.html"
    _write(target, html)
    return target


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gan_core", "templates"), autoescape=True
    )
    environment.filters |= {"short": _short, "spread": _spread_of}
    return environment.get_template(name)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _spread_of(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ", ".join(map(_short, values))
    return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g} (n = {len(values)})"


def _write(path: Path, html: str) -> None:
    """The whole file, or none of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)


def _charts(
    rows: Sequence[dict[str, float]],
    scores: Sequence[dict[str, float]],
    events: Iterable[dict[str, Any]],
) -> list[go.Figure]:
    """A figure per question; one that nothing was written for is left out."""
    questions = [
        ("Losses", ["loss/G", "loss/D"], "linear", True),
        ("Ratio of the losses, G/D", ["ratio"], "linear", True),
        ("Gradient norms", ["gradient_norm/G", "gradient_norm/D"], "log", True),
        ("Accuracy of D", ["accuracy/real", "accuracy/fake"], "linear", True),
        ("Logits", ["logits/real", "logits/fake"], "linear", True),
        ("Diversity: spread of fakes' pixels over reals'", ["diversity"], "linear", True),
        ("Penalties", _named(rows, "penalty/"), "log", True),
        ("Images per second", ["img_per_s"], "linear", False),
    ]
    rows = [_with_ratio(row) for row in rows]
    figures = [
        _figure(title, rows, names, scale, smooth=smooth, events=events)
        for title, names, scale, smooth in questions
        if names and _named(rows, *names)
    ]
    measured = [
        _figure(f"{name} of {'what would be served'}", scores, [name], "linear", events=events)
        for name in _named(scores)
        if name != "kimg"
    ]
    return [*measured, *figures]


def _figure(
    title: str,
    rows: Sequence[dict[str, float]],
    names: Sequence[str],
    scale: str,
    *,
    smooth: bool = False,
    events: Iterable[dict[str, Any]] = (),
) -> go.Figure:
    """Curves over kimg, each with its moving average, and the guard's events."""
    figure = go.Figure()
    for name, colour in zip(names, COLOURS, strict=False):
        found = [(row["kimg"], row[name]) for row in rows if name in row]
        if not found:
            continue
        kimg, values = (np.array(column) for column in zip(*found, strict=True))
        window = max(1, round(len(values) * SMOOTH)) if smooth else 1
        if window > 1:
            figure.add_scatter(
                x=kimg,
                y=values,
                mode="lines",
                line={"color": colour, "width": 1},
                opacity=0.3,
                hoverinfo="skip",
                showlegend=False,
            )
        mode = "lines" if smooth else "lines+markers"
        line = {"color": colour, "width": 2}
        figure.add_scatter(x=kimg, y=averaged(values, window), mode=mode, line=line, name=name)
    for event in events:
        colour = "#dc2626" if event["event"] == "rollback" else "#d97706"
        figure.add_vline(x=event["kimg"], line={"color": colour, "dash": "dot", "width": 1})
    figure.update_layout(
        title=title,
        height=300,
        margin={"l": 50, "r": 15, "t": 60, "b": 40},
        template="plotly_white",
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        showlegend=True,
    )
    figure.update_xaxes(title="kimg")
    figure.update_yaxes(type=scale)
    return figure


def averaged(values: np.ndarray[Any, Any], window: int) -> np.ndarray[Any, Any]:
    """Mean of the finite ones of the last ``window`` values, of fewer at the start."""
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    # window by window: a difference of sums would carry an explosion on for ever
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    finite = np.isfinite(windows)
    sums = np.where(finite, windows, 0.0).sum(1)
    averaged: np.ndarray[Any, Any] = np.where(
        finite.any(1), sums / np.maximum(finite.sum(1), 1), np.nan
    )
    return averaged


def _with_ratio(row: dict[str, float]) -> dict[str, float]:
    if "loss/G" not in row or not row.get("loss/D"):
        return row
    return {**row, "ratio": row["loss/G"] / row["loss/D"]}


def _named(rows: Iterable[dict[str, float]], *starts: str) -> list[str]:
    """Names in the rows that start so, in their order; all of them if nothing is said."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not starts or name.startswith(starts)]


def spread(samples: Sequence[Path], most: int) -> Sequence[Path]:
    """At most so many of them, evenly, the first and the last included."""
    picked = np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)
    return [samples[i] for i in picked]


def _evolution(run: Run, samples: Sequence[Path]) -> str | None:
    """The first images of some grids below each other: the same z, later and later."""
    if len(samples) < 2 or is_points(run.config):
        return None
    side = run.config.resolution_px + 2  # and the gap
    strips = []
    for path in spread(samples, MOMENTS):
        with Image.open(path) as image:
            strips.append(image.crop((0, 0, min(image.width, side * EVOLVING), side)).copy())
    canvas = Image.new(strips[0].mode, (strips[0].width, side * len(strips)))
    for i, strip in enumerate(strips):
        canvas.paste(strip, (0, i * side))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return _embedded(buffer.getvalue())


def _is_whole(path: Path) -> bool:
    """Whether it can be shown: a run may have been killed while it wrote."""
    try:
        float(path.stem)
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _scored(run: Run) -> Sequence[Score]:
    """What ``ganforge evaluate`` measured of the exported graph."""
    from .workflow import read_card

    if not (run.export / "card.json").exists():
        return ()
    with suppress(ConfigError):  # a damaged card is evaluate's business
        return read_card(run.export).metrics
    return ()


def write_search_report(study: Study, plan: Plan, found: Found, path: Path) -> None:
    """Optuna's plots of a search, and what it found, as one HTML file."""
    from optuna import visualization

    trials = study.get_trials(deepcopy=False)
    completed = [trial for trial in trials if trial.value is not None and trial.params]
    figures = [visualization.plot_optimization_history(study, target_name=plan.metric)]
    if any(trial.intermediate_values for trial in trials):
        figures.append(visualization.plot_intermediate_values(study))
    if len(completed) > 1:
        figures.append(visualization.plot_parallel_coordinate(study, target_name=plan.metric))
        figures.append(visualization.plot_slice(study, target_name=plan.metric))
    if len(completed) >= FEWEST_FOR_IMPORTANCE:
        figures.append(visualization.plot_param_importances(study, target_name=plan.metric))
    html = _template("search.html.j2").render(
        plan=plan,
        found=found,
        trials=trials,
        charts=[
            figure.update_layout(template="plotly_white", width=None).to_json()
            for figure in figures
        ],
        plotly=get_plotlyjs(),
    )
    _write(path, html)
