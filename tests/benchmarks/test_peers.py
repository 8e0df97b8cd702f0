"""Peers that run in this interpreter answer as the student does; peers that are not installed are reported."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import tiny_texts, write_csv

from benchmarks.field import making, shapes
from benchmarks.field.making import FieldBench
from benchmarks.field.study import SST2
from benchmarks.field.texts import FieldTexts
from benchmarks.harness.candidates import floor_candidates, peer_candidates
from benchmarks.harness.environments import requirements_of
from benchmarks.harness.peer import bytes_of, module_of, peers, reader_of, write_first_layers
from benchmarks.harness.scenario import Context
from benchmarks.harness.speed import SpeedSettings, run_speed
from benchmarks.peers import clockwork, external, http, stock, transformers
from benchmarks.peers.servers import SERVERS
from distill.bundle import Bundle
from distill.data import Dataset, Splits
from distill.errors import SettingsError
from distill.progress import SilentReporter
from export.measure import openers
from export.measure.openers import open_form
from export.measure.protocol import Job, prepared_seconds
from export.measure.workers import PeerError, prepare, started

ROOT = Path(__file__).parents[2]

# A peer keeps its connection, or its command, until its process ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.mark.slow  # and ONNX Runtime's quantizer in the lowest set stumbles over the exporter's shapes
def test_peers_on_the_students_weights_give_its_labels(tiny_student: Bundle, tmp_path: Path) -> None:
    test = write_csv(tmp_path / "test.csv", tiny_texts(64, seed=1))
    settings = SpeedSettings(
        bundles=(f"{tiny_student.path}:pytorch",),
        peers=("transformers", "stock"),
        test=str(test),
        rounds=8,
        settle_s=0.3,
        timeout_s=120,
    )
    outcome = run_speed("single", settings, Context(tmp_path, "single-stream", SilentReporter()))
    found = {row["name"]: row for row in outcome.rows}
    assert found["transformers"]["agreement"] == 1.0  # the same weights in the same library
    assert found["stock"]["agreement"] >= 0.9  # int8
    tokenizer = (tiny_student.path / "tokenizer.json").stat().st_size
    assert found["stock"]["size_bytes"] > tokenizer  # what is shipped is counted alike for all
    assert all(found[name]["source"].startswith("https://") for name in ("transformers", "stock"))


def test_a_peer_under_another_name_is_made_ready_and_opened_as_that_peer(
    tiny_student: Bundle, tiny_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(shapes, "SHAPES", {"small": small})
    monkeypatch.setattr(making, "LONGEST", 16)  # the tiny model has few positions
    (named,) = peer_candidates(["stock"], student=tiny_student.path)
    study = replace(SST2, base=str(tiny_student.path))
    (shape,) = shapes.shape_candidates(FieldBench(study, FieldTexts(tiny_splits, {}, (), {}, {}), tmp_path, SilentReporter()))
    for candidate in (replace(named, name="held back"), shape):
        assert (candidate.peer, module_of("stock").__name__) == ("stock", candidate.module)
    assert [each.peer for each in floor_candidates(tiny_student.path)] == [None, None]


def test_every_module_but_the_helpers_is_a_peer() -> None:
    files = {path.stem for path in (ROOT / "benchmarks" / "peers").glob("*.py")}
    assert files - set(peers()) == {"__init__", "clockwork", "external", "http"}


@pytest.mark.parametrize("name", peers())
def test_every_peer_names_its_source_and_exact_packages(name: str) -> None:
    needs, module = peers()[name], module_of(name)
    assert module.SOURCE.startswith("https://")
    assert callable(module.open_peer)
    assert all("==" in each or ">=" in each for each in needs.packages)
    assert needs.starts_from == "weights" or callable(getattr(module, "prepare", None))


def test_servers_have_environments_of_their_own_and_ours_has_none() -> None:
    assert requirements_of("infinity")[0].startswith("infinity-emb")
    assert not SERVERS["potstill"].packages
    assert requirements_of("stock") == ()


def test_a_peer_that_is_not_there_is_named(tiny_student: Bundle) -> None:
    with pytest.raises(SettingsError, match="there is no peer 'tensorrt'; there are ctranslate2, model2vec"):
        peer_candidates(["tensorrt"], student=tiny_student.path)


def test_one_word_names_every_peer(tiny_student: Bundle) -> None:
    assert [each.name for each in peer_candidates(["all"], student=tiny_student.path)] == list(peers())


def test_the_stock_recipe_answers_as_the_graph_it_made(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    (tmp_path / stock.GRAPH).write_bytes(tiny_student.read_graph("fp32"))
    job = Job(tiny_student.path, tmp_path, threads=1, max_length=tiny_student.manifest.max_length, labels=tiny_student.labels)
    peer, texts = stock.open_peer(job), tiny_test.single_texts()[:40]
    expected = open_form(tiny_student, "fp32", threads=1).predict_logits(texts)
    np.testing.assert_allclose(peer.many(texts), expected, atol=1e-4)
    np.testing.assert_allclose(peer.one(texts[0]), expected[0], atol=1e-4)
    assert peer.size_bytes == bytes_of(tiny_student.path, tmp_path / stock.GRAPH)


def test_getting_ready_ends_at_its_limit_and_leaves_no_stamp(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "stock", threads=1)
    with pytest.raises(PeerError, match=r"stock was not ready after 0\.01 s"):
        prepare("benchmarks.peers.stock", job, timeout_s=0.01)
    assert prepared_seconds(job) is None


def test_what_must_be_trained_says_that_it_has_no_texts(tiny_student: Bundle, tmp_path: Path) -> None:
    job = Job(tiny_student.path, tmp_path / "floor", threads=1, labels=tiny_student.labels, options={"floor": "tfidf"})
    with pytest.raises(PeerError, match="no training texts were named; give --train"), started(openers.__name__, job):
        pass


def probabilities(texts: Any) -> Any:
    """Answer as the Hugging Face inference API does: the longer a text, the surer of the first label."""
    if isinstance(texts, list):
        return [probabilities(text) for text in texts]
    sure = len(texts) / 10
    return [{"label": "a", "score": sure}, {"label": "b", "score": 1 - sure}]


@pytest.fixture
def answers() -> dict[str, Any]:
    """What the address answers to a request, and with which status; a test may change both."""
    return {"status": 200, "to": probabilities}


@pytest.fixture
def address(answers: dict[str, Any]) -> Iterator[Job]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            said = answers["to"](given)
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(answers["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/classify?top=all"
    yield Job(Path(), Path(), threads=1, labels=("a", "b"), options={"url": url})
    server.shutdown()
    server.server_close()


def test_an_address_gives_the_log_of_its_scores(address: Job, answers: dict[str, Any]) -> None:
    peer = http.open_peer(address)
    np.testing.assert_allclose(np.exp(peer.one("12345678")), [0.8, 0.2])
    texts = ["1" * (number % 10) for number in range(70)]  # more than two requests hold
    np.testing.assert_allclose(np.exp(peer.many(texts))[:, 0], [max(len(text) / 10, 1e-12) for text in texts])
    answers["to"] = lambda texts: [probabilities(texts)]  # nested, as text-embeddings-inference answers one text
    np.testing.assert_allclose(np.exp(peer.one("12345678")), [0.8, 0.2])
    answers["to"] = lambda _: {"label": "b", "score": 0.9}  # the best label alone: the other has what is missing
    np.testing.assert_allclose(np.exp(peer.one("a text")), [0.1, 0.9])


@pytest.mark.parametrize(
    ("status", "said", "word"),
    [
        (500, b"it broke", "it answered 500 b'it broke', wanted 200 and JSON"),
        (200, b"<html>", "it answered 200 b'<html>', wanted 200 and JSON"),
        (200, "positive", 'it answered "positive", wanted a list of label and score'),
        (200, [{"label": "c", "score": 1.0}], "it gave the labels c, wanted a, b"),
    ],
)
def test_an_address_that_answers_something_else_is_refused_at_the_start(
    status: int, said: Any, word: str, address: Job, answers: dict[str, Any]
) -> None:
    answers.update(status=status, to=lambda _: said)
    with pytest.raises(ValueError, match=re.escape(word)):
        http.open_peer(address)


def test_an_address_must_answer_every_text_and_be_one(address: Job, answers: dict[str, Any]) -> None:
    peer = http.open_peer(address)
    answers["to"] = lambda texts: probabilities(texts)[:1]
    with pytest.raises(ValueError, match="it gave 1 answers to 2 texts"):
        peer.many(["one", "two"])
    with pytest.raises(ValueError, match="localhost is not an address; wanted http://HOST:PORT/PATH"):
        http.open_peer(replace(address, options={"url": "localhost"}))


def test_a_command_is_given_a_text_a_line_and_answers_in_their_order() -> None:
    program = "import sys\nfor line in sys.stdin: print(line.split()[-1], flush=True)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"
    peer = external.open_peer(Job(Path(), Path(), threads=1, labels=("a", "b"), options={"command": command}))
    assert peer.one("a text of\nlines: b").tolist() == [0, 1]
    assert peer.many(["it is a", "it is b"] * 2000).argmax(axis=1).tolist() == [0, 1] * 2000  # more than a pipe holds
    with pytest.raises(ValueError, match="the command wrote 'c', wanted one of a, b a line"):
        peer.one("it is c")
    os.kill(peer.processes[0], signal.SIGKILL)
    with pytest.raises(ValueError, match="the command ended with code -9"):
        peer.many(["it is a"] * 10)


def test_the_clockwork_takes_as_long_as_it_is_told() -> None:
    peer = clockwork.open_peer(Job(Path(), Path(), threads=1, labels=("a", "b"), options={"ms": 5}))
    began = time.perf_counter()
    assert peer.many(["a text", "another"]).shape == (2, 2)
    assert time.perf_counter() - began >= 0.01


def test_the_pipeline_of_transformers_gives_the_logits(tiny_student: Bundle, tiny_test: Dataset, tmp_path: Path) -> None:
    texts = tiny_test.single_texts()[:40]
    labels, max_length = tiny_student.labels, tiny_student.manifest.max_length
    job = Job(tiny_student.path, tmp_path, threads=torch.get_num_threads(), max_length=max_length, labels=labels)
    peer, expected = transformers.open_peer(job), open_form(tiny_student, "pytorch").predict_logits(texts)
    np.testing.assert_allclose(peer.many(texts), expected, atol=1e-4)
    np.testing.assert_allclose(peer.one(texts[0]), expected[0], atol=1e-4)
    assert (peer.settings["order"], peer.settings["batch"]) == ("by length", 32)
    assert peer.size_bytes == bytes_of(tiny_student.path, "model.safetensors")


def test_a_peer_reads_texts_as_the_student_does(tiny_student: Bundle, tmp_path: Path) -> None:
    own, texts = tiny_student.tokenizer(), ["a dull film", "a lovely and brilliant story with music"]
    inputs = reader_of(Job(tiny_student.path, tmp_path, threads=1, max_length=own.max_length))(texts)
    assert [row[mask == 1].tolist() for row, mask in zip(*inputs.values(), strict=True)] == [
        ids.tolist() for ids in own.encode(texts)
    ]
    assert list(inputs) == ["input_ids", "attention_mask"]


def test_a_peer_that_distils_starts_from_the_first_layers_of_the_teacher(tiny_teacher: Bundle, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    job = Job(tiny_teacher.path, tmp_path, threads=1, teacher=tiny_teacher.path)
    folder = write_first_layers(job, tmp_path / "first")
    written, whole = (  # read as a peer does: some versions save other names than they read
        AutoModelForSequenceClassification.from_pretrained(place).state_dict() for place in (folder, tiny_teacher.path)
    )
    assert written
    assert {int(name.split(".")[3]) for name in written if ".layer." in name} == {0, 1, 2}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in written.items())
    assert (folder / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match="it distils, and there is no teacher; give --teacher"):
        write_first_layers(replace(job, teacher=None), folder)


def test_reading_what_peers_need_imports_nothing_heavy() -> None:
    program = "import sys; from benchmarks.harness.peer import peers; peers(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
