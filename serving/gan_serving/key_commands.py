"""``ganforge keys``: make the API keys of a server, list them, take them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from .keys import Key

__all__ = ["app"]

app = typer.Typer(name="keys", help="API keys: make, list, revoke them.", no_args_is_help=True)

File = Annotated[Path, typer.Option(help="The keys' file, for 'ganforge serve' to read.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
DEFAULT_FILE = Path("keys.yaml")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits, '.', '_', '-'.")],
    *,
    models: Annotated[
        str | None, typer.Option(metavar="A,B*", help="Models it is for; all by default.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="600/minute", help="Images per time; any by default.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests in flight at once; any by default.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May change what is served.")] = False,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days that it lasts; no end by default.")
    ] = None,
    file: File = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it this one time: only its hash is kept.

    A second key of the same name shares its rate: make it, hand it out, revoke the first. Running
    servers know of both within a second.

    Example: ganforge keys new mobile --models 'digits_*' --rate 600/minute --concurrency 8
    """
    from .keys import Caller, add_key

    patterns = None if models is None else tuple(one.strip() for one in models.split(","))
    caller = Caller(name, patterns, admin, rate, concurrency)
    text, key = add_key(file, caller, _in_days(expires_days))
    typer.echo(json.dumps({"key": text, **_shown(key)}) if as_json else text)
    typer.echo(f"key {key.id} of {name} is in {file}; it can't be shown again", err=True)


@app.command(name="list")
def list_keys(*, file: File = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """List the keys of a file, without what would let anybody in.

    Example: ganforge keys list --file keys.yaml --json
    """
    from rich.table import Table

    from .commands import print_table
    from .keys import read_keys

    keys = [_shown(key) for key in read_keys(file)]
    if as_json:
        typer.echo(json.dumps(keys))
        return
    columns = ("id", "name", "models", "rate", "concurrency", "admin", "created", "expires")
    table = Table()
    for column in columns:  # what 'revoke' asks for is never cut short
        table.add_column(column, no_wrap=column == "id", overflow="fold")
    for key in keys:
        table.add_row(*(_cell(column, key[column]) for column in columns))
    print_table(table)


@app.command()
def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="See 'ganforge keys list'.")],
    *,
    file: File = DEFAULT_FILE,
) -> None:
    """Take a key back; running servers refuse it within a second.

    Example: ganforge keys revoke 3f9c0a61b27e
    """
    from .keys import revoke_key

    key = revoke_key(file, identity)
    typer.echo(f"key {key.id} of {key.name} is revoked")


def _in_days(days: int | None) -> datetime | None:
    from datetime import UTC, datetime, timedelta

    if days is None:
        return None
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def _shown(key: Key) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"sha256"})


def _cell(column: str, value: object) -> str:
    match value:
        case None:
            return {"models": "all", "expires": "never"}.get(column, "any")
        case bool():
            return "yes" if value else ""
        case list():
            return ", ".join(map(str, value)) or "none"
        case str() if column in ("created", "expires"):
            return value[:10]
        case _:
            return str(value)
