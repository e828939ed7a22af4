"""The command line in processes of its own: killed, interrupted, out of disk, misused."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import yaml
from PIL import Image

from gan_core import checkpoint, cli
from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from gan_core.variant import Variant

GANFORGE = [sys.executable, "-m", "gan_core.cli"]
SETTINGS = {
    "widths": "[8,16]",
    "z_dim": "4",
    "batch_size": "16",
    "resolution_px": "8",
    "tick_kimg": "0.4",
    "sample_kimg": "4",
    "checkpoint_kimg": "0.4",
    "keep_checkpoints": "100",
}
LONG_KIMG = "8"  # 500 steps of about 3 ms: long enough to be killed in the middle

Invoke = Callable[..., tuple[int, str, str]]
Ganforge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """The command line in this process: exit status, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ganforge", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def train_arguments(run: Path, kimg: str = LONG_KIMG, **settings: str) -> list[str]:
    pairs = [f"{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    options = [part for pair in pairs for part in ("--set", pair)]
    return ["train", "vanilla", "--data", "digits", "--run", str(run), "--kimg", kimg, *options]


def files(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("[0-9]*"))


def wait_for_checkpoints(process: subprocess.Popen[str], run: Path, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(list((run / "checkpoints").glob("[0-9]*"))) < n:
        assert process.poll() is None, f"it ended before checkpoint {n}"
        assert time.monotonic() < deadline, f"no checkpoint {n} within a minute"
        time.sleep(0.003)


def started(run: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*GANFORGE, *train_arguments(run)], stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, ganforge: Ganforge) -> Path:
    """A run that was left alone."""
    run = tmp_path_factory.mktemp("cli") / "whole"
    ganforge(*train_arguments(run))
    return run


@pytest.mark.parametrize(("checkpoints", "delay_s"), [(1, 0.0), (4, 0.05)])
def test_a_killed_run_resumes_exactly(
    tmp_path: Path,
    uninterrupted: Path,
    ganforge: Ganforge,
    checkpoints: int,
    delay_s: float,
) -> None:
    run = tmp_path / "killed"
    with started(run) as process:
        wait_for_checkpoints(process, run, checkpoints)
        time.sleep(delay_s)
        process.kill()
    assert newest(run).name < newest(uninterrupted).name, "it was over before it was killed"
    ganforge("train", "--run", run, "--resume")
    assert newest(run).name == newest(uninterrupted).name
    assert files(newest(run)) == files(newest(uninterrupted))


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A run that got Ctrl-C: its folder, exit status, output and errors."""
    run = tmp_path_factory.mktemp("cli") / "interrupted"
    with started(run) as process:
        wait_for_checkpoints(process, run, 1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    return run, process.returncode, output, errors


def test_ctrl_c_exits_130_without_a_traceback(interrupted: tuple[Path, int, str, str]) -> None:
    _, code, _, errors = interrupted
    assert (code, errors) == (130, "")


def test_ctrl_c_saves_a_checkpoint_off_the_schedule(
    interrupted: tuple[Path, int, str, str],
) -> None:
    run, _, output, _ = interrupted
    assert f"stopped; everything is saved in {newest(run)}" in output


def test_the_command_that_ctrl_c_prints_resumes_exactly(
    interrupted: tuple[Path, int, str, str], uninterrupted: Path, ganforge: Ganforge
) -> None:
    run, _, output, _ = interrupted
    command = re.search(r"^Go on with: ganforge (.*)$", output, re.MULTILINE)
    assert command
    ganforge(*command[1].split())
    assert files(newest(run)) == files(newest(uninterrupted))


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_a_file_too_large_for_the_disk_ends_in_one_line_and_the_run_goes_on_later(
    tmp_path: Path, uninterrupted: Path, ganforge: Ganforge
) -> None:
    run = copied(uninterrupted, tmp_path / "full")
    last = newest(run)
    before = files(last)
    size = (last / "tensors.safetensors").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    done = subprocess.run(
        [*GANFORGE, "train", "--run", str(run), "--resume", "--kimg", "9"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n"), newest(run)) == (1, 1, last)
    assert re.match("error: can't write checkpoint .*; earlier checkpoints are intact", done.stderr)
    assert files(last) == before
    ganforge("train", "--run", run, "--resume", "--kimg", "9")
    assert newest(run).name == "000009.008"


SMALL_DISK = """
set -e
mount -t tmpfs -o size=300k none "$1"
shift
exec "$@"
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="no user namespaces here",
)
def test_a_full_disk_ends_in_one_line_with_earlier_checkpoints_intact(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    # within the namespace: train until the disk is full, then look at the newest checkpoint
    script = SMALL_DISK.replace(
        'exec "$@"',
        f'code=0; "$@" || code=$?; cp -r "{disk}/run" "{kept}"; exit $code',
    )
    done = subprocess.run(
        [
            *["unshare", "-rm", "bash", "-c", script, "bash", str(disk)],
            *[*GANFORGE, *train_arguments(disk / "run")],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:13]) == (
        1,
        1,
        "error: can't ",
    ), done.stderr
    saved = sorted((kept / "checkpoints").iterdir())
    assert [path for path in saved if not path.name[0].isdigit()] == []
    assert all(checkpoint.load(path)["seen"] for path in saved)


def test_a_run_that_diverges_exits_1_with_one_line_and_a_hint(
    tmp_path: Path, invoke: Invoke
) -> None:
    # a learning rate at which float32 overflows within a few steps
    code, _, errors = invoke(*train_arguments(tmp_path / "run", "1", lr_G="1e+30", lr_D="1e+30"))
    assert code == 1
    assert re.fullmatch(
        r"error: \S+ became (nan|inf) at step \d+\n"
        r"no checkpoint was saved yet; try a lower learning rate, or a penalty such as R1\n",
        errors,
    )


def test_exporting_and_evaluating_a_run_prints_json_alone(
    uninterrupted: Path, ganforge: Ganforge
) -> None:
    done = ganforge(
        *["evaluate", uninterrupted, "--json", "--samples", "64", "--metrics", "fid, kid"],
        *["--extractor", "pixels"],
    )
    document = json.loads(done.stdout)
    assert [score["metric"] for score in document["scores"]] == ["fid", "kid"]
    assert document["scored"]["name"] == str(uninterrupted)
    assert len(document["scored"]["sha256"]) == 64


PIXELS = ["--samples", "70", "--extractor", "pixels"]


def test_scores_are_printed_as_a_table_with_their_provenance_once(
    invoke: Invoke, uninterrupted: Path
) -> None:
    code, output, _ = invoke("evaluate", uninterrupted, *PIXELS, "--metrics", "fid,precision")
    assert code == 0
    for name in ("fid", "precision", "lower", "higher"):
        assert len(re.findall(rf"\b{name}\b", output)) == 1
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert [line for line in lines if line.startswith("extractor")] == ["extractor pixels 8x8"]
    assert "samples 70" in lines
    assert any(line.startswith("reference digits ") for line in lines)


def test_caveats_are_printed_below_the_scores(invoke: Invoke, uninterrupted: Path) -> None:
    few = ["--samples", "8", "--extractor", "pixels", "--metrics", "fid"]
    assert "fid: 8 images for 64 features: biased up" in invoke("evaluate", uninterrupted, *few)[1]


def test_scores_are_written_to_a_file(invoke: Invoke, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    code, output, _ = invoke("evaluate", uninterrupted, *PIXELS, "--out", out, "--json")
    document = json.loads(out.read_text())
    assert (code, [score["metric"] for score in document["scores"]]) == (0, ["fid", "kid"])
    assert document == json.loads(output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--out", "/no/such/x.json"], "/no/such is no folder to write x.json in"),
        (["nothing", "--out", "/"], "/ is a folder: name a file"),
        (["nothing", "--url", "ftp://x"], "'ftp://x' is not an address"),
        (["nothing", "--url", "local:/no/such"], "/no/such is not a model repository"),
        (["/no/such/model.onnx"], "/no/such/model.onnx isn't there"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    invoke: Invoke, arguments: list[str], message: str
) -> None:
    code, _, errors = invoke("evaluate", *arguments)
    assert (code, errors.count("\n"), message in errors) == (1, 1, True), errors


def test_scores_are_printed_even_if_their_file_cannot_be_written(
    invoke: Invoke, uninterrupted: Path
) -> None:
    code, output, errors = invoke("evaluate", uninterrupted, *PIXELS, "--out", "/dev/full")
    assert code == 1
    assert "fid" in output
    assert "No space left on device" in errors
    assert errors.count("\n") == 1


def test_scores_are_written_even_if_nobody_reads_them(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    command = [*GANFORGE, "evaluate", str(uninterrupted), *PIXELS, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.close()
    assert len(json.loads(out.read_text())["scores"]) == 2


def test_all_may_be_named_beside_others(invoke: Invoke, uninterrupted: Path) -> None:
    arguments = ["evaluate", uninterrupted, *PIXELS, "--metrics", "all, fid,", "--json"]
    code, output, _ = invoke(*arguments)
    assert code == 0
    assert {"fid", "recall"} <= {score["metric"] for score in json.loads(output)["scores"]}


def test_a_name_that_is_nothing_says_where_was_looked(invoke: Invoke, tmp_path: Path) -> None:
    code, _, errors = invoke("evaluate", "runs/aa", "--url", f"local:{tmp_path}")
    assert code == 1
    assert "'runs/aa' is no run and no .onnx file either" in " ".join(errors.split())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("no/x.png", "no is no folder to write x.png in"),
        ("audit", "a picture's name ends in .png"),
        ("x.xyz", "a picture's name ends in .png"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = invoke("audit", "nothing", "--out", out)
    assert (code, message in " ".join(errors.split())) == (1, True), errors


def test_a_report_that_cannot_be_written_leaves_nothing(
    invoke: Invoke, uninterrupted: Path, tmp_path: Path
) -> None:
    for out in (tmp_path, tmp_path / "no" / "x.html"):
        code, _, errors = invoke("report", uninterrupted, "--out", out)
        assert (code, errors.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []


def test_equal_images_are_valid_json(invoke: Invoke, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    a = tmp_path / "a.png"
    _, output, _ = invoke("compare", a, a, "--json")
    found = json.loads(output, parse_constant=pytest.fail)
    assert (found["mean"]["psnr_y"], found["mean"]["psnr_rgb"]) == (None, None)
    assert found["mean"]["ssim_y"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vanilla", "--run", "r"], "say what: ganforge train VARIANT --data NAME"),
        (["train", "vanilla", "--data", "digits"], "say where: --run runs/NAME"),
        (["train", "--no-such-option"], "No such option"),
        (["no-such-command"], "No such command"),
        (
            ["train", "vanilla", "--data", "digits", "--run", "r", "--set", "lr"],
            "--set takes KEY=VALUE, not 'lr'",
        ),
        (
            ["train", "vanilla", "--run", "r", "--kimg", "1", "--set", "kimg=nan"],
            "--kimg and --set kimg=… are the same setting",
        ),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(
    invoke: Invoke, arguments: list[str], message: str
) -> None:
    code, _, errors = invoke(*arguments)
    assert (code, message in errors) == (2, True), errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "resolution_px=abc"], "resolution_px: Input should be a valid integer"),
        (["--set", "resolution_px=-8"], "resolution_px: Input should be greater than or equal"),
        (["--set", "lr_d=1"], "vanilla has no setting 'lr_d'; did you mean 'lr_D'?"),
        (["--set", "channels=3"], "channels comes from the data and can't be set"),
        (["--config", "/no/such.yaml"], "can't read /no/such.yaml"),
        (["--data", "ring", "--set", "resolution_px=8"], "points in the plane"),
        (["--kimg", "0"], "kimg: Input should be greater than or equal to 0.001 (given 0.0)"),
    ],
)
def test_a_setting_that_cannot_be_used_exits_1_and_makes_no_folder(
    invoke: Invoke, tmp_path: Path, arguments: list[str], message: str
) -> None:
    run = tmp_path / "run"
    code, _, errors = invoke("train", "vanilla", "--data", "digits", "--run", run, *arguments)
    assert (code, errors.count("\n"), run.exists()) == (1, 1, False)
    assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--seed", "5"],
            "a resumed run keeps its settings; only kimg, keep_checkpoints and the guard's can",
        ),
        (["--data", "mnist"], "trains vanilla on digits"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    invoke: Invoke, uninterrupted: Path, arguments: list[str], message: str
) -> None:
    code, _, errors = invoke("train", "--run", uninterrupted, "--resume", *arguments)
    assert (code, message in errors) == (1, True), errors


def test_a_failure_shows_no_traceback(invoke: Invoke) -> None:
    assert invoke("export", "nowhere")[2].startswith("error: nowhere is not a run")


def test_a_failure_is_raised_as_it_is_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ganforge", "--debug", "export", "nowhere"])
    with pytest.raises(ConfigError, match="nowhere is not a run"):
        cli.main()


def test_the_printed_configuration_is_accepted_as_it_is(invoke: Invoke, vanilla: Variant) -> None:
    _, printed, _ = invoke("config", "vanilla")
    assert vanilla.config.model_validate(yaml.safe_load(printed)) == vanilla.config()


def test_the_printed_configuration_leaves_to_the_data_what_comes_from_them(invoke: Invoke) -> None:
    lines = invoke("config", "vanilla")[1].splitlines()
    assert "# resolution_px: 32" in lines
    settings = yaml.safe_load("\n".join(lines))
    assert settings.keys() & {"resolution_px", "channels", "classes"} == set()


def test_every_printed_setting_says_what_it_is(invoke: Invoke) -> None:
    lines = invoke("config", "dcgan")[1].splitlines()
    settings = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
    assert [lines[i] for i in settings if not re.match(r"# \w", lines[i - 1])] == []


def test_a_conforming_variant_passes_its_check(invoke: Invoke) -> None:
    code, output, _ = invoke("check", "vanilla")
    assert (code, output.count("pass ") > 10, "fail" in output) == (0, True, False)


def test_every_command_has_an_example_in_its_help() -> None:
    commands = [command for command in cli.app.registered_commands if command.callback]
    bare = [c.callback.__name__ for c in commands if c.callback and not c.epilog]
    assert bare == []


def test_a_run_that_gets_another_budget_says_what_that_changes(
    invoke: Invoke, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny = ["--set", "widths=[8]", "--set", "batch_size=8"]
    invoke("train", "vanilla", "--data", "digits", "--run", run, "--kimg", "0.016", *tiny)
    resume = ["train", "--run", run, "--resume", "--kimg", "0.032"]
    assert "the budget was 0.016 kimg: schedules over the whole budget" in invoke(*resume)[1]
    assert "the budget was" not in invoke(*resume)[1]


def test_what_is_not_a_run_cannot_be_resumed(invoke: Invoke, tmp_path: Path) -> None:
    code, _, errors = invoke("train", "--run", tmp_path, "--resume")
    assert (code, f"{tmp_path} is not a run" in errors) == (1, True)


def test_a_folder_that_is_there_is_not_trained_into(invoke: Invoke, uninterrupted: Path) -> None:
    before = sorted(uninterrupted.iterdir())
    code, _, _ = invoke(*train_arguments(uninterrupted))
    assert (code, sorted(uninterrupted.iterdir())) == (1, before)


def test_a_report_is_written_and_named(invoke: Invoke, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    code, output, _ = invoke("report", uninterrupted, "--out", out)
    assert (code, output.strip()) == (0, str(out))
    assert "<h2>Diagnosis</h2>" in out.read_text()


def test_pairs_are_compared_in_a_table_or_as_json(invoke: Invoke, tmp_path: Path) -> None:
    for name, level in (("a.png", 100), ("b.png", 105)):
        Image.new("RGB", (16, 16), (level,) * 3).save(tmp_path / name)
    asked = ["compare", tmp_path / "a.png", tmp_path / "b.png", "--metrics", "psnr_rgb"]
    assert "34.15" in invoke(*asked)[1]  # 20 log10(255 / 5)
    document = json.loads(invoke(*asked, "--border", "2", "--json")[1])
    assert document["mean"]["psnr_rgb"] == pytest.approx(34.151, abs=1e-3)
    assert document["border_px"] == 2


def test_what_can_be_fetched_is_listed_with_its_licence(invoke: Invoke) -> None:
    code, output, _ = invoke("data", "list")
    assert (code, "vgg16-caffe" in output, "CC-BY-4.0" in output) == (0, True, True)


def test_the_images_nearest_to_the_training_set_are_shown(
    invoke: Invoke, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "audit.png"
    code, output, _ = invoke(
        "audit", uninterrupted, "--samples", "32", "--extractor", "pixels", "--out", out
    )
    assert (code, "above the training image nearest to each" in output) == (0, True)
    with Image.open(out) as picture:
        assert picture.width > 16 * 64


def test_a_search_says_what_it_found_and_how_to_use_it(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "search"
    tiny = ["--set", "widths=[8]", "--set", "score_samples=16", "--kimg", "0.32", "--seeds", "0"]
    code, output, errors = invoke(
        "search", "vanilla", "--data", "digits", "--trials", "2", "--out", out, *tiny
    )
    assert code == 0, errors
    assert "trial 0: fid " in output
    assert f"--config {out / 'best.yaml'}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "fud"], "no metric is called 'fud' (did you mean 'fid'?)"),
        (["--space", "/no/such.yaml"], "/no/such.yaml can't be read"),
        (["--set", "width=8"], "vanilla has no setting 'width'"),
        (["--data", "nowhere"], "no dataset is called 'nowhere'"),
    ],
)
def test_a_search_that_cannot_be_made_leaves_no_folder(
    invoke: Invoke, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "search"
    given = ["search", "vanilla", "--data", "digits", "--trials", "2", "--out", out, *arguments]
    code, _, errors = invoke(*given)
    assert (code, message in errors, out.exists()) == (1, True, False), errors
