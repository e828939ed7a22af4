"""One of several gateway processes: ``workers`` starts it, and tells it what to do on stdin."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

import uvloop

from gan_core.errors import GanforgeError

from .logs import set_up_logs
from .options import Doors
from .server import answer, engine_of, signalled
from .siblings import Siblings
from .triton_engine import TritonEngine
from .workers import BRIEF

if TYPE_CHECKING:
    from .engine import Engine
    from .options import Listening
    from .workers import Brief

log = logging.getLogger(__name__)


def main() -> None:
    """Serve as stdin's first line says, until SIGTERM, or until whoever started this ends."""
    brief = BRIEF.validate_json(sys.stdin.readline())
    set_up_logs(brief.options.log_format, brief.options.log_level)
    try:
        uvloop.run(_work(brief))
    except GanforgeError as error:
        sys.exit(f"error: {error}")


async def _work(brief: Brief) -> None:
    http = socket.socket(fileno=brief.http)
    admin = None if brief.admin is None else socket.socket(fileno=brief.admin)
    with signalled() as stopping:
        async with (
            engine_of(brief.options) as engine,
            Siblings(brief.folder, brief.index, brief.options.engine) as siblings,
        ):
            listener = threading.Thread(
                target=_listen, args=(asyncio.get_running_loop(), engine, stopping), daemon=True
            )
            listener.start()
            await answer(brief.options, engine, Doors(http, admin), stopping, _started, siblings)


def _started(at: Listening) -> None:
    print(json.dumps(asdict(at)), flush=True)  # noqa: T201 for the process that waits for it


def _listen(loop: asyncio.AbstractEventLoop, engine: Engine, stopping: asyncio.Event) -> None:
    """Follow Triton where it goes; end with the process that started this one."""
    for line in sys.stdin:
        if isinstance(engine, TritonEngine):
            asyncio.run_coroutine_threadsafe(engine.reconnect(line.strip()), loop)
    loop.call_soon_threadsafe(stopping.set)


if __name__ == "__main__":
    main()
