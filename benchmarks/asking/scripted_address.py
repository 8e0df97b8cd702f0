"""An OpenAI-compatible address that answers by a script, and does what real ones do wrong.

It runs in a thread of its own, so that a test or a scenario can look at what it was asked. A label is generated word by word,
with the log-probabilities that follow from the probabilities of the labels: as in a real model, labels that begin with the
same word share their first token.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Fault = Literal["429", "429-date", "429-silent", "500", "cut", "slow", "html", "wrong-label", "prose", "other-language", "400"]
Shares = Mapping[str, float]

WRONG = {
    "wrong-label": '{"label": "mixed"}',
    "prose": 'Of course! Here is my answer:\n```json\n{"label": "LABEL"}\n```\nLet me know if I can help.',
    "other-language": '{"label": "positiv"}',
}


@dataclass
class Received:
    """One request: its text, the labels offered, the body, and the Authorization header."""

    text: str
    labels: tuple[str, ...]
    body: dict[str, Any]
    key: str


@dataclass
class ScriptedAddress:
    """The address; a context manager that serves while it is open.

    Attributes:
        answer: From a text and the labels offered, in their order, to the probability of each.
        fault: What goes wrong with a request, by its number from 0; None: nothing.
        latency_s: Seconds before each answer.
        model: The name in the replies.
        fingerprint: The build in the replies.
        has_logprobs: Whether it returns log-probabilities.
        top: The most alternatives that it returns at a token.
        has_schema: Whether it takes a JSON schema.
        retry_after_s: Seconds of `Retry-After`.
    """

    answer: Callable[[str, tuple[str, ...]], Shares]
    fault: Callable[[int], Fault | None] = lambda _: None
    latency_s: float = 0.0
    model: str = "scripted-1"
    fingerprint: str = "build-1"
    has_logprobs: bool = True
    top: int = 20
    has_schema: bool = True
    retry_after_s: float = 0.2
    received: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048)
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The address, as `--endpoint` takes it."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _closed(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:] if line)
                }
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                number = len(self.received)
                self.received.append(_received(body, headers.get("authorization", "")))
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                await asyncio.sleep(self.latency_s)
                self.at_once -= 1
                if not await self._replied(writer, self.received[number], self.fault(number)):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone, killed or not
        finally:
            writer.close()

    async def _replied(self, writer: asyncio.StreamWriter, request: Received, fault: Fault | None) -> bool:
        """Write a reply, or what goes wrong; return whether the connection goes on."""
        if fault in ("429", "429-date", "429-silent"):
            after = {"429": f"{self.retry_after_s}", "429-date": "Fri, 31 Dec 1999 23:59:59 GMT"}.get(fault)
            await _write(writer, 429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, after=after)
        elif fault == "500":
            await _write(writer, 500, {"error": {"message": "out of memory"}})
        elif fault == "400" or ("response_format" in request.body and not self.has_schema):
            await _write(writer, 400, {"error": {"message": "this request is not supported"}})
        elif fault == "html":
            await _write(writer, 200, "<html>Sign in</html>")
        elif fault == "cut":
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n{"choices": [')
            await writer.drain()
            return False
        elif fault == "slow":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
            for _ in range(9999):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            await _write(writer, 200, self._completion(request, fault))
        return True

    def _completion(self, request: Received, fault: Fault | None) -> dict[str, Any]:
        shares = self.answer(request.text, request.labels)
        label = drawn(shares, request)
        top = min(self.top, request.body.get("top_logprobs", self.top))
        tokens = generated(shares, label, top=top, as_json="JSON" in request.body["messages"][0]["content"])
        content = "".join(token["token"] for token in tokens)
        if fault is not None:
            content, tokens = WRONG[fault].replace("LABEL", label), []
        prompt = sum(len(message["content"]) for message in request.body["messages"]) // 4
        return {
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": [
                {
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": "stop",
                    "logprobs": {"content": tokens} if self.has_logprobs and request.body.get("logprobs") else None,
                }
            ],
            "usage": {"prompt_tokens": prompt, "completion_tokens": len(tokens)},
        }


def drawn(shares: Shares, request: Received) -> str:
    """Return the likeliest of the labels offered or, at a temperature, one that is drawn; to the same request the same."""
    temperature = request.body.get("temperature", 0)
    if not temperature:
        return max(request.labels, key=lambda name: shares[name])
    weights = [shares[name] ** (1 / temperature) for name in request.labels]
    return random.Random(f"{request.labels} {request.text}").choices(request.labels, weights)[0]  # noqa: S311


def generated(shares: Shares, label: str, *, top: int, as_json: bool) -> list[dict[str, Any]]:
    """Return the tokens of a label, each with its log-probability and the `top` likeliest at its place."""
    ending = '"}' if as_json else "<|end|>"
    words = {name: (*re.findall(r"\s*\S+", name), ending) for name in shares}
    tokens = [_token(token, 1.0, {token: 1.0}) for token in (('{"', "label", '": "') if as_json else ())]
    for place, token in enumerate(words[label][: None if as_json else -1]):
        begun = words[label][:place]
        following: dict[str, float] = defaultdict(float)
        for name, share in shares.items():
            if words[name][:place] == begun:
                following[words[name][place]] += share
        total = sum(following.values())
        likely = dict(sorted(following.items(), key=lambda item: -item[1])[:top])
        tokens.append(_token(token, following[token] / total, {one: share / total for one, share in likely.items()}))
    return tokens


def _token(token: str, share: float, others: Shares) -> dict[str, Any]:
    def one(token: str, share: float) -> dict[str, Any]:
        return {"token": token, "logprob": math.log(max(share, 1e-30)), "bytes": list(token.encode())}

    return {**one(token, share), "top_logprobs": [one(name, value) for name, value in others.items()]}


def _received(body: dict[str, Any], key: str) -> Received:
    system, user = (str(message["content"]) for message in body["messages"])
    texts = [found[2] for found in re.finditer(r"<(text-[0-9a-f]{8})>\n(.*?)\n</\1>", user, flags=re.DOTALL)]
    return Received("\n".join(texts), tuple(re.findall(r"^- (.+?)(?::|$)", system, flags=re.M)), body, key)


async def _write(writer: asyncio.StreamWriter, status: int, body: object, *, after: str | None = None) -> None:
    content = (body if isinstance(body, str) else json.dumps(body)).encode()
    head = [f"HTTP/1.1 {status} Status", "content-type: application/json", f"content-length: {len(content)}"]
    head += [f"retry-after: {after}"] if after is not None else []
    writer.write("\r\n".join([*head, "", ""]).encode() + content)
    await writer.drain()
