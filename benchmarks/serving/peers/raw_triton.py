"""Triton without a gateway: python raw_triton.py REPOSITORY ADDRESS

Writes where it answers gRPC to the file ADDRESS, once the models are loaded.
"""

import asyncio
import signal
import sys
from pathlib import Path

from gan_serving.local_triton import home
from gan_serving.repository import model_names
from gan_serving.triton_engine import TritonEngine
from gan_serving.triton_process import LocalTriton

repository, address = map(Path, sys.argv[1:])


async def load(triton: LocalTriton) -> None:
    engine = TritonEngine(triton.address)
    await asyncio.gather(*map(engine.load, model_names(repository)))
    await engine.close()


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
triton = LocalTriton(repository, home=home(), log=address.with_suffix(".log"))
triton.start()
try:
    asyncio.run(load(triton))
    address.write_text(triton.address)
    signal.pause()
finally:
    triton.stop()
