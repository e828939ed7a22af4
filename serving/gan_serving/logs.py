"""The server's log: one JSON object per line for machines, colours for people."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from . import tracing

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

__all__ = ["set_up_logs"]


def set_up_logs(style: str, level: str = "warning") -> None:
    """Bring everything that anybody logs to stderr, as ``json`` or as ``text``.

    ``level`` is of ganforge and its libraries; requests are logged from ``info`` on.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _traced,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # rich's would show the values of variables, keys too, and take a second over it
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn.error", "python_multipart"):  # their warnings are clients' faults
        logging.getLogger(name).setLevel(logging.ERROR)


def _traced(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """With the id of the trace that the line belongs to, where there is one."""
    if trace_id := tracing.trace_id():
        entry["trace_id"] = trace_id
    return entry
