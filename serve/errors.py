"""Why a request is refused, independent of protocols.

A protocol turns a `Refusal` into its own error body. The message is for the client and never holds the text of an exception.
"""

from __future__ import annotations

import logging
from enum import Enum

logger = logging.getLogger(__name__)


class Reason(Enum):
    """What went wrong, with its HTTP status; a protocol may use another."""

    MALFORMED = 400
    UNAUTHORIZED = 401
    NOT_FOUND = 404
    METHOD = 405
    TOO_SLOW = 408
    CONFLICT = 409
    TOO_LARGE = 413
    MEDIA_TYPE = 415
    MISDIRECTED = 421
    INVALID = 422
    OVERLOADED = 429
    HEAD_TOO_LARGE = 431
    GONE = 499
    FAILED = 500
    NOT_READY = 503
    LATE = 504


class Refusal(Exception):  # noqa: N818  # not an error of the server
    """A request is refused.

    Attributes:
        reason: What went wrong.
        message: One sentence for the client.
        retry_after_s: When to try again; None when that does not help.
    """

    def __init__(self, reason: Reason, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


def error_of(failure: BaseException) -> Exception:
    """Return what a request fails with: a panic of a native library is no Exception, and would end thread and task."""
    if isinstance(failure, Exception):
        return failure
    logger.error("a native library failed", exc_info=failure)
    return Refusal(Reason.NOT_READY, "computing the answer failed")


def without_frames(failure: Exception) -> Exception:
    """Let go of the frames of a failure: they hold a whole graph, often in a cycle that waits for a collection."""
    each: BaseException | None = failure
    while each is not None:
        each.__traceback__ = None
        each = each.__context__
    return failure
