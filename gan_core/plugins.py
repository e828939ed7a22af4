"""Loading plugins so that a broken one harms nobody but itself.

pluggy's own entry-point loader stops at the first exception. Here every failure becomes a
value, and reaches the user where the missing thing is asked for.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import pluggy

from . import hookspecs
from .errors import ConfigError, PluginError, PublishError

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from .data import Dataset
    from .evaluation import FeatureExtractor
    from .metrics import Metric
    from .sources import Source
    from .variant import Variant

__all__ = ["PluginFailure", "PluginInfo", "Plugins"]

log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin that loaded."""

    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """What went wrong with a plugin, and when."""

    name: str
    distribution: str
    version: str
    stage: str
    """``name``, ``import``, ``hooks``, or the hook that failed."""
    error: str

    def __str__(self) -> str:
        where = "" if self.stage == "import" else f" ({self.stage})"
        return f"plugin {self.name!r} failed to load{where}: {self.error}"


class Plugins:
    """The installed plugins: what they provide, and what failed.

    Args:
        found: entry points of the group ``ganforge``; those of the environment by default.
    """

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self.failures: list[PluginFailure] = []
        self.loaded: list[PluginInfo] = []
        self._manager = pluggy.PluginManager(hookspecs.GROUP)
        self._manager.add_hookspecs(hookspecs)
        from . import builtin

        self._manager.register(builtin, name="builtin")
        if found is None:
            found = entry_points(group=hookspecs.GROUP)
        for entry in sorted(found, key=lambda e: (e.name, _distribution(e))):
            self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        if self._manager.has_plugin(entry.name):
            self._fail(entry, "name", f"another plugin is called {entry.name!r} already")
            return
        stage = "import"
        try:
            plugin = entry.load()
            stage = "hooks"
            self._manager.register(plugin, name=entry.name)
            self._manager.check_pending()
        except (Exception, SystemExit) as error:  # noqa: BLE001 a plugin's code: anything may come
            self._manager.unregister(name=entry.name)
            self._fail(entry, stage, _one_line(error))
        else:
            self.loaded.append(PluginInfo(entry.name, _distribution(entry), _version(entry)))

    def _fail(self, entry: EntryPoint, stage: str, error: str) -> None:
        self.failures.append(
            PluginFailure(entry.name, _distribution(entry), _version(entry), stage, error)
        )

    @cached_property
    def variants(self) -> Mapping[str, Variant]:
        """Every variant by name."""
        from .variant import Variant

        return self._provided("ganforge_variants", Variant)

    @cached_property
    def datasets(self) -> Mapping[str, Dataset]:
        """Every registered dataset by name."""
        from .data import Dataset

        return self._provided("ganforge_datasets", Dataset)

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric by name."""
        from .metrics import Metric

        return self._provided("ganforge_metrics", Metric)

    @cached_property
    def feature_extractors(self) -> Mapping[str, FeatureExtractor]:
        """Every feature extractor by name."""
        from .evaluation import FeatureExtractor

        return self._provided("ganforge_feature_extractors", FeatureExtractor)

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            PluginError: there is none; the message names the plugin at fault where one is.
        """
        if name in self.variants:
            return self.variants[name]
        for failure in self.failures:
            if failure.name == name:
                raise PluginError(f"variant {name!r} is not available: {failure}")
        raise PluginError(_unknown("variant", name, self.variants, self.failures))

    def pick(self, kind: str, name: str, available: Mapping[str, T]) -> T:
        """The one of that name from what plugins provide.

        Raises:
            PluginError: there is none; the message lists what there is.
        """
        if name not in available:
            raise PluginError(_unknown(kind, name, available, self.failures))
        return available[name]

    def add_commands(self, app: typer.Typer) -> None:
        """Let every plugin add its commands to the command line."""
        for _ in self._each("ganforge_commands", app=app):
            pass

    def implementations(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Each plugin's implementation of a hook, by the plugin's name."""
        return {
            self._manager.get_name(plugin) or "?": self._caller(hook, plugin)
            for plugin in self._implementers(hook)
        }

    def model_source(
        self, model: str, version: int | None, url: str, truncation: float | None = None
    ) -> Source:
        """Where the images of a published model come from.

        Raises:
            ConfigError: no plugin knows such an address, or the model isn't truncated like that.
            ServiceError: the server there can't be reached, or doesn't have the model.
        """
        for find in self.implementations("ganforge_model_source").values():
            for source in find(model=model, version=version, url=url, truncation=truncation):
                return cast("Source", source)
        raise ConfigError(f"{model!r} is no run and no .onnx file, and no plugin serves {url}")

    def publish(self, directory: Path, model: str, repository: Path) -> Path:
        """Publish an export (model.onnx and card.json) under a name; returns its version's folder.

        Raises:
            PublishError: the repository refuses it, or no plugin publishes.
        """
        from .card import ModelCard

        path: Path | None = self._manager.hook.ganforge_publish(
            directory=directory, model=model, repository=repository
        )
        if path is None:
            raise PublishError("no plugin publishes models: see 'ganforge plugins'")
        card = ModelCard.model_validate_json((path / "card.json").read_bytes())
        self.notify("ganforge_published", card=card, version=int(path.name), path=path)
        return path

    def notify(self, hook: str, **arguments: object) -> None:
        """Call an observer hook; an exception in one is logged and never ends a run."""
        for name, observe in self.implementations(hook).items():
            try:
                observe(**arguments)
            except (Exception, SystemExit):  # a plugin's code: a run must not end for an observer
                log.exception("plugin %r raised in %s", name, hook)

    def _provided(self, hook: str, kind: type[T]) -> Mapping[str, T]:
        provided: dict[str, T] = {}
        for plugin_name, results in self._each(hook):
            if not isinstance(results, list | tuple):
                self._failed_in(
                    plugin_name, hook, f"returned a {type(results).__name__}, not a list"
                )
                continue
            for item in results:
                if not isinstance(item, kind):
                    self._failed_in(
                        plugin_name,
                        hook,
                        f"returned a {type(item).__name__}, not a {kind.__name__}",
                    )
                elif item.name in provided:
                    self._failed_in(plugin_name, hook, f"{item.name!r} is provided already")
                else:
                    provided[item.name] = item
        return dict(sorted(provided.items()))

    def _each(self, hook: str, **arguments: object) -> Iterator[tuple[str, list[Any]]]:
        for name, implementation in self.implementations(hook).items():
            try:
                results = implementation(**arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001 a plugin's code: anything may come
                self._failed_in(name, hook, _one_line(error))
                continue
            for result in results:
                yield name, result

    def _implementers(self, hook: str) -> list[Any]:
        caller = getattr(self._manager.hook, hook)
        plugins = [implementation.plugin for implementation in caller.get_hookimpls()]
        return sorted(plugins, key=lambda plugin: self._manager.get_name(plugin) or "")

    def _caller(self, hook: str, plugin: Any) -> Any:
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        return self._manager.subset_hook_caller(hook, others)

    def _failed_in(self, plugin: str, hook: str, error: str) -> None:
        info = next((i for i in self.loaded if i.name == plugin), PluginInfo(plugin, "?", "?"))
        failure = PluginFailure(plugin, info.distribution, info.version, hook, error)
        if failure not in self.failures:
            self.failures.append(failure)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else "?"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"


def _unknown(
    kind: str, name: str, available: Iterable[str], failures: Iterable[PluginFailure]
) -> str:
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    text = f"no {kind} is called {name!r}{hint}; available: {', '.join(names) or 'none'}"
    failed = "; ".join(str(failure) for failure in failures)
    return f"{text}. Also, {failed}" if failed else text
