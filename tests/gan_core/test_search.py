"""Search: its space, its plan, trials that are pruned, fail or are killed, and what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from pydantic import ValidationError

from gan_core.errors import ConfigError
from gan_core.search import Choice, Plan, Search, default_space, read_space

if TYPE_CHECKING:
    from gan_core.plugins import Plugins
    from gan_core.variant import Variant

SETTINGS = {"widths": [8], "z_dim": 4, "batch_size": 16, "score_samples": 16}
SPACE = {"lr_G": Choice(low=1e-4, high=1e-2, log=True), "beta1": Choice(choices=(0.0, 0.5))}


def plan(**changes: Any) -> Plan:
    asked = {
        "variant": "vanilla",
        "data": "digits",
        "metric": "fid",
        "better": "lower",
        "kimg": 0.32,
        "settings": SETTINGS,
        "space": SPACE,
    }
    return Plan.model_validate({**asked, **changes})


@pytest.fixture
def search(tmp_path: Path, plugins: Plugins) -> Search:
    return Search(tmp_path / "search", plan(), plugins)


def states(search: Search) -> list[TrialState]:
    return [trial.state for trial in search.study.get_trials()]


@pytest.mark.parametrize("name", ["vanilla", "dcgan", "biggan", "wgan_gp", "r3gan"])
def test_every_variant_has_a_space_round_its_defaults(plugins: Plugins, name: str) -> None:
    config = plugins.variant(name).config()
    space = default_space(config)
    assert {"lr_G", "lr_D", "batch_size", "z_dim"} <= space.keys()
    for field, choice in space.items():
        own = getattr(config, field)
        inside = (
            choice.low is not None and choice.high is not None and choice.low < own < choice.high
        )
        assert inside or own in choice.choices, field


def test_a_space_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("lr_G: {low: 1.0e-5, high: 1.0e-2, log: true}\nz_dim: [8, 16]\n")
    assert read_space(path) == {
        "lr_G": Choice(low=1e-5, high=1e-2, log=True),
        "z_dim": Choice(choices=(8, 16)),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr_G: {low: 2, high: 1}", "low 2.0 is not below high 1.0"),
        ("lr_G: {low: 1}", "give low and high, or choices"),
        ("lr_G: {min: 1, max: 2}", "Extra inputs are not permitted"),
        ("lr_G: 3", "holds no space"),
        ("[1, 2]", "holds no space"),
        ("a: [", "holds no space"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_space(path)


def test_whole_numbers_are_suggested_as_such() -> None:
    trial = optuna.create_study().ask()
    assert isinstance(Choice(low=1, high=5).suggest(trial, "n_critic"), int)


def test_a_choice_is_a_range_or_a_list() -> None:
    with pytest.raises(ValidationError):
        Choice(low=1, high=2, choices=(1,))


def test_the_first_trial_has_the_variants_own_settings(search: Search, plugins: Plugins) -> None:
    search.run(1)
    (trial,) = search.study.get_trials()
    config = plugins.variant("vanilla").config
    assert trial.params == {name: config.model_fields[name].default for name in SPACE}


def test_so_many_trials_are_done_and_no_more_when_called_again(search: Search) -> None:
    told: list[str] = []
    search.run(2, lambda trial: told.append(search.told(trial)))
    search.run(2)
    assert states(search) == [TrialState.COMPLETE] * 2
    assert told[0].startswith("trial 0: fid ")
    assert "best so far  (lr_G 0.0002  beta1 0.5)" in told[0]


def test_a_trial_is_a_run_of_its_own(search: Search) -> None:
    search.run(1)
    assert (search.path / "trials" / "0000" / "config.yaml").exists()


def test_a_bad_trial_is_pruned_early(tmp_path: Path, plugins: Plugins) -> None:
    search = Search(tmp_path / "search", plan(space={"lr_G": Choice(low=1e-4, high=1e-3)}), plugins)
    for _ in range(4):  # as many as the pruner wants to see first, each of them perfect
        search.study.add_trial(
            optuna.trial.create_trial(value=0.0, intermediate_values=dict.fromkeys(range(9), 0.0))
        )
    search.run(5)
    assert states(search)[0] == TrialState.PRUNED  # enqueued before the perfect ones


def test_settings_that_cannot_train_fail_alone(tmp_path: Path, plugins: Plugins) -> None:
    # 4,000 images of a batch are more than there are
    space = {"batch_size": Choice(choices=(16, 4000))}
    settings = {key: value for key, value in SETTINGS.items() if key != "batch_size"}
    search = Search(tmp_path / "search", plan(space=space, settings=settings), plugins)
    for size in (4000, 16):
        search.study.enqueue_trial({"batch_size": size})
    search.run(3)
    assert {state.name for state in states(search)} == {"COMPLETE", "FAIL"}


def test_the_best_and_the_defaults_are_repeated_from_other_seeds(search: Search) -> None:
    search.run(2)
    found = search.conclude(2)
    assert found is not None
    assert {what: len(values) for what, values in found.repeated.items()} == {
        "best": 2,
        "default": 2,
    }
    assert found.summary().keys() == {"best", "default"}
    assert (search.path / "report.html").read_text().count("<tr>") > 4


def test_what_was_repeated_is_not_repeated_again(search: Search) -> None:
    search.run(1)
    search.conclude(1)
    checkpoint = next((search.path / "repeats" / "best-1" / "checkpoints").iterdir())
    written = checkpoint.stat().st_mtime_ns
    search.conclude(1)
    assert checkpoint.stat().st_mtime_ns == written


def test_the_best_settings_can_be_trained_with(search: Search, vanilla: Variant) -> None:
    search.run(2)
    search.conclude(0)
    settings = yaml.safe_load((search.path / "best.yaml").read_text())
    assert settings.items() >= SETTINGS.items()
    assert settings["lr_G"] == search.study.best_params["lr_G"]
    vanilla.config.model_validate(settings)


def test_without_a_completed_trial_there_is_nothing_to_conclude(search: Search) -> None:
    assert search.conclude(1) is None


def test_another_plan_in_the_same_folder_is_refused(search: Search, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"is of another search \(kimg\)"):
        Search(search.path, plan(kimg=0.64), plugins)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"lr": SPACE["lr_G"]}}, "vanilla has no setting 'lr'"),
        ({"settings": {"beta1": 0.5}}, "'beta1' is both set and searched"),
        ({"settings": {"widths": "wide"}}, "widths"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(
    tmp_path: Path, plugins: Plugins, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Search(tmp_path / "search", plan(**changes), plugins)
    assert not (tmp_path / "search").exists()


def test_an_address_that_is_no_database_is_refused(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="can't open nothing://"):
        Search(tmp_path / "search", plan(), plugins, storage="nothing://here")


def test_higher_may_be_better(tmp_path: Path, plugins: Plugins) -> None:
    asked = plan(metric="precision", better="higher", space={"beta1": SPACE["beta1"]})
    search = Search(tmp_path / "search", asked, plugins)
    search.run(1)
    assert search.study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert 0 <= search.study.best_value <= 1


COMMAND = [
    *(sys.executable, "-m", "gan_core.cli", "search", "vanilla", "--data", "digits"),
    *("--trials", "6", "--kimg", "1.6", "--metric", "fid", "--seeds", "0"),
    "--set=widths=[8]",
]


def test_a_killed_worker_loses_its_own_trial_alone(
    tmp_path: Path,
) -> None:
    out = tmp_path / "search"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--out", str(out)]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as first,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as second,
    ):
        _until(lambda: len(list(out.glob("trials/*/metrics.jsonl"))) >= 2, first)
        second.send_signal(signal.SIGKILL)
        second.wait()
        assert first.wait(timeout=240) == 0
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'study.db'}")
    found = [trial.state for trial in study.get_trials()]
    assert sum(state in {TrialState.COMPLETE, TrialState.PRUNED} for state in found) >= 5
    assert sum(state in {TrialState.RUNNING, TrialState.FAIL} for state in found) <= 1
    assert (out / "best.yaml").exists()


def _until(holds: Any, process: subprocess.Popen[bytes], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)
