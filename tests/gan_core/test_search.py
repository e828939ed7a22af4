"""Search: its space, its plan, trials that are pruned, fail or are killed, and what it writes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import yaml
from filelock import FileLock
from optuna.trial import TrialState
from pydantic import ValidationError

from gan_core.errors import ConfigError
from gan_core.search import Plan, Search
from gan_core.spaces import Choice, default_space, derived_space, read_space
from gan_core.stopping import Interrupted

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
        ("lr_G: {low: 1}", "yaml: lr_G: give low and high, or choices"),
        ("lr_G: {min: 1, max: 2}", "yaml: lr_G: 'min' is no key here"),
        ("lr_G: {low: 1, high: x}", "yaml: lr_G: high: .* valid number.* 'x'"),
        ("lr_G: {low: 0, high: 0.1, log: true}", "lr_G: log needs a low above 0, not 0.0"),
        ("lr_G: {low: 1, high: 2, step: 0}", "step 0.0 needs to be above 0"),
        ("lr_G: {choices: [1, 2], log: true}", "log and step are of a range"),
        ("lr_G: 3", "yaml: lr_G is 3: give {low: …, high: …}, or a list"),
        ("[1, 2]", "holds a list: a space has lines such as 'lr_G"),
        ("3", "holds a int: a space has lines"),
        ("", "is empty: a space has lines"),
        ("{}", "is empty: a space has lines"),
        ("a: [", "can't be read"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_space(path)


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_suggested_as_such(log: bool) -> None:
    trial = optuna.create_study().ask()
    assert isinstance(Choice(low=16, high=128, log=log).suggest(trial, "batch_size", int), int)


def test_a_setting_with_fractions_is_searched_in_fractions_between_whole_bounds() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    choice = Choice(low=0.0, high=10.0)
    found = [choice.suggest(study.ask(), "r1_gamma", float) for _ in range(4)]
    assert any(value != int(value) for value in found)


def test_whether_numbers_are_whole_follows_from_the_setting(
    tmp_path: Path, plugins: Plugins
) -> None:
    space = {
        "r1_gamma": Choice(low=0, high=10),
        "lr_ratio": Choice(low=0.5, high=4),  # of type float | None
        "n_critic": Choice(low=1, high=3),
        "guard": Choice(choices=("off", "warn")),
    }
    search = Search(tmp_path / "search", plan(space=space), plugins)
    assert search.numbers == {"r1_gamma": float, "lr_ratio": float, "n_critic": int, "guard": None}


def test_a_default_that_is_no_number_is_left_to_the_sampler(
    tmp_path: Path, plugins: Plugins
) -> None:
    space = {"lr_ratio": Choice(low=0.5, high=4), "beta1": SPACE["beta1"]}
    search = Search(tmp_path / "search", plan(space=space), plugins)
    (trial,) = search.study.get_trials()
    assert trial.system_attrs["fixed_params"] == {"beta1": 0.5}


def test_a_derived_space_has_only_what_the_variant_takes_on_that_data(
    tmp_path: Path, plugins: Plugins
) -> None:
    # at 64 px biggan cuts z into 5 chunks
    settings = {"resolution_px": 64, "z_dim": 100}
    assert "z_dim" not in derived_space("biggan", "digits", settings, plugins)
    config = plugins.variant("biggan").config.model_validate({"resolution_px": 64, "z_dim": 120})
    assert default_space(config)["z_dim"].choices == (120,)


def test_a_derived_space_leaves_out_what_has_no_effect(plugins: Plugins) -> None:
    space = derived_space("vanilla", "digits", {"lr_ratio": 2.0}, plugins)
    assert "lr_G" not in space
    assert "lr_D" in space


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


def test_steps_of_intermediate_values_end_with_the_budget(tmp_path: Path, plugins: Plugins) -> None:
    # 300 images of 200: 12 eighths
    asked = plan(settings={**SETTINGS, "batch_size": 300}, kimg=0.2)
    search = Search(tmp_path / "search", asked, plugins)
    search.run(1)
    assert search.study.get_trials()[0].last_step == 8


def test_settings_that_cannot_train_fail_alone(tmp_path: Path, plugins: Plugins) -> None:
    # 4,000 images of a batch are more than there are
    space = {"batch_size": Choice(choices=(16, 4000))}
    settings = {key: value for key, value in SETTINGS.items() if key != "batch_size"}
    search = Search(tmp_path / "search", plan(space=space, settings=settings), plugins)
    for size in (4000, 16):
        search.study.enqueue_trial({"batch_size": size})
    search.run(3)
    assert {state.name for state in states(search)} == {"COMPLETE", "FAIL"}


@pytest.fixture
def failing(tmp_path: Path, plugins: Plugins) -> Search:
    space = {"batch_size": Choice(choices=(3000, 4000))}
    settings = {key: value for key, value in SETTINGS.items() if key != "batch_size"}
    return Search(tmp_path / "search", plan(space=space, settings=settings), plugins)


def test_a_failed_trial_says_why_in_one_line(
    failing: Search, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    failing.run(1, lambda trial: told.append(failing.told(trial)))
    assert told[0].startswith("trial 0: failed: digits has 1797 images, fewer than the batch of ")
    assert "\n" not in told[0]
    assert "Traceback" not in capfd.readouterr().err


def test_trials_that_fail_by_themselves_are_done(failing: Search) -> None:
    failing.run(2)
    failing.run(2)
    assert states(failing) == [TrialState.FAIL] * 2


def test_a_search_without_a_completed_trial_fails_and_says_why(failing: Search) -> None:
    failing.run(1)
    with pytest.raises(ConfigError, match=r"none of 1 trials was completed; the last .* 1797"):
        failing.conclude(1)


def test_who_comes_late_leaves_the_repeats_to_another_worker(search: Search) -> None:
    with FileLock(search.path / ".conclude.lock"):
        assert search.conclude(1) is None


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


def test_a_kill_in_the_repeats_leaves_the_best(search: Search) -> None:
    def killed(_text: str) -> None:
        raise KeyboardInterrupt

    search.run(1)
    with pytest.raises(KeyboardInterrupt):
        search.conclude(1, killed)
    assert yaml.safe_load((search.path / "best.yaml").read_text())["lr_G"] == 0.0002
    assert (search.path / "report.html").exists()


def test_the_report_says_what_a_step_is(search: Search) -> None:
    search.run(1)
    search.conclude(0)
    report = (search.path / "report.html").read_text()
    assert "a step is an eighth of a trial&#39;s budget" in report.replace("'s", "&#39;s")


def test_the_best_settings_can_be_trained_with(search: Search, vanilla: Variant) -> None:
    search.run(2)
    search.conclude(0)
    settings = yaml.safe_load((search.path / "best.yaml").read_text())
    assert settings.items() >= SETTINGS.items()
    assert settings["lr_G"] == search.study.best_params["lr_G"]
    vanilla.config.model_validate(settings)


def test_another_plan_in_the_same_folder_is_refused(search: Search, plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match=r"another search \(kimg 0.32, not 0.64\)"):
        Search(search.path, plan(kimg=0.64), plugins)


def test_the_same_plan_otherwise_written_is_the_same_study(
    search: Search, plugins: Plugins
) -> None:
    whole = plan(settings={**SETTINGS, "z_dim": 4.0})
    again = Search(search.path, whole, plugins)
    assert again.study.study_name == search.study.study_name


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def test_other_plans_in_one_database_are_other_studies(
    tmp_path: Path, plugins: Plugins, storage: str
) -> None:
    first = Search(tmp_path / "a" / "search", plan(), plugins, storage)
    second = Search(tmp_path / "b" / "search", plan(variant="dcgan", settings={}), plugins, storage)
    first.run(1)
    assert [trial.state for trial in second.study.get_trials()] == [TrialState.WAITING]


def test_machines_without_a_common_folder_share_the_study_of_a_plan(
    tmp_path: Path, plugins: Plugins, storage: str
) -> None:
    first = Search(tmp_path / "a" / "search", plan(), plugins, storage)
    first.run(1)
    second = Search(tmp_path / "b" / "search", plan(), plugins, storage)
    assert states(second) == [TrialState.COMPLETE]


def test_a_study_of_another_plan_is_refused(search: Search, plugins: Plugins) -> None:
    other = {**search.plan.document(), "settings": {**SETTINGS, "z_dim": 5}}
    search.study.set_user_attr("plan", other)
    with pytest.raises(ConfigError, match=r"is of another search \(settings: z_dim\)"):
        Search(search.path, plan(), plugins)


@pytest.mark.parametrize("torn", ["", "variant: vanilla\ndata: dig", "variant: [", "\x00"])
def test_a_damaged_plan_is_told(search: Search, plugins: Plugins, torn: str) -> None:
    (search.path / "search.yaml").write_text(torn)
    with pytest.raises(ConfigError, match=r"search.yaml (is damaged|can't be read)"):
        Search(search.path, plan(), plugins)


def test_a_plan_that_cannot_be_written_whole_is_not_written(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(path: Path, text: str) -> int:
        with path.open("w") as file:
            file.write(text[:9])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(ConfigError, match=r"can't write to .*disk full"):
        Search(tmp_path / "search", plan(), plugins)
    assert not (tmp_path / "search" / "search.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"lr": SPACE["lr_G"]}}, "vanilla has no setting 'lr'"),
        ({"settings": {"beta1": 0.5}}, "'beta1' is both set and searched"),
        ({"settings": {"widths": "wide"}}, "widths"),
        ({"settings": {"kimg": 3}}, "'kimg' is the search's own"),
        ({"space": {"resolution_px": Choice(choices=(8, 16))}}, "resolution_px can't be searched"),
        ({"space": {}}, "the space is empty"),
        ({"space": {"n_critic": Choice(low=1, high=2.5)}}, "n_critic .* whole numbers, not 2.5"),
        ({"space": {"guard": Choice(low=1, high=2)}}, "guard of the space: it isn't a number"),
        ({"space": {"lr_D": Choice(low=0, high=0.1)}}, "no trial can have lr_D 0.0"),
        ({"space": {"beta1": Choice(low=0.5, high=1.5)}}, "no trial can have beta1 1.5"),
        ({"space": {"n_critic": Choice(choices=(1, "huge"))}}, "can have n_critic 'huge'.*integer"),
        (
            {"space": {"lr_ratio": Choice(low=0.5, high=4), "lr_G": SPACE["lr_G"]}},
            "lr_G .* has no effect beside lr_ratio",
        ),
        ({"metric": "label_accuracy", "better": "higher"}, "label_accuracy needs .*labels"),
        ({"metric": "path_length"}, "path_length is measured of a finished run"),
        ({"metric": "modes_covered", "better": "higher"}, "modes_covered needs distances to modes"),
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
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    "address",
    [
        "nothing://me:hunter2@here/db",
        "me:hunter2@here/db",
        "postgresql://me:12/hunter2@here/db",
        "sqlite://me:hunter2@/db",
        "nothing://here/db?password=hunter2",
    ],
)
def test_a_password_is_never_shown(tmp_path: Path, plugins: Plugins, address: str) -> None:
    with pytest.raises(ConfigError) as error:
        Search(tmp_path / "search", plan(), plugins, storage=address)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "address", "message"),
    [
        ("psycopg", "postgresql+psycopg://me@here/db", r"pip install 'psycopg\[binary\]'"),
        ("MySQLdb", "mysql://me@here/db", "pip install mysqlclient"),
        ("pymysql", "mysql+pymysql://me@here/db", "pip install pymysql"),
    ],
)
def test_a_missing_driver_is_named_with_its_package(
    tmp_path: Path,
    plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    address: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"it needs {module}, which isn't installed: {message}"):
        Search(tmp_path / "search", plan(), plugins, storage=address)


def test_settings_that_need_each_other_can_be_searched_together(
    tmp_path: Path, plugins: Plugins
) -> None:
    space = {"r1_gamma": Choice(low=0, high=10), "r1_interval": Choice(choices=(1, 4))}
    search = Search(tmp_path / "search", plan(space=space), plugins)
    assert search.path.exists()


def test_higher_may_be_better(tmp_path: Path, plugins: Plugins) -> None:
    asked = plan(metric="precision", better="higher", space={"beta1": SPACE["beta1"]})
    search = Search(tmp_path / "search", asked, plugins)
    search.run(1)
    assert search.study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert 0 <= search.study.best_value <= 1


def interrupted(search: Search) -> optuna.trial.FrozenTrial:
    """The first trial, stopped by SIGINT as it is told its first score."""
    report = optuna.Trial.report

    def press(trial: optuna.Trial, value: float, step: int) -> None:
        report(trial, value, step)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Trial, "report", press)
        with pytest.raises(Interrupted):
            search.run(1)
    return search.study.get_trials()[0]


def test_an_interrupted_trial_is_not_done(search: Search) -> None:
    interrupted(search)
    search.run(2)
    assert states(search) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_an_interrupted_trial_is_begun_again(search: Search) -> None:
    stopped = interrupted(search)
    search.run(1)
    assert search.study.get_trials()[1].params == stopped.params


def killed(search: Search) -> None:
    """Begin the next trial, and leave it as a worker does that was killed long ago."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no heart beats outside of optimize
        trial = search.study.ask()
    trial.suggest_float("lr_G", 1e-4, 1e-2, log=True)
    search.study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined] # RDB's
    with sqlite3.connect(search.path / "study.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")


def test_the_trial_of_a_killed_worker_is_taken_up(search: Search) -> None:
    killed(search)
    search.run(1)
    lost, again = search.study.get_trials()
    assert (lost.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == {"lr_G": 0.0002, "beta1": 0.5}


def test_the_trial_of_a_killed_worker_is_not_running_once_the_search_is_concluded(
    search: Search,
) -> None:
    search.run(1)
    killed(search)
    search.conclude(0)
    assert TrialState.RUNNING not in states(search)


def test_a_trial_that_kills_its_workers_is_given_up(search: Search) -> None:
    search.study.enqueue_trial({}, user_attrs={"kills": 2})
    for _ in range(2):  # the first trial, and that one
        killed(search)
    search.run(1)
    assert states(search) == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


COMMAND = [
    *(sys.executable, "-m", "gan_core.cli", "search", "vanilla", "--data", "digits"),
    *("--trials", "6", "--kimg", "1.6", "--metric", "fid", "--seeds", "0"),
    "--set=widths=[8]",
]


SHORT = [
    *(sys.executable, "-m", "gan_core.cli", "search", "vanilla", "--data", "digits"),
    *("--trials", "1", "--kimg", "8", "--metric", "fid", "--seeds", "1"),
    *("--set=widths=[8]", "--set=batch_size=16", "--set=score_samples=16"),
]


def stopped(out: Path, awaited: str) -> tuple[int, str, str]:
    """What a search ends with that gets SIGINT once there is such a file in its folder."""
    command = [*SHORT, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _until(lambda: any(out.glob(awaited)), process)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=120)
    return process.returncode, said.decode(), complained.decode()


@pytest.mark.parametrize(
    ("awaited", "what"),
    [("trials/*/scores.jsonl", "trial"), ("repeats/*/scores.jsonl", "repeat")],
)
def test_a_stopped_search_says_so_in_one_line(tmp_path: Path, awaited: str, what: str) -> None:
    code, said, complained = stopped(tmp_path / "search", awaited)
    line = f"stopped; the {what} is begun again by whoever goes on with this search"
    assert (code, said.splitlines()[-1], complained) == (130, line, "")


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
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{out / 'study.db'}")
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
