"""What every face gives with an answer: the request's id, and no more of a defect than that."""

from __future__ import annotations

import logging
import re
import uuid

from gan_core.errors import InternalError, ServiceError

__all__ = ["hidden", "request_id_of", "shown"]

log = logging.getLogger(__name__)

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(given: str) -> str:
    """The caller's id where it sent a sane one, else a new one."""
    return given if SANE_ID.fullmatch(given) else uuid.uuid4().hex


def hidden() -> InternalError:
    """All that a client may know of a defect."""
    return InternalError("the server failed; its log has the details")


def shown(error: ServiceError, request_id: str) -> ServiceError:
    """What a client may know of an error: of a defect, nothing but that; the log has the rest."""
    if not isinstance(error, InternalError):
        return error
    log.error("request %s: %s", request_id, error)
    return hidden()
