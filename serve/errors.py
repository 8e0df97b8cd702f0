"""Why a request was refused, in no protocol's words yet.

A protocol turns a `Refusal` into its own body. The message is for the client: it never holds an exception's text.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """What went wrong, and the HTTP status it has unless a protocol has another."""

    MALFORMED = 400
    UNAUTHORIZED = 401
    NOT_FOUND = 404
    METHOD = 405
    TOO_SLOW = 408
    CONFLICT = 409
    TOO_LARGE = 413
    MEDIA_TYPE = 415
    INVALID = 422
    OVERLOADED = 429
    GONE = 499
    FAILED = 500
    NOT_READY = 503
    LATE = 504


class Refusal(Exception):  # noqa: N818  # not an error of the server's
    """A request that is not answered.

    Attributes:
        reason: What went wrong.
        message: One sentence for the client.
        retry_after_s: When to try again, where that helps.
    """

    def __init__(self, reason: Reason, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
