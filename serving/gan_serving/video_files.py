"""A video made larger: its frames through a model, all else as it was."""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gan_client.upscaling import complete
from gan_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from gan_client import Client

__all__ = ["Video"]

COPIED = ("audio", "subtitle")
MATRICES = {1, 5, 6, 7, 9}
"""FFmpeg's numbers of those that RGB is converted by: BT.709, BT.601, BT.2020 and older ones."""
LIMITED = 1
"""FFmpeg's number of the range 16 to 235."""


@dataclass(slots=True)
class Video:
    """An open video file."""

    path: Path
    given: Any
    """PyAV's container."""
    _stamps: deque[tuple[int | None, Any]] = field(default_factory=deque)
    """Of the frames on their way: presentation time and its base."""
    _packets: deque[Any] = field(default_factory=deque)
    """Of audio and subtitles, not yet written."""
    _reading: Lock = field(default_factory=Lock)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """A video to read.

        Raises:
            ConfigError: it isn't one, can't be written anew, or PyAV is missing.
        """
        try:
            import av
        except ImportError as error:
            raise ConfigError("videos need PyAV: pip install 'ganforge[video]'") from error
        try:
            with av.open(path) as given:
                if not given.streams.video:
                    raise ConfigError(f"IN {path}: there are no pictures in it")
                video = cls(path, given)
                try:
                    yield video
                finally:
                    with video._reading:
                        given.close()
        except (av.FFmpegError, OSError) as error:
            raise ConfigError(f"can't upscale {path}: {error}") from error

    @property
    def frames(self) -> int | None:
        """How many, where the file says so."""
        stream = self.given.streams.video[0]
        if stream.frames:
            return int(stream.frames)
        if self.given.duration is None or stream.average_rate is None:
            return None
        return round(float(self.given.duration / 1_000_000 * stream.average_rate))

    def upscale(
        self, client: Client, model: str, target: Path, crf: int
    ) -> Iterator[tuple[int, float]]:
        """Write it; after each frame, how many are done, and in how many seconds.

        Raises:
            ServiceError: a frame failed, which the message names.
            ConfigError: it has no frames.
        """
        import av

        began, frames = time.monotonic(), 0
        results = client.images.upscale_stream(self._guarded(), model=model)
        with complete(target) as part, av.open(part, "w") as made, closing(results):
            stream, copies = None, {}
            for image, _ in results:
                if stream is None:
                    height, width, _ = image.pixels.shape
                    stream = self._stream(made, target.suffix.lower(), width, height, crf)
                    copies = self._copies(made)
                frame = av.VideoFrame.from_ndarray(_rgb(image.pixels), format="rgb24")
                space = stream.codec_context.colorspace
                frame = frame.reformat(
                    format=stream.pix_fmt, dst_colorspace=space if space in MATRICES else None
                )
                frame.pts, frame.time_base = self._stamps.popleft()
                made.mux(stream.encode(frame))
                self._copy(made, copies)
                frames += 1
                yield frames, time.monotonic() - began
            if stream is None:
                raise ConfigError(f"IN {self.path}: there are no frames in it")
            made.mux(stream.encode())
            self._copy(made, copies)

    def _guarded(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, none of which is read while the file is closed."""
        frames = self._frames()
        while True:
            with self._reading:
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        """Upright; what lies between their packets is laid by."""
        video = self.given.streams.video[0]
        others = [stream for stream in self.given.streams if stream.type in COPIED]
        for packet in self.given.demux(video, *others):
            if packet.stream is not video:
                if packet.dts is not None:
                    self._packets.append(packet)
                continue
            for frame in packet.decode():
                self._stamps.append((frame.pts, frame.time_base))
                pixels = frame.to_ndarray(format="rgb24")
                yield np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90 % 4))

    def _stream(self, made: Any, suffix: str, width: int, height: int, crf: int) -> Any:
        given = self.given.streams.video[0]
        codec, options = "libx264", {"crf": str(crf)}
        if suffix == ".webm":
            codec, options = "libvpx-vp9", {"crf": str(crf), "b": "0"}
        if suffix == ".avi":
            options["bf"] = "0"  # AVI keeps no presentation times: frames lie in their order
        stream = made.add_stream(codec, rate=given.average_rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        about, read = stream.codec_context, given.codec_context
        about.time_base = given.time_base
        if given.sample_aspect_ratio is not None:
            about.sample_aspect_ratio = given.sample_aspect_ratio
        about.colorspace = read.colorspace
        about.color_primaries, about.color_trc = read.color_primaries, read.color_trc
        about.color_range = LIMITED
        return stream

    def _copies(self, made: Any) -> dict[int, Any]:
        """A stream for each that is copied, by its index."""
        copies = {}
        for stream in self.given.streams:
            if stream.type in COPIED:
                try:
                    copies[stream.index] = made.add_stream_from_template(stream)
                except ValueError as error:
                    raise ConfigError(
                        f"can't copy the {stream.type} of {self.path}: {error}; name a .mkv"
                    ) from error
        return copies

    def _copy(self, made: Any, copies: dict[int, Any]) -> None:
        while self._packets:
            packet = self._packets.popleft()
            packet.stream = copies[packet.stream.index]
            made.mux(packet)


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)).copy()
