"""Attacks by what is asked: tokens, hosts, paths, names, log lines and tensors that lie."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.attacks.wire import ADMIN_TOKEN, TOKEN, Seen, Target, ask, head, texts_body, whole

FORGED = "forged-by-a-client"
SPELLINGS = (
    "/..%2f..%2fetc%2fpasswd",
    "/models/..%2f..%2f",
    "/models/%2e%2e/predict",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%c0%af..%c0%afetc/passwd",
    "/models/tiny%00/predict",
    "/v2/models/..;/infer",
    "//etc/passwd",
    "/%252e%252e/%252e%252e/etc/passwd",
    "/\\..\\..\\etc\\passwd",
    "http://evil.example/etc/passwd",
    "/static/../../../etc/passwd",
)


async def token_guessing(target: Target) -> Seen:
    """Try tokens that are nearly right; only the right one opens."""
    guesses = [TOKEN[:-1], TOKEN + "a", TOKEN.upper(), TOKEN.replace("-", "_"), "", " ", "*", "null", TOKEN[:8], "a" * 8000]
    spelled = [f"authorization: Bearer {guess}" for guess in guesses]
    spelled += [f"authorization: Basic {TOKEN}", f"x-authorization: Bearer {TOKEN}", f"authorization: {TOKEN}"]
    body = texts_body(["good"])
    seen = await ask(target, [whole("POST", "/predict", line, body=body) for line in spelled], expected=(401,))
    seen.add(await ask(target, [whole("POST", "/predict", f"authorization: Bearer {TOKEN}", body=body)], expected=(200,)))
    return seen


async def admin_probing(target: Target) -> Seen:
    """Try the admin routes without a token, with a caller's, and with one that is nearly right."""
    lines: tuple[list[str], ...] = ([], [f"authorization: Bearer {TOKEN}"], [f"authorization: Bearer {ADMIN_TOKEN[:-1]}"])
    messages = [whole("POST", path, *some, body=b"{}") for path in ("/admin/reload", "/%61dmin/reload") for some in lines]
    return await ask(target, messages, expected=(401,))


async def foreign_origin(target: Target) -> Seen:
    """Ask as a page of another origin does; no header may let it read the answer."""
    seen = Seen()
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        status, names = await _headers(target, whole("GET", "/info", f"origin: {origin}"))
        seen.statuses[status] += 1
        if "access-control-allow-origin" in names:
            seen.broken[f"the origin {origin} may read answers"] += 1
    return seen


async def forged_address(target: Target) -> Seen:
    """Name another address as one's own; the log must have the peer's."""
    seen = await ask(target, [whole("GET", "/info", "x-forwarded-for: 203.0.113.9")], expected=(200,), times=5)
    return _log_has_not(target, seen, "203.0.113.9")


async def forged_log_line(target: Target) -> Seen:
    """Put line ends and a made-up line into paths."""
    lines = (f"/a%0a{FORGED}", f"/a%0d%0a{FORGED}%20200", f"/a%e2%80%a8{FORGED}", f"/models/x%0a{FORGED}/predict")
    seen = await ask(target, [whole("GET", path) for path in lines], allowed=(404, 405))
    return _log_has_not(target, seen, f"\n{FORGED}", f"\u2028{FORGED}", f"\r{FORGED}")


async def forged_request_id(target: Target) -> Seen:
    """Put control characters, spaces and markup into the id of a request."""
    ids = ("\x1b[31mred", f"a {FORGED}", "<script>", "a" * 5000, "\xe9\xe8")
    seen = Seen()
    for each in ids:
        status, names = await _headers(target, whole("GET", "/info", f"x-request-id: {each}"))
        seen.statuses[status] += 1
        if status == 200 and names.get("x-request-id") == each:
            seen.broken["a request id with other characters was used"] += 1
    return _log_has_not(target, seen, FORGED, "\x1b[31m")


async def path_traversal(target: Target) -> Seen:
    """Ask for files and models outside of the server's."""
    return await ask(
        target,
        [whole(method, path) for method in ("GET", "POST") for path in SPELLINGS],
        allowed=(400, 404, 405),
    )


async def distinct_paths(target: Target) -> Seen:
    """Ask for ever other long paths; nothing of them may stay."""
    seen, block = Seen(), "p" * 28_000
    for start in range(0, 4000, 40):
        requests = b"".join(whole("GET", f"/{number}/{block}") for number in range(start, start + 40))
        seen.add(await ask(target, [requests], expected=(404,) * 40))
    return seen


async def distinct_labels(target: Target) -> Seen:
    """Name ever other models, paths and methods; the metrics may have no series for them."""
    before = _series(target)
    seen = await ask(target, [whole("GET", f"/models/{number}") for number in range(100)], expected=(405,))
    seen.add(await ask(target, [whole("POST", f"/v2/models/m{number}/infer") for number in range(100)], expected=(404,)))
    if _series(target) > before + 100:  # a status that is new brings the buckets of a histogram
        seen.broken["the metrics have series for what a client names"] += 1
    return seen


async def lying_tensors(target: Target) -> Seen:
    """Declare shapes, sizes and lengths of tensors that are not there."""
    path = f"/v2/models/{target.name}/infer"

    def request(tensor: dict[str, Any], tail: bytes = b"", length: int | None = None) -> bytes:
        content = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", **tensor}]}).encode()
        lines = (f"inference-header-content-length: {len(content) if length is None else length}",) if tail else ()
        return whole("POST", path, *lines, body=content + tail)

    binary: dict[str, Any] = {"shape": [1], "parameters": {"binary_data_size": 9}}
    messages = [
        request({"shape": [2**40], "data": ["a"]}),
        request({"shape": [2**31], "data": ["a"]}),
        request({"shape": [-1], "data": ["a"]}),
        request({"shape": [3], "data": ["a"]}),
        request(binary, b"\xff\xff\xff\xffabcde"),
        request(binary, b"\x05\0\0\0abcde", length=2**31),
        request(binary, b"\x05\0\0\0abcde", length=3),
        request({"shape": [1], "parameters": {"binary_data_size": 2**31}}, b"\x05\0\0\0abcde"),
        head("POST", path, "content-length: 2") + b"\r\n{}",
    ]
    return await ask(target, messages, expected=(400,))


def _series(target: Target) -> int:
    return target.server.ask("GET", "/metrics")[1].count(b"\npotstill_request")


def _log_has_not(target: Target, seen: Seen, *forged: str) -> Seen:
    log = target.server.log()
    for each in forged:
        if each in log:
            seen.broken["the log has what a client forged"] += 1
    return seen


async def _headers(target: Target, request: bytes) -> tuple[int, dict[str, str]]:
    reader, writer = await target.connect()
    writer.write(request)
    heard = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    writer.transport.abort()
    pairs = (line.split(": ", 1) for line in heard[1:] if ": " in line)
    return int(heard[0].split()[1]), {name.lower(): value for name, value in pairs}
