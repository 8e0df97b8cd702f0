"""Change without stopping: reloads, several bundles, the cache, and the end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from served import Running
from waiting import wait_until

from distill.bundle import Bundle
from distill.errors import BundleError
from serve.answering.engine import Engine
from serve.answering.fallback import cascade_source
from serve.answering.models import ModelSource
from serve.settings import LimitSettings, ServeSettings, named_model

ROOT = Path(__file__).parents[3]
ADMIN = {"environment": {"POTSTILL_ADMIN_TOKENS": "admin-token"}}
BEARER = {"authorization": "Bearer admin-token"}


def test_a_reload_under_load_loses_no_request(
    serve_bundle: Callable[..., Running], copied: Callable[[Bundle], Bundle], tiny_student: Bundle
) -> None:
    server = serve_bundle(**ADMIN)
    wanted = server.post("/", {"inputs": "great film"}).body
    other = copied(tiny_student)
    answers: list[tuple[int, bytes]] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answered = server.post("/", {"inputs": "great film"})
            answers.append((answered.status, answered.body))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        body = {"bundle": str(other.path if number % 2 else tiny_student.path)}
        assert server.post("/admin/reload", body, **BEARER).status == 200
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(answers) > 4
    assert set(answers) == {(200, wanted)}


def test_a_damaged_bundle_is_not_taken_and_the_old_one_answers_on(
    serve_bundle: Callable[..., Running], copied: Callable[[Bundle], Bundle], tiny_student: Bundle
) -> None:
    copy = copied(tiny_student)
    server = serve_bundle(copy.path, **ADMIN)
    version = server.ask("GET", "/info").json["models"]["tiny"]["version"]
    graph = copy.path / "model_int8.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    refused = server.post("/admin/reload", {}, **BEARER)
    assert refused.status == 409
    assert str(copy.path) not in refused.body.decode()
    assert server.ask("GET", "/info").json["models"]["tiny"]["version"] == version
    assert server.post("/", {"inputs": "great"}).status == 200
    assert 'potstill_reloads_total{model="tiny",result="failed"} 1.0' in server.ask("GET", "/metrics").body.decode()


def test_reloading_all_keeps_a_damaged_model_and_reloads_the_others(
    serve_sources: Callable[..., Running], copied: Callable[[Bundle], Bundle], tiny_student: Bundle
) -> None:
    settings, copy = ServeSettings(port=0, drain_s=0), copied(tiny_student)
    paths = {"damaged": copy.path, "whole": tiny_student.path}
    server = serve_sources(
        [ModelSource.of_bundle(name, path, settings.limits_with({})) for name, path in paths.items()], settings
    )
    (copy.path / "model_int8.onnx").unlink()
    asyncio.run(server.app.reload_all())
    text = server.ask("GET", "/metrics").body.decode()
    assert 'potstill_reloads_total{model="damaged",result="failed"} 1.0' in text
    assert 'potstill_reloads_total{model="whole",result="done"} 1.0' in text
    assert server.post("/models/damaged", {"inputs": "great"}).status == 200


def test_a_bundle_that_may_not_be_read_does_not_stop_the_others_from_reloading(
    serve_sources: Callable[..., Running], tiny_student: Bundle
) -> None:
    settings, is_first = ServeSettings(port=0, drain_s=0), [True]

    def forbidden(folder: Path) -> Engine:
        if not is_first.pop():
            raise PermissionError(13, "Permission denied", str(folder))
        is_first.append(False)
        return Engine.open(tiny_student.path)

    limits = settings.limits_with({})
    sources = [
        ModelSource("closed", tiny_student.path, limits, forbidden),
        ModelSource.of_bundle("open", tiny_student.path, limits),
    ]
    server = serve_sources(sources, settings)
    asyncio.run(server.app.reload_all())
    text = server.ask("GET", "/metrics").body.decode()
    assert 'potstill_reloads_total{model="closed",result="failed"} 1.0' in text
    assert 'potstill_reloads_total{model="open",result="done"} 1.0' in text


@pytest.fixture
def gated(serve_sources: Callable[..., Running], tiny_student: Bundle) -> Iterator[tuple[Running, threading.Event, list[int]]]:
    """Return a server whose reloads wait for an event and are counted."""
    settings = ServeSettings(port=0, drain_s=0)
    may_go = threading.Event()
    opened: list[int] = []

    def open_when_told(folder: Path) -> Engine:
        opened.append(len(opened))
        assert len(opened) == 1 or may_go.wait(60)
        return Engine.open(folder)

    source = ModelSource("tiny", tiny_student.path, settings.limits_with({}), open_when_told)
    yield serve_sources([source], settings, ADMIN["environment"]), may_go, opened
    may_go.set()


def test_many_reloads_at_once_become_one_that_runs_and_one_that_waits(
    gated: tuple[Running, threading.Event, list[int]],
) -> None:
    server, may_go, opened = gated
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.post, "/admin/reload", {}, **BEARER) for _ in range(8)]
        refused = [each.result().status for each in itertools.islice(as_completed(asked), 6)]
        may_go.set()
        statuses = [each.result().status for each in asked]
    assert refused == [409] * 6
    assert sorted(statuses) == [200] * 2 + [409] * 6
    assert len(opened) == 3  # and the first one, at the start


def test_many_signals_become_one_reload_that_runs_and_one_that_follows(
    gated: tuple[Running, threading.Event, list[int]],
) -> None:
    server, may_go, opened = gated
    loop = server.server._loop
    assert loop is not None
    for _ in range(50):
        loop.call_soon_threadsafe(server.server._reload)
    wait_until(lambda: len(opened) >= 2)
    for _ in range(50):
        loop.call_soon_threadsafe(server.server._reload)
    may_go.set()
    wait_until(lambda: b'potstill_reloads_total{model="tiny",result="done"} 2.0' in server.ask("GET", "/metrics").body)
    assert len(opened) == 3


def test_a_reload_that_hangs_is_given_up_and_the_old_bundle_answers(gated: tuple[Running, threading.Event, list[int]]) -> None:
    server, may_go, opened = gated
    server.app.models["tiny"]._reload_timeout_s = 0.2
    for _ in range(2):  # the second one starts nothing
        assert server.post("/admin/reload", {}, **BEARER).status == 409
        assert server.post("/", {"inputs": "great"}).status == 200
    assert len(opened) == 2
    may_go.set()
    server.app.models["tiny"]._reload_timeout_s = 60
    wait_until(lambda: server.post("/admin/reload", {}, **BEARER).status == 200)


def refused_reload(server: Running, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Ask for a reload, require that the old bundle still answers, and return the reason in the log."""
    version = server.ask("GET", "/info").json["models"]["tiny"]["version"]
    assert server.post("/admin/reload", {"bundle": str(folder)}, **BEARER).status == 409
    assert server.ask("GET", "/info").json["models"]["tiny"]["version"] == version
    assert server.post("/", {"inputs": "great"}).status == 200
    return caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("dropping", "changes", "said"),
    [
        ({"model_int8.onnx"}, {}, "has precision fp32, the served one has int8"),
        ((), {"problem_type": "multi_label_classification"}, "has problem_type multi_label_classification, the served one has"),
        ((), {"pairs": "untyped"}, "has input sentence pairs, the served one has single texts"),
    ],
)
def test_a_reload_keeps_precision_task_and_what_is_classified(
    serve_bundle: Callable[..., Running],
    copied: Callable[[Bundle], Bundle],
    tiny_student: Bundle,
    caplog: pytest.LogCaptureFixture,
    dropping: Collection[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    server = serve_bundle(**ADMIN)
    other = copied(tiny_student).adding({}, dropping=frozenset(dropping), **changes)
    assert said in refused_reload(server, other.path, caplog)


def test_a_reload_requires_the_digest_again(
    serve_sources: Callable[..., Running],
    copied: Callable[[Bundle], Bundle],
    tiny_student: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = ServeSettings(port=0, drain_s=0, require_digest=(tiny_student.digest,))
    source = ModelSource.of_bundle("tiny", tiny_student.path, settings.limits_with({}), settings)
    server = serve_sources([source], settings, ADMIN["environment"])
    assert server.post("/admin/reload", {}, **BEARER).status == 200
    changed = copied(tiny_student).adding({}, num_parameters=1)
    assert f"has the digest {changed.digest}, but" in refused_reload(server, changed.path, caplog)


def test_a_cascade_keeps_the_precision_of_its_fallback(
    copied: Callable[[Bundle], Bundle], tiny_student: Bundle, tiny_fallback: Bundle
) -> None:
    def kind(fallback: Path) -> dict[str, Any]:
        source = cascade_source("tiny", tiny_student.path, fallback, LimitSettings(), min_confidence=0.5)
        return source.open(tiny_student.path).kind()

    assert kind(tiny_fallback.path)["precision of the fallback"] == "fp32"
    assert kind(tiny_student.path)["precision of the fallback"] == "int8"


def test_a_refused_reload_keeps_nothing_of_what_it_opened(serve_sources: Callable[..., Running], tiny_student: Bundle) -> None:
    settings, opened = ServeSettings(port=0, drain_s=0), []

    def open_and_refuse(folder: Path) -> Engine:
        engine = Engine.open(folder)
        opened.append(weakref.ref(engine.classifier))
        if len(opened) > 1:
            try:
                (lambda: engine.about["none"])()  # a closure is kept by its frame, whatever becomes of the frame's names
            except KeyError as exc:
                raise BundleError("refused") from exc
        return engine

    server = serve_sources(
        [ModelSource("tiny", tiny_student.path, settings.limits_with({}), open_and_refuse)], settings, ADMIN["environment"]
    )
    gc.disable()
    try:
        for _ in range(2):
            assert server.post("/admin/reload", {}, **BEARER).status == 409
        assert [reference() is None for reference in opened] == [False, True, True]
    finally:
        gc.enable()


def test_a_reload_request_that_is_not_one_is_400(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(**ADMIN)
    for body in (b"[]", b"{", b'{"bundle": 1}', b'{"other": "a"}', b'{"model": ""}'):
        assert server.ask("POST", "/admin/reload", body, **BEARER).status == 400, body
    assert server.post("/admin/reload", {"model": "none"}, **BEARER).status == 404


def test_several_bundles_each_with_its_limits(serve_sources: Callable[..., Running], tiny_student: Bundle) -> None:
    settings = ServeSettings(port=0, drain_s=0, max_texts=5)
    name, path, options = named_model(f"second={tiny_student.path},max_texts=1,precision=fp32")
    sources = [
        ModelSource.of_bundle("first", tiny_student.path, settings.limits_with({})),
        ModelSource.of_bundle(name, path, settings.limits_with(options)),
    ]
    server = serve_sources(sources, settings)
    two = {"inputs": ["great", "dull"]}
    assert server.post("/", two).status == 200
    assert server.post("/models/first", two).status == 200
    assert server.post("/models/second", two).status == 422
    assert server.post("/models/second/predict", {"inputs": "great"}).status == 200
    assert server.post("/models/third", two).status == 404
    models = server.ask("GET", "/info").json["models"]
    assert [models[each]["precision"] for each in ("first", "second")] == ["int8", "fp32"]


def test_a_model_is_named_with_its_limits() -> None:
    assert named_model("a=b/c,max_texts=2") == ("a", Path("b/c"), {"max_texts": "2"})
    assert ServeSettings(max_queue=7).limits_with({"max_texts": "2"}) == LimitSettings(max_queue=7, max_texts=2)
    for wrong in ("a", "=b", "a=", "a/b=c", "a=b,max_texts"):
        with pytest.raises(ValueError, match="NAME=FOLDER"):
            named_model(wrong)
    with pytest.raises(ValueError, match="'port'"):
        ServeSettings().limits_with({"port": "1"})


def test_the_cache_is_bounded_and_its_hits_are_counted(serve_bundle: Callable[..., Running]) -> None:
    server = serve_bundle(cache_entries=2)
    first = server.post("/", {"inputs": ["great", "dull"]}).json
    assert server.post("/", {"inputs": ["dull", "great"]}).json == first[::-1]
    server.post("/", {"inputs": "film"})  # pushes "dull" out
    server.post("/", {"inputs": ["great", "dull"]})
    text = server.ask("GET", "/metrics").body.decode()
    assert 'potstill_cache_total{model="tiny",result="hit"} 3.0' in text
    assert 'potstill_cache_total{model="tiny",result="miss"} 4.0' in text


@contextmanager
def process(bundle: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serve", str(bundle), "--port", str(port), *flags]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: status_of(f"{url}/health/ready") == 200)
        yield running, url
    finally:
        running.kill()
        running.communicate()


def status_of(url: str, body: bytes | None = None) -> int:
    try:
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def test_sigterm_is_not_ready_first_then_ends_with_0_and_loses_nothing(tiny_student: Bundle) -> None:
    with process(tiny_student.path, "--drain-s", "3") as (running, url):
        body = json.dumps({"inputs": ["great film"] * 100}).encode()
        statuses: list[int] = []
        asking = [threading.Thread(target=lambda: statuses.append(status_of(url, body))) for _ in range(8)]
        for thread in asking:
            thread.start()
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: status_of(f"{url}/health/ready") == 503)
        assert status_of(url, b'{"inputs": "great"}') == 200  # not ready, and still taken
        for thread in asking:
            thread.join()
        assert running.wait(timeout=30) == 0
        assert statuses == [200] * 8


def test_a_second_signal_ends_at_once(tiny_student: Bundle) -> None:
    with process(tiny_student.path, "--drain-s", "50") as (running, url):
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: status_of(f"{url}/health/ready") == 503)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 1


BLOCKS = """
import ctypes, sys
from pathlib import Path
from serve.http.server import return_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1:]:
    return_large_blocks()
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
before = megabytes()
for _ in range(2):
    blocks = []
    for _ in range(64):
        blocks.append(libc.malloc(256 << 10))
        ctypes.memset(blocks[-1], 1, 256 << 10)
        libc.malloc(4096)  # above it
    for block in blocks:
        libc.free(block)
print(megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_what_a_reload_frees_goes_back_to_the_system() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", BLOCKS, *how], cwd=ROOT, check=True, capture_output=True).stdout)
        for how in ([], ["returned"])
    )
    assert kept >= 15
    assert returned <= 1


def test_sighup_reads_the_bundle_again(tiny_student: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "current"
    shutil.copytree(tiny_student.path, tmp_path / "next")
    link.symlink_to(tiny_student.path)
    with process(link) as (running, url):
        running.send_signal(signal.SIGHUP)

        def reloads() -> bytes:
            with urllib.request.urlopen(f"{url}/metrics") as response:
                return bytes(response.read())

        wait_until(lambda: b'potstill_reloads_total{model="current",result="done"} 1.0' in reloads())
        assert status_of(url, b'{"inputs": "great"}') == 200
