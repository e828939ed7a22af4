"""``ganforge upscale``: files, folders and videos, whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from gan_serving.repository import publish
from tests.serving.graphs import (
    DOUBLED_OUTPUT,
    SOFTENED_INPUTS,
    softened,
    softening,
    write_export,
)
from tests.serving.processes import Serving, ganforge, wait_until

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that takes a picture, and one that takes none."""
    root = tmp_path_factory.mktemp("repository")
    export = write_export(root / "a", "softening", softening(), SOFTENED_INPUTS, DOUBLED_OUTPUT)
    publish(export, root / "published")
    publish(write_export(root / "b", "marked"), root / "published")
    return root / "published"


@pytest.fixture(scope="module")
def serving(repository: Path) -> Iterator[Serving]:
    with Serving(repository, "ort", "--workers", "1") as running:
        yield running


def picture(path: Path, seed: int = 0, height: int = 12) -> NDArray[np.uint8]:
    """Writes one, and returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, 30, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["url", "grpc"])
def test_a_file_is_upscaled_by_the_only_model_that_takes_one(
    serving: Serving, tmp_path: Path, way: str
) -> None:
    given = picture(tmp_path / "in.png")
    url = getattr(serving, way)
    done = ganforge("upscale", tmp_path / "in.png", tmp_path / "new" / "out.png", "--url", url)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read(tmp_path / "new" / "out.png"), softened(given))
    assert names(tmp_path / "new") == {"out.png"}


def test_the_name_decides_the_format(serving: Serving, tmp_path: Path) -> None:
    picture(tmp_path / "in.png")
    done = ganforge("upscale", tmp_path / "in.png", tmp_path / "out.jpg", "--url", serving.url)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (60, 24))


def test_a_folder_keeps_its_names_and_lists_what_failed(serving: Serving, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    first, second = picture(source / "a.png", 1), picture(source / "deep" / "b.png", 2)
    picture(source / "a.webp")
    (source / "broken.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("not a picture, and not taken for one")
    done = ganforge("upscale", source, out, "--url", serving.url)
    assert done.returncode == 1
    assert names(out) == {"a.png", "deep/b.png"}
    np.testing.assert_array_equal(read(out / "a.png"), softened(first))
    np.testing.assert_array_equal(read(out / "deep" / "b.png"), softened(second))
    assert "2 of 4 failed:" in done.stderr
    assert f"{source / 'broken.jpg'}: image: " in done.stderr
    assert f"{source / 'a.webp'}: {out / 'a.png'} is made of a.png" in done.stderr
    assert "2 pictures by softening" in done.stdout


def test_a_killed_run_goes_on_with_what_is_missing(serving: Serving, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(200):
        picture(source / f"{i:03}.png", i, height=200)
    command = ["upscale", str(source), str(out), "--url", serving.url]
    with subprocess.Popen([sys.executable, "-m", "gan_core.cli", *command]) as run:
        assert wait_until(lambda: len(list(out.glob("[0-9]*.png"))) > 3, 60)
        run.kill()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    assert len(kept) < 200
    done = ganforge(*command)
    assert done.returncode == 0, done.stderr
    assert f"{200 - len(kept)} pictures by softening, {len(kept)} were there" in done.stdout
    assert names(out) == {f"{i:03}.png" for i in range(200)}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert read(out / "007.png").shape == (400, 60, 3)


def test_ctrl_c_says_what_is_done(serving: Serving, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(200):
        picture(source / f"{i:03}.png", i, height=200)
    command = [sys.executable, "-m", "gan_core.cli", "upscale"]
    command += [str(source), str(out), "--url", serving.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert wait_until(lambda: len(list(out.glob("[0-9]*.png"))) > 3, 60)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    (line,) = errors.splitlines()
    assert line.endswith(f"of 200 pictures are in {out}; the same command goes on")
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("missing.png", "out.png"), "IN missing.png: there is no such file or folder"),
        (("in.png", "out.bmp"), "OUT out.bmp: name one of .png"),
        (("in.png", "in.png"), "OUT in.png is IN itself"),
        ((".", "out"), "OUT out: name a folder outside of ."),
        (("in.png", "out.png", "--model", "marked"), "'marked' can't upscale a picture"),
        (("in.mp4", "out.mp4"), "can't upscale in.mp4: "),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in.png")
    (tmp_path / "in.mp4").write_bytes(b"no video")
    done = ganforge("upscale", *arguments, "--url", f"local:{repository}")
    assert done.returncode == 1
    assert why in " ".join(done.stderr.split())
    assert names(tmp_path) == {"in.png", "in.mp4"}


def test_of_two_models_one_must_be_named(repository: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export = write_export(tmp_path / name, name, softening(), SOFTENED_INPUTS, DOUBLED_OUTPUT)
        publish(export, tmp_path / "both")
    picture(tmp_path / "in.png")
    url = f"local:{tmp_path / 'both'}"
    done = ganforge("upscale", tmp_path / "in.png", tmp_path / "out.png", "--url", url)
    assert "which model? Give --model, one of one, two" in " ".join(done.stderr.split())


BT_709 = 1
"""FFmpeg's number."""


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames of a colour each at uneven times, pixels 4:3, and a tone beside them."""
    av = pytest.importorskip("av", reason="PyAV isn't installed")
    path = tmp_path / "in.mp4"
    with av.open(path, "w") as made:
        pictures = made.add_stream("libx264", rate=12, options={"crf": "10"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.sample_aspect_ratio = Fraction(4, 3)
        pictures.codec_context.time_base = Fraction(1, 1200)
        tone = made.add_stream("aac", rate=16_000, layout="mono")
        pictures.codec_context.colorspace = BT_709
        for i in range(12):
            colour = np.full((48, 64, 3), (200, 20 * i, 40), np.uint8)
            frame = av.VideoFrame.from_ndarray(colour, "rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=BT_709)
            frame.pts, frame.time_base = 100 * i + (30 if i % 3 == 1 else 0), Fraction(1, 1200)
            made.mux(pictures.encode(frame))
        wave = np.sin(np.arange(16_000, dtype=np.float32) * 0.17)[None] / 2
        sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16_000, 0
        made.mux(tone.encode(sound))
        for stream in (pictures, tone):
            made.mux(stream.encode())
    return path


def contents(path: Path) -> tuple[list[float], NDArray[np.float64], list[bytes], Any]:
    """Frames' times and colours, the sound's packets, and the picture's stream."""
    import av

    with av.open(path) as given:
        stream = given.streams.video[0]
        frames = list(given.decode(stream))
        about = stream.width, stream.height, stream.sample_aspect_ratio, stream.average_rate
    with av.open(path) as given:
        sound = [bytes(packet) for packet in given.demux(audio=0) if packet.size]
    colours = [frame.to_ndarray(format="rgb24").mean((0, 1)) for frame in frames]
    return [frame.time for frame in frames], np.array(colours), sound, about


@pytest.mark.parametrize("way", ["url", "grpc"])
def test_a_video_keeps_its_times_shape_and_sound(
    serving: Serving, video: Path, tmp_path: Path, way: str
) -> None:
    out = tmp_path / "new" / "out.mp4"
    done = ganforge("upscale", video, out, "--url", getattr(serving, way), "--crf", "10")
    assert done.returncode == 0, done.stderr
    assert "12 frames by softening" in done.stdout
    times, colours, sound, about = contents(video)
    made_times, made_colours, made_sound, made_about = contents(out)
    assert made_times == pytest.approx(times, abs=1e-4)
    np.testing.assert_allclose(made_colours, colours, atol=3)
    np.testing.assert_allclose(colours[3], (200, 60, 40), atol=3)
    assert made_sound == sound
    assert about[2] == Fraction(4, 3)
    assert made_about == (128, 96, *about[2:])
    assert names(tmp_path / "new") == {"out.mp4"}


def test_audio_that_does_not_fit_is_said(serving: Serving, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.webm"
    done = ganforge("upscale", video, out, "--url", serving.url)
    assert done.returncode == 1
    assert f"can't copy the audio of {video}: " in " ".join(done.stderr.split())
    assert names(tmp_path / "new") == set()


def test_ctrl_c_leaves_no_part_of_a_video(serving: Serving, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed")

    long, out = tmp_path / "long.mkv", tmp_path / "new" / "out.mp4"
    with av.open(long, "w") as made:
        pictures = made.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 320, 180, "yuv420p"
        for i in range(500):
            frame = np.full((180, 320, 3), i % 256, np.uint8)
            made.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        made.mux(pictures.encode())
    command = [sys.executable, "-m", "gan_core.cli", "upscale", str(long), str(out)]
    command += ["--url", serving.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert wait_until(lambda: list((tmp_path / "new").glob(".out.part.mp4")), 60)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert errors.splitlines() == [f"{out} isn't written; the same command begins it anew"]
    assert names(tmp_path / "new") == set()
