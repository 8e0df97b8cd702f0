"""One request to an OpenAI-compatible address, and what its failure means. Sends the texts nowhere else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

import httpx2

from distill.asking.settings import AddressSettings
from distill.errors import AddressError

REFUSED_TEXT = (400, 413, 422)
"""The address refuses this one request: it is too long, filtered, or has a parameter that the address does not know."""
TRY_AGAIN = (408, 409, 425, 429)
FailureKind = Literal["connection", "throttled", "server", "reply"]


class TryAgainError(Exception):
    """A request that may succeed later.

    Attributes:
        kind: What failed: `connection` before anything was sent; `throttled` for too many requests; `server` for an error
            there; `reply` where the model may have answered, and the answer was lost.
        after_s: Seconds that the address asks to wait, if it says.
    """

    def __init__(self, words: str, *, kind: FailureKind, after_s: float | None = None) -> None:
        super().__init__(words)
        self.kind: FailureKind = kind
        self.after_s = after_s


class RefusedTextError(Exception):
    """A request that the address will refuse each time."""


@dataclass(frozen=True)
class Reply:
    """What a model replied.

    Attributes:
        content: The text of the reply.
        positions: Its tokens with log-probabilities, empty without.
        is_cut: Whether it reached the longest length.
        model: The model's name, as the address gives it.
        fingerprint: The address's name of the model's build, if it gives one.
        input_tokens: Tokens of the question, None where the address does not count them.
        output_tokens: Tokens of the reply, likewise.
    """

    content: str
    positions: list[dict[str, Any]]
    is_cut: bool
    model: str
    fingerprint: str
    input_tokens: int | None
    output_tokens: int | None


class Address:
    """An OpenAI-compatible address. An asynchronous context manager."""

    def __init__(self, settings: AddressSettings, environment: Mapping[str, str] = os.environ) -> None:
        """Name the address; the key comes from the environment only, so that it is in no file and no list of processes."""
        key = environment.get(settings.key_variable)
        self._settings = settings
        self._url = settings.endpoint.rstrip("/") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._ssl = httpx2.create_ssl_context()
        self._open = AsyncExitStack()
        self._idle: list[httpx2.AsyncClient] = []

    async def __aenter__(self) -> Self:
        await self._open.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Yield a client that no other request uses: one for all would look at every idle connection before each request."""
        if not self._idle:
            limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
            # no proxy: the texts go to the named address
            client = httpx2.AsyncClient(headers=self._headers, timeout=None, limits=limits, trust_env=False, verify=self._ssl)
            self._idle.append(await self._open.enter_async_context(client))
        client = self._idle.pop()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def ask(self, body: dict[str, Any]) -> Reply:
        """Send one request.

        Raises:
            TryAgainError: It failed in a way that may pass.
            RefusedTextError: The address refuses this request.
            AddressError: The address refuses every request.
        """
        try:
            async with self._connection() as client, asyncio.timeout(self._settings.deadline_s):
                response = await client.post(self._url, json=body)
        except TimeoutError as exc:
            raise TryAgainError(f"no whole reply within {self._settings.deadline_s:g} s (--deadline-s)", kind="reply") from exc
        except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as exc:
            raise TryAgainError(f"cannot connect to {self._settings.endpoint}: {exc}", kind="connection") from exc
        except httpx2.HTTPError as exc:
            raise TryAgainError(f"the reply was cut off ({type(exc).__name__})", kind="reply") from exc
        if response.status_code != httpx2.codes.OK:
            raise self._failure(response)
        try:
            return _reply(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            raise TryAgainError("the reply is no chat completion", kind="reply") from exc

    def _failure(self, response: httpx2.Response) -> Exception:
        status, code, said = response.status_code, *_said(response)
        words = f"{self._settings.endpoint} answers {status}{f': {said}' if said else ''}"
        if status in REFUSED_TEXT:
            return RefusedTextError(words)
        if (status in TRY_AGAIN or status >= 500) and code != "insufficient_quota":
            return TryAgainError(words, kind="throttled" if status == 429 else "server", after_s=_retry_after_s(response))
        hints = {
            401: f"set the key in the environment variable {self._settings.key_variable} (--key-variable)",
            403: f"the key in {self._settings.key_variable} (--key-variable) may not ask this model",
            404: "check --endpoint, which usually ends in /v1, and --model",
        }
        return AddressError(f"{words}; {hints.get(status, 'nothing was answered; check --endpoint and your account there')}")


def _reply(body: dict[str, Any]) -> Reply:
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    message = choice["message"]
    return Reply(
        content=str(message.get("content") or message.get("refusal") or ""),
        positions=list((choice.get("logprobs") or {}).get("content") or ()),
        is_cut=choice.get("finish_reason") == "length",
        model=str(body.get("model") or ""),
        fingerprint=str(body.get("system_fingerprint") or ""),
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _said(response: httpx2.Response) -> tuple[str, str]:
    """Return the code and the first line of the message of an error, empty where it has none."""
    try:
        error = response.json()["error"]
        code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = None, response.text
    return str(code or ""), " ".join(str(message or "").split())[:200]


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Return the seconds of `Retry-After`, which has a number or a date."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
