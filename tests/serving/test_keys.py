"""Keys at rest, and whose they are."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.errors import ConfigError, Unauthenticated
from gan_serving import keys as module
from gan_serving.keys import (
    ANYBODY,
    Caller,
    Keyring,
    add_key,
    parse_rate,
    read_keys,
    revoke_key,
)

MOBILE = Caller("mobile", ("digits_*", "faces"), rate="600/minute", concurrency=8)
DIGEST = "ab" * 32


def entry(more: str = "") -> str:
    """A key as it stands in a file, and more fields."""
    fields = f"id: 0123456789ab, sha256: {DIGEST}, name: mobile, created: 2026-01-01T00:00:00Z"
    return f"{{{fields}, {more}}}"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def write(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def refusal(path: Path, text: str) -> str:
    """Why a file of that text isn't read."""
    with pytest.raises(ConfigError) as caught:
        read_keys(write(path, text))
    return str(caught.value)


def test_a_key_is_its_callers(path: Path) -> None:
    text, _ = add_key(path, MOBILE)
    assert Keyring(path).caller(text) == MOBILE


def test_a_key_is_told_by_its_looks(path: Path) -> None:
    text, key = add_key(path, MOBILE)
    assert text.startswith(f"gf_{key.id}_")
    assert len(text) == len("gf_0123456789ab_") + 43  # 256 bits in base64


def test_the_file_holds_no_secret(path: Path) -> None:
    text, key = add_key(path, MOBILE)
    assert text.removeprefix(f"gf_{key.id}_") not in path.read_text()


def test_what_is_kept_of_a_key_is_printed_without_its_hash(path: Path) -> None:
    _, key = add_key(path, MOBILE)
    assert key.sha256 not in repr(key)


def test_the_file_is_its_owners_alone(path: Path) -> None:
    add_key(path, MOBILE)
    add_key(path, MOBILE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_to_the_file_stays_a_link(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    add_key(link, MOBILE)
    assert link.is_symlink()
    assert len(read_keys(path)) == 1


def test_a_write_that_fails_leaves_the_keys_and_no_litter(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = add_key(path, MOBILE)
    before = sorted(path.parent.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"can't write .*keys.yaml: No space left"):
        add_key(path, MOBILE)
    assert read_keys(path) == (key,)
    assert sorted(path.parent.iterdir()) == before


def test_two_keys_of_one_name_are_one_caller(path: Path) -> None:
    old, _ = add_key(path, MOBILE)
    new, _ = add_key(path, MOBILE)
    ring = Keyring(path)
    assert ring.caller(old) == ring.caller(new)


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    _, first = add_key(path, MOBILE)
    _, second = add_key(path, MOBILE)
    assert revoke_key(path, first.id) == first
    assert read_keys(path) == (second,)


def test_revoking_an_unknown_id_lists_the_ids(path: Path) -> None:
    _, key = add_key(path, MOBILE)
    with pytest.raises(ConfigError, match=f"no key of the id 'nope'; it has: {key.id}"):
        revoke_key(path, "nope")


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (Caller("a b"), "is not 1 to 64 letters"),
        (Caller("x" * 65), "is not 1 to 64 letters"),
        (Caller("a/b"), "is not 1 to 64 letters"),
        (Caller("a", rate="fast"), "rate: 'fast' is not a rate; accepted is"),
        (Caller("a", rate="0/minute"), "rate: '0/minute' lets nothing through"),
        (Caller("a", rate="9/minute;1/second"), "is not a rate"),
        (Caller("a", concurrency=0), "concurrency: Input should be greater"),
        (Caller("a", models=("b", "")), r"models\[1\]: String should match"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(path: Path, caller: Caller, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        add_key(path, caller)
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "amount", "window_s"),
    [("600/minute", 600, 60), ("5 per 10 seconds", 5, 10), ("1/day", 1, 86_400)],
)
def test_a_rate_is_an_amount_in_a_window(text: str, amount: int, window_s: int) -> None:
    rate = parse_rate(text)
    assert (rate.amount, rate.get_expiry()) == (amount, window_s)


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        (None, "anything", True),
        ((), "digits", False),
        (("digits",), "digits", True),
        (("digits",), "digits_2", False),
        (("faces", "digits_*"), "digits_2", True),
        (("digits",), "DIGITS", False),
        (("digits",), "digits\n", False),
    ],
)
def test_patterns_say_which_models_a_key_is_for(
    patterns: tuple[str, ...] | None, model: str, may: bool
) -> None:
    assert Caller("a", patterns).may_use(model) is may


def test_anybody_is_no_admin_and_may_use_every_model() -> None:
    assert ANYBODY.may_use("any")
    assert not ANYBODY.admin


@pytest.mark.parametrize("token", [None, ""])
def test_no_key_is_told_how_to_send_one(path: Path, token: str | None) -> None:
    add_key(path, MOBILE)
    with pytest.raises(Unauthenticated, match="there is no API key: send 'Authorization"):
        Keyring(path).caller(token)


def spoilt(text: str) -> dict[str, str]:
    """Tokens that look more or less like a key, and aren't."""
    head, secret = text[:16], text[16:]
    return {
        "wrong secret": head + "A" * 43,
        "wrong id": f"gf_{'0' * 12}_{secret}",
        "too short": text[:-1],
        "too long": f"{text}A",
        "newline": f"{text}\n",
        "space": f" {text}",
        "null": f"{text}\0",
        "other case": text.upper(),
        "not ASCII": f"{head}{'é' * 43}",
        "lone surrogate": f"{head}{chr(0xD800) * 43}",
        "Arabic digits": f"gf_{'٣' * 12}_{secret}",
        "huge": "gf_" + "a" * 10_000_000,
        "id alone": head,
    }


@pytest.mark.parametrize("flaw", spoilt(""))
def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(path: Path, flaw: str) -> None:
    text, _ = add_key(path, MOBILE)
    with pytest.raises(Unauthenticated) as caught:
        Keyring(path).caller(spoilt(text)[flaw])
    assert str(caught.value) == module.UNKNOWN


def test_a_key_of_another_file_is_unknown(path: Path, tmp_path: Path) -> None:
    add_key(path, MOBILE)
    other, _ = add_key(tmp_path / "other.yaml", MOBILE)
    with pytest.raises(Unauthenticated):
        Keyring(path).caller(other)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    add_key(path, MOBILE)
    return Keyring(path)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.text() | st.from_regex(module.TEXT, fullmatch=True))
def test_any_text_is_refused_and_breaks_nothing(ring: Keyring, token: str) -> None:
    with pytest.raises(Unauthenticated):
        ring.caller(token)


def test_an_expired_key_says_so(path: Path) -> None:
    expires = datetime(2026, 1, 1, tzinfo=UTC)
    text, _ = add_key(path, MOBILE, expires)
    with pytest.raises(Unauthenticated, match="expired at 2026-01-01T00:00:00"):
        Keyring(path, now=lambda: expires).caller(text)


def test_a_key_is_good_until_it_expires(path: Path) -> None:
    expires = datetime(2026, 1, 1, tzinfo=UTC)
    text, _ = add_key(path, MOBILE, expires)
    just_before = expires - timedelta(microseconds=1)
    assert Keyring(path, now=lambda: just_before).caller(text) == MOBILE


def test_that_a_key_expired_is_told_only_to_who_has_it(path: Path) -> None:
    expires = datetime(2026, 1, 1, tzinfo=UTC)
    text, _ = add_key(path, MOBILE, expires)
    with pytest.raises(Unauthenticated) as caught:
        Keyring(path, now=lambda: expires).caller(spoilt(text)["wrong secret"])
    assert str(caught.value) == module.UNKNOWN


def test_a_new_key_is_known_within_a_second_and_without_a_restart(path: Path) -> None:
    add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    text, _ = add_key(path, MOBILE)
    clock.time_s += module.LOOK_S
    assert ring.caller(text) == MOBILE


def test_a_revoked_key_is_refused_within_a_second(path: Path) -> None:
    text, key = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    revoke_key(path, key.id)
    clock.time_s += module.LOOK_S
    with pytest.raises(Unauthenticated):
        ring.caller(text)


def test_the_file_is_looked_at_once_a_second(path: Path) -> None:
    text, key = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    revoke_key(path, key.id)
    clock.time_s += module.LOOK_S / 2
    assert ring.caller(text) == MOBILE


def test_a_clock_that_goes_back_does_not_stop_the_looking(path: Path) -> None:
    text, key = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    revoke_key(path, key.id)
    clock.time_s -= 50
    with pytest.raises(Unauthenticated):
        ring.caller(text)


BROKEN = {
    "empty": "",
    "not YAML": "keys: [",
    "hash in a line that is no YAML": f"keys:\n- sha256: {DIGEST}: {DIGEST}\n",
    "unknown field": f"keys: [{{sha256: {DIGEST}, colour: red}}]",
    "deep": "[" * 1000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_a_file_that_breaks_leaves_the_known_keys_in_force(
    path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    known, _ = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    write(path, text)
    clock.time_s += 1
    assert ring.caller(known) == MOBILE
    assert "The keys known before stay in force" in caplog.text


def test_a_broken_file_is_logged_once_per_change_and_quotes_no_hash(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, _ = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    for text in BROKEN.values():
        write(path, text)
        for _ in range(3):
            clock.time_s += 1
            ring.caller(known)
    assert len(caplog.records) == len(BROKEN)
    assert DIGEST not in caplog.text


def test_a_file_that_vanishes_leaves_the_known_keys_until_it_is_back(path: Path) -> None:
    known, _ = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    path.unlink()
    clock.time_s += 1
    assert ring.caller(known) == MOBILE
    new, _ = add_key(path, MOBILE)
    clock.time_s += 1
    assert ring.caller(new) == MOBILE
    with pytest.raises(Unauthenticated):
        ring.caller(known)


def test_a_file_opened_to_others_is_read_again_once_it_is_closed_to_them(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, _ = add_key(path, MOBILE)
    clock = Clock()
    ring = Keyring(path, clock=clock)
    for mode in (0o644, 0o600):
        path.chmod(mode)
        clock.time_s += 1
        with caplog.at_level(logging.INFO):
            ring.caller(known)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_missing_file_says_what_makes_one(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'ganforge keys new NAME --file .*keys.yaml' makes one"):
        Keyring(path)


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "is_private"),
    [
        (0o440, 0, 1000, True),  # as Kubernetes mounts a secret for a group
        (0o640, 0, 1000, True),
        (0o660, 0, 1000, False),
        (0o444, 0, 1000, False),
        (0o440, 0, 0, False),
        (0o440, 1000, 1000, False),
    ],
)
def test_only_root_may_lend_its_file_to_a_group(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    owner: int,
    reader: int,
    is_private: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: reader)
    found = os.stat_result((mode, 0, 0, 1, owner, owner, 0, 0, 0, 0))
    with nullcontext() if is_private else pytest.raises(ConfigError, match="others can read"):
        module._check_private(path, found)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    add_key(path, MOBILE)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"\(mode {mode:o}\): chmod 600 "):
        Keyring(path)


def test_a_folder_is_not_a_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read .*: Is a directory"):
        Keyring(tmp_path)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nkeys: [*b, *b]"
REFUSED = {
    "empty": ("", "has no 'keys:'"),
    "list": ("[]", "has no 'keys:'"),
    "no keys": ("{}", "keys: Field required"),
    "null keys": ("keys:", "keys: Input should be a valid tuple"),
    "top": ("keys: []\nadmin: [x]", "admin: Extra inputs are not permitted"),
    "unknown field": (
        f"keys: [{entry('colour: red')}]",
        "keys[0].colour: Extra inputs are not permitted",
    ),
    "rate": (f"keys: [{entry('rate: fast')}]", "keys[0].rate: 'fast' is not a rate"),
    "no time zone": (
        f"keys: [{entry('expires: 2027-01-01 00:00:00')}]",
        "keys[0].expires: Input should have timezone info",
    ),
    "number as id": ("keys: [{id: 123456789012}]", "keys[0].id: Input should be a valid string"),
    "same id": (
        f"keys: [{entry()}, {entry()}]",
        "keys: [1].id: 0123456789ab is that of [0] already",
    ),
    "field twice": ("keys: []\nkeys: []", "line 2: a field is given twice"),
    "bomb": (BOMB, "line 2: aliases and tags are not accepted"),
    "tag": ("keys: !!python/object/apply:os.getcwd []", "line 1: aliases and tags"),
    "own tag": ("keys:\n- !key x", "line 2: aliases and tags"),
    "mark alone": ("keys: ! []", "line 1: aliases and tags"),
    "two documents": ("keys: []\n---\nkeys: []", "line 2: but found another document"),
    "tab": ("keys:\n\t- x", "line 2: found character '\\t'"),
    "impossible date": ("keys: [2026-99-99]", "it is not plain YAML"),
    "control character": ("keys: \x07", "it is not plain YAML"),
    "deep": ("[" * 1000, "it is not plain YAML"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_a_file_that_is_not_of_keys_is_refused_by_line_or_field(
    path: Path, text: str, reason: str
) -> None:
    message = refusal(path, text)
    assert message.startswith(str(path))
    assert reason in message


def test_a_refusal_quotes_neither_key_nor_hash(path: Path, tmp_path: Path) -> None:
    text, _ = add_key(tmp_path / "other.yaml", MOBILE)
    for wrong in (f"rate: {text}", f"{text}: 1", f"concurrency: {DIGEST}"):
        message = refusal(path, f"keys: [{entry(wrong)}]")
        assert text not in message
        assert DIGEST not in message


def test_a_file_written_by_hand_is_read(path: Path) -> None:
    more = "models: ['*'], admin: yes, rate: null, expires: 2027-01-01T00:00:00+01:00"
    (key,) = read_keys(write(path, f"keys: [{entry(more)}]"))
    assert key.caller == Caller("mobile", ("*",), admin=True)
    assert key.expires == datetime(2026, 12, 31, 23, tzinfo=UTC)


NASTY = ("*", "!tag", "&a", "null", "yes", "12e3", "2026-01-01", "{a}", "#x", "a:", "'", '"')


def test_what_is_written_is_what_is_read(path: Path) -> None:
    callers = [Caller("null", NASTY), Caller("1e5", (), admin=True), Caller("-", rate="1 per day")]
    kept = [add_key(path, caller)[1] for caller in callers]
    assert [key.caller for key in kept] == callers
    assert list(read_keys(path)) == kept


def test_the_file_is_yaml_that_others_can_read(path: Path) -> None:
    _, key = add_key(path, MOBILE)
    (entry,) = yaml.safe_load(path.read_text())["keys"]
    assert (entry["id"], entry["models"]) == (key.id, ["digits_*", "faces"])
