"""``ganforge keys``, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner, Result

from gan_core.errors import ConfigError
from gan_serving.key_commands import app
from gan_serving.keys import Caller, Keyring, read_keys

ganforge = typer.Typer()
ganforge.add_typer(app)


def keys(*arguments: str | Path) -> Result:
    """Runs ``ganforge keys`` to its end."""
    return CliRunner().invoke(ganforge, ["keys", *map(str, arguments)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


@pytest.mark.parametrize("command", ["new", "list", "revoke"])
def test_each_commands_help_has_an_example(command: str) -> None:
    done = keys(command, "--help")
    assert done.exit_code == 0
    assert f"Example: ganforge keys {command}" in done.stdout


def test_new_prints_the_key_alone_and_says_that_it_is_the_last_time(path: Path) -> None:
    done = keys("new", "mobile", "--file", path)
    assert Keyring(path).caller(done.stdout.removesuffix("\n")) == Caller("mobile")
    assert "it can't be shown again" in done.stderr


def test_new_prints_json_for_machines(path: Path) -> None:
    done = keys("new", "mobile", "--file", path, "--json")
    made = json.loads(done.stdout)
    assert Keyring(path).caller(made["key"]) == Caller("mobile")
    assert made["id"] == read_keys(path)[0].id
    assert "sha256" not in made
    assert "it can't be shown again" in done.stderr


def test_every_option_reaches_the_key(path: Path) -> None:
    options = ("--models", "a, b*", "--rate", "600/minute", "--concurrency", "8", "--admin")
    keys("new", "mobile", *options, "--file", path)
    expected = Caller("mobile", ("a", "b*"), admin=True, rate="600/minute", concurrency=8)
    assert read_keys(path)[0].caller == expected


def test_a_key_lasts_the_days_that_it_is_given(path: Path) -> None:
    keys("new", "mobile", "--expires-days", "30", "--file", path)
    expires = read_keys(path)[0].expires
    assert expires is not None
    assert abs(expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)


@pytest.mark.parametrize("models", ["", "a,,b", ","])
def test_no_model_at_all_is_not_taken_for_every_model(path: Path, models: str) -> None:
    done = keys("new", "mobile", "--models", models, "--file", path)
    assert isinstance(done.exception, ConfigError)
    assert not path.exists()


def test_list_prints_a_table_without_hashes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    keys("new", "mobile", "--models", "a,b*", "--admin", "--file", path)
    (key,) = read_keys(path)
    done = keys("list", "--file", path)
    for cell in (key.id, "mobile", "a, b*", "any", "yes", "never"):
        assert cell in done.stdout
    assert key.sha256 not in done.stdout


def test_however_narrow_the_terminal_the_id_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "60")
    options = ("--models", "digits_*,faces", "--rate", "600/minute", "--expires-days", "30")
    keys("new", "a-rather-long-name", *options, "--file", path)
    table = click.unstyle(keys("list", "--file", path).stdout)
    assert read_keys(path)[0].id in table
    assert max(map(len, table.splitlines())) <= 60


def test_where_no_terminal_is_a_row_is_one_line(path: Path) -> None:
    models = ",".join(f"a_model_of_a_long_name_{i}" for i in range(9))
    keys("new", "mobile", "--models", models, "--file", path)
    (row,) = (line for line in keys("list", "--file", path).stdout.splitlines() if "mobile" in line)
    assert models.replace(",", ", ") in row


def test_list_prints_json_for_machines(path: Path) -> None:
    keys("new", "mobile", "--rate", "1/day", "--file", path)
    (entry,) = json.loads(keys("list", "--file", path, "--json").stdout)
    assert (entry["name"], entry["rate"], entry["models"]) == ("mobile", "1/day", None)
    assert "sha256" not in entry


def test_revoke_takes_a_key_back(path: Path) -> None:
    keys("new", "mobile", "--file", path)
    (key,) = read_keys(path)
    done = keys("revoke", key.id, "--file", path)
    assert done.stdout == f"key {key.id} of mobile is revoked\n"
    assert read_keys(path) == ()


FAILURES = {
    "name": (["new", "ü"], "name: 'ü' is not 1 to 64 letters a-z"),
    "rate": (["new", "a", "--rate", "fast"], "rate: 'fast' is not a rate"),
    "no file": (["list"], "there is no file of keys"),
    "no file to revoke in": (["revoke", "0123456789ab"], "there is no file of keys"),
}


@pytest.mark.parametrize(("arguments", "reason"), FAILURES.values(), ids=list(FAILURES))
def test_a_failure_says_why(path: Path, arguments: list[str], reason: str) -> None:
    done = keys(*arguments, "--file", path)
    assert isinstance(done.exception, ConfigError)
    assert reason in str(done.exception)


@pytest.mark.parametrize(
    "options", [["--concurrency", "0"], ["--expires-days", "0"], ["--expires-days", "99999"]]
)
def test_a_number_out_of_range_is_wrong_usage(path: Path, options: list[str]) -> None:
    assert keys("new", "a", *options, "--file", path).exit_code == 2


def test_commands_at_the_same_time_lose_no_key(path: Path) -> None:
    program = "from gan_serving.key_commands import app; app()"
    command = [sys.executable, "-c", program, "new"]
    running = [
        subprocess.Popen([*command, f"caller-{i}", "--file", path], stdout=subprocess.PIPE)
        for i in range(3)
    ]
    printed = [process.communicate(timeout=120)[0].decode().strip() for process in running]
    ring = Keyring(path)
    assert [ring.caller(text).name for text in printed] == ["caller-0", "caller-1", "caller-2"]
