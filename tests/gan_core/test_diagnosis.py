"""The diagnosis: of runs that were made to fail, of a healthy one, and of rows made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from gan_core.diagnosis import Finding, diagnose
from gan_core.run import read_rows
from gan_core.workflow import start_run, train

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.plugins import Plugins

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "healthy": ("vanilla", {"kimg": 12, "lr_G": 5e-4}),
    "mode collapse": ("dcgan", {"kimg": 4, "width": 8, "lr_G": 1e-2, "batch_size": 32}),
    "dead critic": ("wgan", {"kimg": 4, "width": 4, "clip": 1e-5, "n_critic_warmup": 5}),
    "explosion": ("vanilla", {"kimg": 6, "lr_G": 1.0, "lr_D": 1.0}),
    "vanishing gradient": ("vanilla", {"kimg": 8, "minimax": True, "lr_D": 2e-3, "lr_G": 1e-6}),
}
QUICK = {"tick_kimg": 0.2, "sample_kimg": 50, "checkpoint_kimg": 50}


@pytest.fixture(scope="module")
def diagnosed(
    tmp_path_factory: pytest.TempPathFactory, plugins: Plugins
) -> Callable[[str], list[Finding]]:
    """What is said of a run on digits."""

    def of(name: str) -> list[Finding]:
        variant, settings = RUNS[name]
        path: Path = tmp_path_factory.mktemp("runs") / "run"
        small = {"widths": [64, 128]} if variant == "vanilla" else {}
        chosen = {**QUICK, **small, **settings}
        run, images = start_run(path, plugins.variant(variant), "digits", chosen, plugins)
        train(run, images, plugins)
        return diagnose(run.rows(), read_rows(path / "guard.jsonl"))

    return of


@pytest.mark.parametrize("name", [name for name in RUNS if name != "healthy"])
def test_a_run_that_was_made_to_fail_is_told_so(
    diagnosed: Callable[[str], list[Finding]], name: str
) -> None:
    found = {finding.name: finding for finding in diagnosed(name)}
    assert name in found, found
    assert found[name].severity == "bad"


def test_a_healthy_run_is_told_so(diagnosed: Callable[[str], list[Finding]]) -> None:
    assert [(f.severity, f.name) for f in diagnosed("healthy")] == [("good", "healthy")]


WELL = {
    "loss/G": 1.0,
    "loss/D": 1.2,
    "logits/real": 0.5,
    "logits/fake": -0.5,
    "accuracy/real": 0.7,
    "accuracy/fake": 0.7,
    "diversity": 0.9,
    "gradient_norm/G": 0.5,
    "gradient_norm/D": 0.5,
}


def rows(n: int = 60, **changes: Callable[[int], float]) -> list[dict[str, float]]:
    """Ticks of a healthy run; ``loss_G`` is for ``loss/G``."""
    named = {name.replace("_", "/", 1): change for name, change in changes.items()}
    return [{"kimg": i, **WELL, **{name: f(i) for name, f in named.items()}} for i in range(1, n)]


def names(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found]


def test_of_a_few_ticks_nothing_is_said() -> None:
    assert names(diagnose(rows(5))) == ["too short"]


def test_nothing_at_all_is_too_short() -> None:
    assert names(diagnose([])) == ["too short"]


def test_a_steady_run_is_healthy() -> None:
    assert names(diagnose(rows())) == ["healthy"]


def test_other_statistics_than_gans_have_are_no_trouble() -> None:
    assert names(diagnose([{"kimg": i, "loss/G": 1.0} for i in range(20)])) == ["healthy"]


def test_slow_swings_are_an_oscillation() -> None:
    swinging = rows(120, loss_G=lambda i: 1 + 0.8 * math.sin(i / 5))
    assert names(diagnose(swinging)) == ["oscillation"]


def test_noise_is_no_oscillation() -> None:
    noisy = rows(120, loss_G=lambda i: 1 + 0.8 * math.sin(i * i * 12.9))
    assert names(diagnose(noisy)) == ["healthy"]


def test_a_trend_is_no_oscillation() -> None:
    assert names(diagnose(rows(120, loss_G=lambda i: 1 + i / 20))) == ["healthy"]


def test_a_discriminator_that_is_always_right_is_too_strong() -> None:
    sure = rows(accuracy_real=lambda i: 0.995, accuracy_fake=lambda i: 0.99)
    assert names(diagnose(sure)) == ["discriminator too strong"]


def test_a_discriminator_that_is_right_about_one_kind_is_not_too_strong() -> None:
    assert names(diagnose(rows(accuracy_real=lambda i: 1.0))) == ["healthy"]


def test_rollbacks_are_told() -> None:
    events = [{"event": "rollback", "kimg": 3.0, "text": "went wrong"}]
    (found,) = diagnose(rows(), events)
    assert (found.name, found.evidence) == ("rolled back", "3 kimg: went wrong")


def test_a_warning_alone_is_not_a_rollback() -> None:
    events = [{"event": "warning", "kimg": 3.0, "text": "looks odd"}]
    assert names(diagnose(rows(), events)) == ["healthy"]


@pytest.mark.parametrize(("last", "expected"), [(11.0, "healthy"), (14.0, "past its best")])
def test_a_score_that_gets_worse_is_told(last: float, expected: str) -> None:
    scores = [{"kimg": 1.0, "fid": 40.0}, {"kimg": 2.0, "fid": 10.0}, {"kimg": 3.0, "fid": last}]
    assert names(diagnose(rows(), (), scores)) == [expected]


def test_what_is_bad_comes_first() -> None:
    both = rows(accuracy_real=lambda i: 1.0, accuracy_fake=lambda i: 1.0, diversity=lambda i: 0.01)
    assert [f.severity for f in diagnose(both)] == ["bad", "notice"]


@pytest.mark.parametrize("name", ["mode collapse", "explosion"])
def test_a_finding_says_what_to_try(name: str) -> None:
    bad = rows(diversity=lambda i: 0.01, logits_real=lambda i: 1e4 if i > 50 else 0.0)
    (advice,) = [finding.advice for finding in diagnose(bad) if finding.name == name]
    assert "r1_gamma" in advice
