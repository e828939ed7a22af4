"""What probes say of models beside whether they answer: what the repository on disk shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core.errors import ServiceError

from .repository import model_names, read, unloaded_names, way_back

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Remarks"]

UNREADABLE = "config.pbtxt on disk can't be read, what was loaded before goes on"


class Remarks:
    """Remarks on the models of a repository; each config.pbtxt is read once per change."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._readable: dict[str, tuple[int, bool]] = {}

    def __call__(self) -> dict[str, str]:
        """A remark by model, for those that are unloaded or whose config.pbtxt is broken."""
        broken = [name for name in model_names(self._repository) if not self._is_readable(name)]
        unloaded = unloaded_names(self._repository)
        return {
            **{name: f"unloaded: {way_back(name)}" for name in unloaded},
            **dict.fromkeys(broken, UNREADABLE),
        }

    def _is_readable(self, model: str) -> bool:
        try:
            changed_ns = (self._repository / model / "config.pbtxt").stat().st_ctime_ns
        except OSError:  # unloaded or removed just now
            return True
        known = self._readable.get(model)
        if known is None or known[0] != changed_ns:
            known = self._readable[model] = changed_ns, self._can_be_read(model)
        return known[1]

    def _can_be_read(self, model: str) -> bool:
        try:
            read(self._repository, model)
        except ServiceError:  # the log has why
            return False
        return True
