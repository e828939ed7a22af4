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

import hashlib
import json
import math
import random
import shutil
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
import yaml
from accelerate import Accelerator
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, ValidationError

from .data import open_training
from .errors import ConfigError, GanforgeError
from .live import scorer_of
from .progress import Silent
from .report import write_search_report
from .run import Run, read_rows
from .spaces import EXAMPLE, Space, explained, number_of, one_line
from .stopping import Interrupted
from .studies import address_shown, open_storage
from .workflow import absolute, built, configured, start_run, train

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from .plugins import Plugins

__all__ = ["Found", "Plan", "Search"]

DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
REASON = "reason"
"""Attribute of a trial that failed by itself, and of no other: why. One without it was stopped."""
OWN = ("kimg", "seed", "score_kimg", "score_metrics")
"""Settings that are the search's own."""
MIXTURES = 32
"""Random mixtures of the space's ends that a value is tried with before it is refused."""
MEASUREMENTS = 8
"""Scores of a trial, the last at its end: a bad one is pruned by its earlier ones."""
WARMUP = 2
"""Measurements that no trial is judged by."""


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

    def document(self) -> dict[str, Any]:
        """The same as plain values, as a file or a database keeps it."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Eight hex digits that another plan doesn't have."""
        text = json.dumps(self.document(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What two plans don't agree on, in words; "" if they do."""
    found = []
    for name in ours:
        a, b = theirs.get(name), ours[name]
        if a != b and isinstance(a, dict) and isinstance(b, dict):
            keys = {key for key in {*a, *b} if (key in a, a.get(key)) != (key in b, b.get(key))}
            found.append(f"{name}: {', '.join(sorted(keys))}")
        elif a != b:
            found.append(f"{name} {a}, not {b}")
    return "; ".join(found)


def _write(path: Path, text: str) -> None:
    """The whole file, or none of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


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
        # which measurement it is, not how many images: those depend on the batch size, and a
        # large one overshoots the budget
        step = min(MEASUREMENTS, int(kimg / self.plan.kimg * MEASUREMENTS + 1e-9))
        self.trial.report(scores[self.metric], step)
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
        self._check_names()
        fields = self.variant.config.model_fields
        self.numbers = {name: number_of(fields[name].annotation) for name in plan.space}
        _, self.images = open_training(plan.data, plan.settings.get("resolution_px"), plugins)
        self._check_space()
        self._check_metric()
        shown = str(path / "study.db") if storage is None else address_shown(storage)
        self._agree()
        with FileLock(path / ".first.lock"):  # two workers would make the same tables
            url = storage or f"sqlite:///{(path / 'study.db').resolve()}"
            self.study = self._study(url, shown)
            if not self.study.get_trials(deepcopy=False):
                own = self._defaults().items()
                known = {name: value for name, value in own if value in self.plan.space[name]}
                self.study.enqueue_trial(known)

    def _study(self, url: str, shown: str) -> optuna.Study:
        """The study of this plan: another of the same folder's name is another study."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # ``told`` says more in fewer words
        study = optuna.create_study(
            storage=open_storage(url, shown),
            study_name=f"{self.path.resolve().name}-{self.plan.digest()}",
            direction="minimize" if self.plan.better == "lower" else "maximize",
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=WARMUP),
            load_if_exists=True,
        )
        ours = self.plan.document()
        theirs = study.user_attrs.get("plan")
        if theirs is None:
            study.set_user_attr("plan", ours)
        elif different := _differences(theirs, ours):
            raise ConfigError(
                f"the study {study.study_name} in {shown} is of another search ({different}): "
                "choose another --out"
            )
        return study

    def run(self, trials: int, told: Callable[[FrozenTrial], None] = lambda trial: None) -> None:
        """Work until so many trials are done, by whomever.

        One that was interrupted or killed isn't done: it is begun again.

        Raises:
            Interrupted: SIGINT or SIGTERM came.
        """

        def ended(study: optuna.Study, trial: FrozenTrial) -> None:
            told(trial)
            if self._done() >= trials:
                study.stop()

        self._take_up()
        if self._done() < trials:
            self.study.optimize(self._objective, callbacks=[ended], catch=(GanforgeError,))

    def _done(self) -> int:
        """How many trials were completed, pruned, or failed by themselves."""
        found = self.study.get_trials(deepcopy=False, states=DONE)
        return sum(trial.state != TrialState.FAIL or REASON in trial.user_attrs for trial in found)

    def _take_up(self) -> None:
        """Queue the trials whose workers are dead."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)

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
                outcome = f"failed: {trial.user_attrs.get(REASON, 'it was stopped')}"
        return f"trial {trial.number}: {outcome}  ({params})"

    def conclude(self, seeds: int, told: Callable[[str], None] = lambda text: None) -> Found | None:
        """Repeat the best and the default settings from so many other seeds.

        best.yaml and report.html are written before and afterwards. None if another worker is at
        it.

        Raises:
            ConfigError: no trial was completed.
            Interrupted: SIGINT or SIGTERM came.
        """
        try:
            lock = FileLock(self.path / ".conclude.lock", timeout=0)
            lock.acquire()
        except Timeout:
            return None
        with lock:
            self._take_up()
            best = self._best()
            settings = {**self.plan.settings, **best.params}
            repeated: dict[str, list[float]] = {"best": [], "default": []}
            found = Found(settings, self._defaults(), float(best.value or 0.0), repeated)
            self._write_found(found)  # a kill in the repeats leaves it
            for seed in range(1, seeds + 1):
                for what, chosen in (("best", best.params), ("default", found.defaults)):
                    value = self._repeated(what, chosen, seed)
                    told(f"{what} settings, seed {seed}: {self.plan.metric} {value:.4g}")
                    repeated[what].append(value)
            self._write_found(found)
            return found

    def _best(self) -> FrozenTrial:
        if self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return self.study.best_trial
        trials = self.study.get_trials(deepcopy=False)
        reasons = [trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs]
        last = f"; the last one failed: {reasons[-1]}" if reasons else ""
        raise ConfigError(f"{self.path}: none of {len(trials)} trials was completed{last}")

    def _check_names(self) -> None:
        """What is searched are settings of the variant, and nobody else's."""
        if not self.plan.space:
            raise ConfigError(f"nothing is left to search, the space is empty: {EXAMPLE}")
        unknown = self.plan.space.keys() - self.variant.config.model_fields.keys()
        if unknown:
            raise ConfigError(
                f"{self.variant.name} has no setting {min(unknown)!r} "
                f"('ganforge config {self.variant.name}' lists them)"
            )
        if fixed := self.plan.space.keys() & self.plan.settings.keys():
            raise ConfigError(f"{min(fixed)!r} is both set and searched: say one")
        if own := {*self.plan.space, *self.plan.settings} & set(OWN):
            raise ConfigError(f"{min(own)!r} is the search's own, as are {', '.join(OWN)}")
        if "resolution_px" in self.plan.space:
            raise ConfigError("resolution_px can't be searched: scores of two sides don't compare")

    def _check_space(self) -> None:
        """The variant's own settings, and every end and choice, are ones that it takes."""
        configured(self.variant, self._settings(self._defaults()), self.images)
        ends: dict[str, tuple[Any, ...]] = {}
        for name, choice in self.plan.space.items():
            try:
                ends[name] = choice.ends(self.numbers[name])
            except ValueError as error:
                raise ConfigError(f"{name} of the space: {error}") from error
        mixtures = self._mixtures(ends)
        for name, values in ends.items():
            for value in values:
                self._check_possible(name, value, mixtures)

    def _mixtures(self, ends: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
        """What a trial may have: first what is as usual as the space allows, then random ends."""
        own, rng = self._defaults(), random.Random(0)  # noqa: S311 no secret
        usual = {
            name: own[name] if own[name] in self.plan.space[name] else values[0]
            for name, values in ends.items()
        }
        drawn = (
            {name: rng.choice(values) for name, values in ends.items()} for _ in range(MIXTURES)
        )
        return [usual, *drawn]

    def _check_possible(self, name: str, value: Any, mixtures: list[dict[str, Any]]) -> None:
        """Whether one value goes with another is the variant's to say: it needs one mixture."""
        first: ConfigError | None = None
        for mixture in mixtures:
            try:
                configured(self.variant, self._settings({**mixture, name: value}), self.images)
            except ConfigError as error:
                first = first or error
            else:
                return
        raise ConfigError(f"no trial can have {name} {value!r} of the space: {first}") from first

    def _check_metric(self) -> None:
        """Score what is untrained, as trials are going to be: what can't work is known now."""
        metric = self.plugins.pick("metric", self.plan.metric, self.plugins.metrics)
        if "path" in metric.needs:
            raise ConfigError(
                f"{metric.name} is measured of a finished run, not of one that trains: choose "
                "another --metric"
            )
        config = configured(self.variant, self._settings(self._defaults()), self.images)
        named = Path(self.variant.name)  # what the scorer's messages call it; nothing is written
        run = Run(named, self.variant, absolute(self.plan.data), self.images.source, config)
        generator = built(run, Accelerator()).generator().eval()
        if scorer := scorer_of(run, self.images, self.plugins):
            scorer(self.variant.served(generator, config))

    def _agree(self) -> None:
        """Write the plan, or make sure that it is the one which others keep to."""
        written = self.path / "search.yaml"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / ".first.lock"):
                if not written.exists():
                    document = self.plan.model_dump(mode="json", exclude_defaults=True)
                    _write(written, yaml.safe_dump(document, sort_keys=False))
        except OSError as error:
            raise ConfigError(f"can't write to {self.path}: {error}") from error
        theirs = self._written(written)
        if different := _differences(theirs.document(), self.plan.document()):
            raise ConfigError(f"{written} is of another search ({different}): choose another --out")
        self.plan = theirs  # to the letter: 1 and 1.0 are the same, and their digests aren't

    def _written(self, path: Path) -> Plan:
        try:
            return Plan.model_validate(yaml.safe_load(path.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} can't be read: {one_line(error)}") from error
        except ValidationError as error:
            raise ConfigError(
                f"{path} is damaged ({explained(error)}): remove it, and the next worker writes it"
            ) from error

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
        try:
            return self._tried(trial)
        except (Interrupted, KeyboardInterrupt):
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            raise
        except GanforgeError as error:
            trial.set_user_attr(REASON, one_line(error))
            raise

    def _tried(self, trial: optuna.Trial) -> float:
        chosen = {
            name: choice.suggest(trial, name, self.numbers[name])
            for name, choice in self.plan.space.items()
        }
        path = self.path / "trials" / f"{trial.number:04}"
        value = self._trained(path, self._settings(chosen), _Watched(trial, self.plan))
        if math.isnan(value):
            raise ConfigError(f"{self.plan.metric} is no number")
        return value

    def _repeated(self, what: str, chosen: Mapping[str, Any], seed: int) -> float:
        path = self.path / "repeats" / f"{what}-{seed}"
        settings = self._settings(chosen, seed)
        noted = path / "settings.json"
        if noted.exists() and noted.read_text() == json.dumps(settings):
            return float(list(read_rows(path / "scores.jsonl"))[-1][self.plan.metric])
        value = self._trained(path, settings, Silent())
        _write(noted, json.dumps(settings))
        return value

    def _trained(self, path: Path, settings: Mapping[str, Any], progress: Silent) -> float:
        """The last score of a run in that folder; what an earlier attempt left is removed."""
        shutil.rmtree(path, ignore_errors=True)
        run, images = start_run(path, self.variant, self.plan.data, settings, self.plugins)
        train(run, images, self.plugins, progress)
        return float(list(read_rows(run.scores))[-1][self.plan.metric])

    def _write_found(self, found: Found) -> None:
        """best.yaml and report.html."""
        lines = [f"# {self.plan.metric} {found.value:.4g} after {self.plan.kimg:g} kimg, seed 0"]
        lines += [
            f"# {what} settings, {len(found.repeated[what])} other seeds: {mean:.4g} ± {sd:.2g}"
            for what, (mean, sd) in found.summary().items()
        ]
        settings = yaml.safe_dump(found.settings, sort_keys=False)
        _write(self.path / "best.yaml", "\n".join([*lines, settings]))
        write_search_report(self.study, self.plan, found, self.path / "report.html")
