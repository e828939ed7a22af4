"""Where Optuna keeps a search's trials: a database, and what becomes of workers that die."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import optuna
from sqlalchemy.engine import create_engine, make_url

from .errors import ConfigError
from .spaces import one_line

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["address_shown", "open_storage"]

HEARTBEAT_S = 20
"""A worker that is silent for three of them is dead, and its trial is started anew."""
KILLS, MOST_KILLS = "kills", 3
"""A trial that was killed so often isn't begun again: it may be what kills its workers."""
DRIVERS = {
    "psycopg": "pip install 'psycopg[binary]'",
    "psycopg2": "pip install psycopg2-binary",
    "MySQLdb": "pip install mysqlclient, or write mysql+pymysql:// and pip install pymysql",
}
"""How to install what a missing module comes from, where its package has another name."""


def address_shown(storage: str) -> str:
    """A database's address as it may be shown: without its password and its options.

    Raises:
        ConfigError: it is none, or what speaks to such a database isn't installed.
    """
    try:
        url = make_url(storage)
    except Exception:  # noqa: BLE001 SQLAlchemy raises what it likes
        raise ConfigError(
            "--storage is no address of a database: it takes postgresql://USER:PASSWORD@HOST/NAME "
            "or mysql://…, with %40 for an @ in a password, and %2F for a /"
        ) from None  # the parser's message may hold a part of the password
    shown = url.set(query={}).render_as_string(hide_password=True)
    try:
        create_engine(url)  # connects to nothing yet
    except ModuleNotFoundError as error:
        how = DRIVERS.get(error.name or "", f"pip install {error.name}")
        raise ConfigError(
            f"can't open {shown}: it needs {error.name}, which isn't installed: {how}"
        ) from error
    except Exception as error:  # SQLAlchemy raises what it likes
        raise ConfigError(f"can't open {shown}: {one_line(error)}") from error
    return shown


def open_storage(url: str, shown: str) -> optuna.storages.RDBStorage:
    """The database at ``url``, which messages call ``shown``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=3 * HEARTBEAT_S,
                heartbeat_stale_trial_callback=_begin_again,
            )
    except Exception as error:  # SQLAlchemy raises what it likes
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if password := make_url(url).password:
            said = said.replace(str(password), "***")
        raise ConfigError(f"can't open {shown}: {said}") from error


def _begin_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial whose worker was killed, unless that happens to it again and again."""
    kills = trial.user_attrs.get(KILLS, 0) + 1
    if kills < MOST_KILLS:
        known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(known, user_attrs={KILLS: kills})
