"""The report: one file without links, with every curve, grid, event and score of a run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from gan_core.report import MOST_SAMPLES, averaged, spread, write_report
from gan_core.scoring import evaluate, open_source
from gan_core.workflow import start_run, train

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.plugins import Plugins
    from gan_core.run import Run

SETTINGS = {
    "kimg": 2.0,
    "widths": [8],
    "z_dim": 4,
    "tick_kimg": 0.1,
    "sample_kimg": 0.5,
    "score_kimg": 1.0,
    "score_samples": 16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Run:
    path = tmp_path_factory.mktemp("report") / "run"
    made, images = start_run(path, plugins.variant("vanilla"), "digits", SETTINGS, plugins)
    train(made, images, plugins)
    return made


def charts(html: str) -> dict[str, list[str]]:
    """Names of the curves by chart."""
    (found,) = re.findall(r"^const charts = (\[.*\]);$", html, re.MULTILINE)
    return {
        chart["layout"]["title"]["text"]: [
            trace["name"] for trace in chart["data"] if trace.get("name")
        ]
        for chart in json.loads(found)
    }


def test_the_report_needs_nothing_but_itself(run: Run) -> None:
    html = write_report(run).read_text().replace(get_plotlyjs(), "")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', html) == []
    assert "Plotly.newPlot" in html


def test_every_question_has_its_curves(run: Run) -> None:
    found = charts(write_report(run).read_text())
    assert found["Losses"] == ["loss/G", "loss/D"]
    assert found["fid of what would be served"] == ["fid"]
    assert found["Accuracy of D"] == ["accuracy/real", "accuracy/fake"]
    assert "Penalties" not in found  # there are none


def test_all_samples_can_be_slid_through(run: Run) -> None:
    html = write_report(run).read_text()
    (found,) = re.findall(r"^const samples = (\[.*\]);$", html, re.MULTILINE)
    kimgs = [kimg for kimg, _ in json.loads(found)]
    assert kimgs == [float(path.stem) for path in sorted(run.samples.glob("*.png"))]
    assert len(kimgs) >= 4


def test_settings_that_are_not_the_defaults_are_shown(run: Run) -> None:
    html = write_report(run).read_text()
    assert "<code>z_dim</code></td><td>4<" in html
    assert "<code>beta1</code>" not in html


def test_scores_are_shown_once_there_are_any(run: Run, plugins: Plugins, tmp_path: Path) -> None:
    title = "Scores of the exported graph"
    assert title not in write_report(run, tmp_path / "before.html").read_text()
    source = open_source(str(run.path), plugins)
    evaluate(source, plugins, metrics=["fid"], samples=16, extractor="pixels")
    assert title in write_report(run, tmp_path / "after.html").read_text()


def test_the_guards_events_are_told_and_marked(run: Run, tmp_path: Path) -> None:
    run.note({"kimg": 1.5, "event": "rollback", "text": "<b>odd</b>"})
    html = write_report(run, tmp_path / "report.html").read_text()
    assert "&lt;b&gt;odd&lt;/b&gt;" in html  # escaped: a run's texts are nobody's markup
    assert '"x0":1.5' in html.replace(" ", "")


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path, plugins: Plugins) -> None:
    variant = plugins.variant("vanilla")
    made, _ = start_run(tmp_path / "run", variant, "digits", SETTINGS, plugins)
    made.create()
    assert "too short" in write_report(made).read_text()


def test_points_have_a_report_too(tmp_path: Path, plugins: Plugins) -> None:
    settings = {"kimg": 0.64, "sample_kimg": 0.2, "tick_kimg": 0.1}
    variant = plugins.variant("vanilla")
    made, images = start_run(tmp_path / "run", variant, "ring", settings, plugins)
    train(made, images, plugins)
    assert "const samples" in write_report(made).read_text()


def test_a_moving_average_is_over_fewer_values_at_the_start() -> None:
    assert averaged(np.array([1.0, 2.0, 3.0, 4.0]), 2).tolist() == [1.0, 1.5, 2.5, 3.5]


def test_a_moving_average_forgets_an_explosion() -> None:
    found = averaged(np.array([1e20, 1, 1, np.nan, 1, 3, np.inf, np.nan]), 2)
    np.testing.assert_array_equal(found, [1e20, 5e19, 1, 1, 1, 2, 3, np.nan])


def test_samples_that_cannot_be_shown_are_left_out(run: Run, tmp_path: Path) -> None:
    copy = replace(run, path=tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    whole = sorted(copy.samples.iterdir())
    whole[0].write_bytes(whole[0].read_bytes()[:60])
    shutil.copy(whole[1], copy.samples / "best.png")
    shutil.copy(whole[1], copy.samples / "0-best.png")
    (copy.path / "export").mkdir(exist_ok=True)
    (copy.path / "export" / "card.json").write_text("{")
    page = write_report(copy).read_text()
    (shown,) = re.findall(r"^const samples = (\[.*\]);$", page, re.MULTILINE)
    assert [kimg for kimg, _ in json.loads(shown)] == [float(path.stem) for path in whole[1:]]


def test_of_many_grids_some_are_shown_evenly(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i:04}.png" for i in range(1000)]
    found = spread(paths, MOST_SAMPLES)
    assert (len(found), found[0], found[-1]) == (MOST_SAMPLES, paths[0], paths[-1])
