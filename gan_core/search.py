"""Search for settings with Optuna: any number of workers share one study.

.. code-block:: text

    searches/NAME/
    ├── search.yaml       variant, data, metric, budget and space: what every worker keeps to
    ├── study.db          Optuna's study, unless it lies elsewhere (--storage)
    ├── trials/<number>/  a run each
    ├── repeats/<what>-<seed>/   the best and the default settings, from other seeds
    ├── best.yaml         for 'ganforge train --config'
    └── report.html

The first trial has the variant's own settings, where the space holds them, so what is found is
no worse than they are on that seed; whether it is better from others is what the repeats say.
"""

from __future__ import annotations

import json
import shutil
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .data import open_data
from .errors import ConfigError, GanforgeError
from .progress import Silent
from .report import write_search_report
from .run import read_rows
from .stopping import Interrupted
from .workflow import configured, start_run, train

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .plugins import Plugins
    from .variant import TrainConfig

__all__ = ["Choice", "Found", "Plan", "Search", "default_space", "read_space"]

DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
MEASUREMENTS = 8
"""Scores of a trial, the last at its end: a bad one is pruned by its earlier ones."""
WARMUP = 2
"""Measurements that no trial is judged by."""
HEARTBEAT_S = 20
"""A worker that is silent for three of them is dead, and its trial is started anew."""


class Choice(BaseModel):
    """The values that a setting may take: a range, or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    def __contains__(self, value: Any) -> bool:
        if self.low is None or self.high is None:
            return value in self.choices
        return bool(self.low <= value <= self.high)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value from Optuna."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(name, self.choices)
        whole = self.low == int(self.low) and self.high == int(self.high) and self.step is None
        if whole and not self.log and self.high - self.low >= 2:
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


Space = dict[str, Choice]


class Plan(BaseModel):
    """What all workers of a search agree on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    data: str
    metric: str
    better: Literal["lower", "higher"]
    kimg: float
    settings: dict[str, Any]
    """The same in every trial."""
    space: Space


def default_space(config: TrainConfig) -> Space:
    """Learning rates, betas, batch size and length of z, round those that a variant has."""
    space: Space = {}
    for name in ("lr_G", "lr_D"):
        if lr := getattr(config, name, None):
            space[name] = Choice(low=lr / 10, high=lr * 20, log=True)
    around = {
        "beta1": (0.0, 0.5, 0.9),
        "beta2": (0.9, 0.99, 0.999),
        "batch_size": (16, 32, 64, 128),
        "z_dim": (16, 32, 64, 128),
    }
    for name, values in around.items():
        if (own := getattr(config, name, None)) is not None:
            space[name] = Choice(choices=tuple(sorted({*values, own})))
    return space


def read_space(path: Path) -> Space:
    """A space from a YAML file: ``lr_G: {low: 1e-5, high: 1e-2, log: true}``, ``z_dim: [32, 64]``.

    Raises:
        ConfigError: it can't be read, or says something else.
    """
    try:
        document = yaml.safe_load(path.read_text())
        return {
            str(name): Choice(choices=tuple(given)) if isinstance(given, list) else Choice(**given)
            for name, given in document.items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} holds no space: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{path}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Found:
    """The best settings and what they came to."""

    settings: dict[str, Any]
    defaults: dict[str, Any]
    """The variant's own, of what was searched."""
    value: float
    repeated: dict[str, list[float]]
    """Values from other seeds, of the ``best`` settings and the ``default`` ones."""

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and sd over the seeds, where there are at least two."""
        return {
            what: (statistics.mean(values), statistics.stdev(values))
            for what, values in self.repeated.items()
            if len(values) > 1
        }


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class _Watched(Silent):
    """Reports a trial's scores to Optuna, and ends a trial that isn't worth its while."""

    def __init__(self, trial: optuna.Trial, plan: Plan) -> None:
        self.trial, self.metric, self.plan = trial, plan.metric, plan

    def score(self, kimg: float, scores: Mapping[str, float]) -> None:
        """Report, and prune."""
        # which measurement it is, not how many images: those depend on the batch size
        self.trial.report(scores[self.metric], int(kimg / self.plan.kimg * MEASUREMENTS + 1e-9))
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"{self.metric} {scores[self.metric]:.4g} at {kimg:g} kimg")


class Search:
    """One worker's view of a search in a folder.

    Args:
        path: the folder; made if it isn't there, else it must hold a search of the same plan.
        plan: what to search.
        plugins: where the variant comes from.
        storage: URL of a database for Optuna's study; a SQLite file in the folder if None.

    Raises:
        ConfigError: the folder holds another search, or the plan can't be carried out.
    """

    def __init__(
        self, path: Path, plan: Plan, plugins: Plugins, storage: str | None = None
    ) -> None:
        self.path, self.plan, self.plugins = path, plan, plugins
        self.variant = plugins.variant(plan.variant)
        _, self.images = open_data(plan.data, plan.settings.get("resolution_px"), plugins)
        self._check()
        self._agree()
        with FileLock(path / ".first.lock"):  # two workers would make the same tables
            self.study = self._study(storage or f"sqlite:///{(path / 'study.db').resolve()}")
            if not self.study.get_trials(deepcopy=False):
                own = self._defaults().items()
                known = {name: value for name, value in own if value in self.plan.space[name]}
                self.study.enqueue_trial(known)

    def _study(self, url: str) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # ``told`` says more in fewer words
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
                storage = optuna.storages.RDBStorage(
                    url,
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=3 * HEARTBEAT_S,
                    heartbeat_stale_trial_callback=retry,
                )
        except Exception as error:  # SQLAlchemy raises what it likes
            raise ConfigError(f"can't open {url}: {str(error).splitlines()[0]}") from error
        return optuna.create_study(
            storage=storage,
            study_name=self.path.name,
            direction="minimize" if self.plan.better == "lower" else "maximize",
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=WARMUP),
            load_if_exists=True,
        )

    def run(self, trials: int, told: Callable[[FrozenTrial], None] = lambda trial: None) -> None:
        """Work until so many trials are done, by whomever.

        Raises:
            Interrupted: SIGINT or SIGTERM came; its trial counts as failed.
        """
        enough = optuna.study.MaxTrialsCallback(trials, states=DONE)
        if len(self.study.get_trials(deepcopy=False, states=DONE)) >= trials:
            return
        self.study.optimize(
            self._objective,
            callbacks=[enough, lambda _, trial: told(trial)],
            catch=(GanforgeError,),
        )

    def told(self, trial: FrozenTrial) -> str:
        """A line on a trial that has ended."""
        params = "  ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
        match trial.state:
            case TrialState.COMPLETE:
                best = "  best so far" if trial.number == self.study.best_trial.number else ""
                outcome = f"{self.plan.metric} {trial.value:.4g}{best}"
            case TrialState.PRUNED:
                outcome = f"pruned after {(trial.last_step or 0) / MEASUREMENTS:.0%}"
            case _:
                outcome = "failed"
        return f"trial {trial.number}: {outcome}  ({params})"

    def conclude(self, seeds: int, told: Callable[[str], None] = lambda text: None) -> Found | None:
        """Repeat the best and the default settings from so many other seeds, and write best.yaml.

        None if no trial was completed, or if another worker is at it.
        """
        try:
            lock = FileLock(self.path / ".conclude.lock", timeout=0)
            lock.acquire()
        except Timeout:
            return None
        with lock:
            completed = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if not completed:
                return None
            best = self.study.best_trial
            settings = {**self.plan.settings, **best.params}
            repeated: dict[str, list[float]] = {"best": [], "default": []}
            for seed in range(1, seeds + 1):
                for what, chosen in (("best", best.params), ("default", self._defaults())):
                    value = self._repeated(what, chosen, seed)
                    told(f"{what} settings, seed {seed}: {self.plan.metric} {value:.4g}")
                    repeated[what].append(value)
            found = Found(settings, self._defaults(), float(best.value or 0.0), repeated)
            self._write_best(found)
            write_search_report(self.study, self.plan, found, self.path / "report.html")
            return found

    def _check(self) -> None:
        """Every value of the space is one that the variant takes."""
        unknown = self.plan.space.keys() - self.variant.config.model_fields.keys()
        if unknown:
            raise ConfigError(
                f"{self.variant.name} has no setting {min(unknown)!r} "
                f"('ganforge config {self.variant.name}' lists them)"
            )
        if fixed := self.plan.space.keys() & self.plan.settings.keys():
            raise ConfigError(f"{min(fixed)!r} is both set and searched: say one")
        configured(self.variant, self._settings(self._defaults()), self.images)

    def _agree(self) -> None:
        """Write the plan, or make sure that it is the one which others keep to."""
        self.path.mkdir(parents=True, exist_ok=True)
        written = self.path / "search.yaml"
        with FileLock(self.path / ".first.lock"):
            if not written.exists():
                document = self.plan.model_dump(mode="json", exclude_defaults=True)
                written.write_text(yaml.safe_dump(document, sort_keys=False))
                return
        theirs = Plan.model_validate(yaml.safe_load(written.read_text()))
        if theirs != self.plan:
            ours, other = self.plan.model_dump(), theirs.model_dump()
            different = ", ".join(name for name in ours if ours[name] != other[name])
            raise ConfigError(f"{written} is of another search ({different}): choose another --out")

    def _defaults(self) -> dict[str, Any]:
        """The variant's own value of everything that is searched."""
        fields = self.variant.config.model_fields
        return {name: fields[name].get_default() for name in self.plan.space}

    def _settings(self, chosen: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        return {
            "sample_kimg": self.plan.kimg,
            "checkpoint_kimg": self.plan.kimg,
            "score_kimg": self.plan.kimg / MEASUREMENTS,
            "score_metrics": (self.plan.metric,),
            **self.plan.settings,
            **chosen,
            "kimg": self.plan.kimg,
            "seed": seed,
        }

    def _objective(self, trial: optuna.Trial) -> float:
        chosen = {name: choice.suggest(trial, name) for name, choice in self.plan.space.items()}
        path = self.path / "trials" / f"{trial.number:04}"
        try:
            return self._trained(path, self._settings(chosen), _Watched(trial, self.plan))
        except Interrupted:
            self.study.enqueue_trial(trial.params)  # for whoever goes on
            raise

    def _repeated(self, what: str, chosen: Mapping[str, Any], seed: int) -> float:
        path = self.path / "repeats" / f"{what}-{seed}"
        settings = self._settings(chosen, seed)
        noted = path / "settings.json"
        if noted.exists() and noted.read_text() == json.dumps(settings):
            return float(list(read_rows(path / "scores.jsonl"))[-1][self.plan.metric])
        value = self._trained(path, settings, Silent())
        noted.write_text(json.dumps(settings))
        return value

    def _trained(self, path: Path, settings: Mapping[str, Any], progress: Silent) -> float:
        """The last score of a run in that folder; what an earlier attempt left is removed."""
        shutil.rmtree(path, ignore_errors=True)
        run, images = start_run(path, self.variant, self.plan.data, settings, self.plugins)
        train(run, images, self.plugins, progress)
        return float(list(read_rows(run.scores))[-1][self.plan.metric])

    def _write_best(self, found: Found) -> None:
        lines = [f"# {self.plan.metric} {found.value:.4g} after {self.plan.kimg:g} kimg, seed 0"]
        lines += [
            f"# {what} settings, {len(found.repeated[what])} other seeds: {mean:.4g} ± {sd:.2g}"
            for what, (mean, sd) in found.summary().items()
        ]
        settings = yaml.safe_dump(found.settings, sort_keys=False)
        (self.path / "best.yaml").write_text("\n".join([*lines, settings]))
