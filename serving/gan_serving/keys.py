"""API keys at rest, and who it is that shows one.

A key is ``gf_<id>_<secret>``; its file knows the sha256 alone. A slow password hash would add
nothing: it is there for secrets that can be guessed, and the 256 random bits of these can't be.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from filelock import FileLock, Timeout
from limits import RateLimitItem, parse_many
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gan_core.errors import ConfigError, Unauthenticated

__all__ = [
    "ANYBODY",
    "Caller",
    "Key",
    "Keyring",
    "add_key",
    "parse_rate",
    "read_keys",
    "revoke_key",
]

log = logging.getLogger(__name__)

TEXT = re.compile(r"gf_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
NO_DIGEST = "0" * 64
LOOK_S = 1.0
LOCK_S = 10.0
HEADER = "# Written by 'ganforge keys'. Keys themselves can't be found here: only their sha256.\n"
UNKNOWN = "this API key isn't known here: it was mistyped, revoked, or made for another server"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what its key is good for."""

    name: str
    """Rates and requests in flight are counted by it, whichever of its keys is shown."""
    models: tuple[str, ...] | None = None
    """Patterns as of ``fnmatch``, such as ``digits_*``; None = every model."""
    admin: bool = False
    """Whether it may use the routes that change what is served."""
    rate: str | None = None
    """Images per time, as the ``limits`` library writes it: ``600/minute``; None = no end."""
    concurrency: int | None = None
    """Requests in flight at once, per server process; None = any number."""

    def may_use(self, model: str) -> bool:
        """Whether the key is for that model."""
        return self.models is None or any(fnmatchcase(model, one) for one in self.models)


ANYBODY = Caller("anybody")
"""Who asks a server that has no keys."""


@lru_cache(maxsize=1024)
def parse_rate(text: str) -> RateLimitItem:
    """One rate, such as ``600/minute`` or ``5 per 10 seconds``.

    Raises:
        ValueError: it isn't one.
    """
    accepted = "accepted is e.g. '10/second' or '100 per minute'"
    try:
        (rate,) = parse_many(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a rate; {accepted}") from error
    if rate.amount < 1:
        raise ValueError(f"{text!r} lets nothing through; {accepted}")
    return rate


def _rate(text: str) -> str:
    parse_rate(text)
    return text


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not 1 to 64 letters a-z or A-Z, digits, '.', '_' or '-'")
    return text


class Key(BaseModel):
    """One key at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    """Which key it is, to be shown and spoken of freely."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """Of the whole key, in hex."""
    name: Annotated[str, AfterValidator(_name)]
    """Whose it is; while a key is replaced by a new one, both have the same name."""
    models: tuple[Annotated[str, Field(pattern=r"^[!-~]+$")], ...] | None = None
    """See ``Caller``, as of the rest."""
    admin: bool = False
    rate: Annotated[str, AfterValidator(_rate)] | None = None
    concurrency: int | None = Field(default=None, ge=1)
    created: AwareDatetime
    """UTC."""
    expires: AwareDatetime | None = None
    """UTC; None = never."""

    @property
    def caller(self) -> Caller:
        """Who shows it."""
        return Caller(self.name, self.models, self.admin, self.rate, self.concurrency)


def _once_each(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        if first.setdefault(key.id, place) != place:
            raise ValueError(f"[{place}].id: {key.id} is that of [{first[key.id]}] already")
    return keys


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: Annotated[tuple[Key, ...], AfterValidator(_once_each)]


class _Plain(yaml.SafeLoader):
    """YAML without aliases (bombs), tags (objects) and fields given twice (the last would win)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in its stubs
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise _refusal("aliases and tags are not accepted", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  its signature
        seen = set()
        for field, _ in node.value:
            if str(field.value) in seen:
                raise _refusal("a field is given twice", field)
            seen.add(str(field.value))
        return super().construct_mapping(node, deep)


def _refusal(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    mark: Any = at.start_mark  # its stubs think of the C loader's too
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        ConfigError: there is no such file, others than its owner may read it (or the group that
            root lends it to), or it holds something else than keys; the message names the line
            or field, and quotes no hash.
    """
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            content = file.read()
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no file of keys {path}: 'ganforge keys new NAME --file {path}' makes one"
        ) from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    try:
        document = _Plain(content).get_single_data()
        if not isinstance(document, dict):
            raise ConfigError(f"{path} has no 'keys:'")
        return _Document.model_validate(document).keys
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(TEXT.sub("gf_…", f"{path}: {_reason(error)}")) from error


def _check_private(path: Path, found: os.stat_result) -> None:
    # root may lend its file to a group, as PostgreSQL lets it: a Kubernetes secret is root's, 0440
    lent = found.st_uid == 0 != os.geteuid()
    if (mode := found.st_mode) & (0o037 if lent else 0o077):
        raise ConfigError(
            f"others can read {path} (mode {mode & 0o777:03o}): chmod 600 {path}, and if they "
            "should not have, replace its keys"
        )


def _reason(error: Exception) -> str:
    """Where and what, without the line itself: it may be that of a hash."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, ValidationError):
        (found, *_) = error.errors(include_url=False, include_input=False)
        where = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in found["loc"])
        given = found["msg"].removeprefix("Value error, ")
        return f"{where.lstrip('.') or 'the file'}: {given}"
    return "it is not plain YAML"


def add_key(path: Path, caller: Caller, expires: datetime | None = None) -> tuple[str, Key]:
    """Make a key for a caller and add it to a file, which is created where there is none.

    Returns the key itself, this one time that it can be read, and what is kept of it.

    Raises:
        ConfigError: a field is out of range, or the file can't be used.
    """
    identity = secrets.token_hex(6)
    text = f"gf_{identity}_{secrets.token_urlsafe(32)}"
    try:
        key = Key(
            id=identity,
            sha256=_digest(text),
            name=caller.name,
            models=caller.models,
            admin=caller.admin,
            rate=caller.rate,
            concurrency=caller.concurrency,
            created=_now().replace(microsecond=0),
            expires=expires,
        )
    except ValidationError as error:
        raise ConfigError(_reason(error)) from error
    with _locked(path) as target:
        known = read_keys(target) if target.exists() else ()
        _write(target, [*known, key])
    return text, key


def revoke_key(path: Path, identity: str) -> Key:
    """Take a key out of a file, by its id.

    Raises:
        ConfigError: there is no such key, or the file can't be used.
    """
    with _locked(path) as target:
        known = {key.id: key for key in read_keys(target)}
        revoked = known.pop(identity, None)
        if revoked is None:
            ids = ", ".join(known) or "none"
            raise ConfigError(f"{path} has no key of the id {identity!r}; it has: {ids}")
        _write(target, known.values())
    return revoked


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """The file itself where ``path`` is a link, for this command alone."""
    target = path.resolve()
    try:
        with FileLock(target.with_name(f"{target.name}.lock"), timeout=LOCK_S):
            yield target
    except Timeout as error:
        raise ConfigError(f"another command has held {path} for {LOCK_S:g} s") from error
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error


def _write(path: Path, keys: Iterable[Key]) -> None:
    """All or nothing, whatever happens meanwhile; the file stays its owner's."""
    document = _Document(keys=tuple(keys)).model_dump(mode="json", exclude_none=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(HEADER + yaml.safe_dump(document, sort_keys=False))
            file.flush()
            os.fsync(descriptor)
            if path.exists() and (before := path.stat()).st_uid != os.geteuid():
                os.fchown(descriptor, before.st_uid, before.st_gid)  # root works for a server
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Keyring:
    """Tells whose a key is; follows its file, so that keys come and go without a restart.

    A file that turns unreadable or invalid leaves the keys known before in force, and says so
    in the log once.

    Args:
        path: the file.
        clock: seconds that pass; the file is looked at once in ``LOOK_S`` of them.
        now: the time, by which keys expire.

    Raises:
        ConfigError: the file can't be used; see ``read_keys``.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now or _now
        self._stamp = _stamp(path)
        self._looked_at = clock()
        self._keys = {key.id: key for key in read_keys(path)}

    def caller(self, token: str | None) -> Caller:
        """Whose key that is.

        Raises:
            Unauthenticated: there is none, it isn't known, or its time is over; which half of
                it is wrong, nobody learns.
        """
        self.follow()
        if not token:
            raise Unauthenticated("there is no API key: send 'Authorization: Bearer gf_…'")
        parts = TEXT.fullmatch(token)
        key = self._keys.get(parts[1]) if parts else None
        # an unknown id costs as much time as a wrong secret
        same = bool(parts) and hmac.compare_digest(_digest(token), key.sha256 if key else NO_DIGEST)
        if key is None or not same:
            raise Unauthenticated(UNKNOWN)
        if key.expires and key.expires <= self._now():
            raise Unauthenticated(f"the API key gf_{key.id}_… expired at {key.expires.isoformat()}")
        return key.caller

    @property
    def has_rates(self) -> bool:
        """Whether any key has a rate."""
        return any(key.rate for key in self._keys.values())

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the file again."""
        return not 0 <= self._clock() - self._looked_at < LOOK_S  # a clock may go back

    def follow(self) -> None:
        """Read the file again if it changed; hundreds of keys take a while, ``caller`` waits."""
        if not self.is_due:
            return
        self._looked_at = self._clock()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = {key.id: key for key in read_keys(self._path)}
        except ConfigError as error:
            log.error("%s. The keys known before stay in force", error)  # noqa: TRY400  a traceback quotes lines
        else:
            log.info("%s was read again: %d keys", self._path, len(self._keys))


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes whenever the file does: another content, another file, other permissions."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)
