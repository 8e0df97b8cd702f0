"""Workers that hang or die: their requests are refused, others take their place, and health knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from served import Running, character_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from waiting import wait_until

from distill.classifier import TextInput
from distill.errors import DatasetError
from distill.labels import Logits, ProblemType
from distill.tokenization import TextTokenizer
from serve.answering.engine import Engine
from serve.answering.models import ModelSource
from serve.answering.queue import Batcher, Computed
from serve.errors import Reason, Refusal
from serve.settings import ServeSettings

HANG_S = 0.2
"""After so long a batch counts as one that hangs."""
BACKTRACKING = "a" * 28 + "b"
"""A text on which the regular expression of `Hanging` gives up, which ends in a panic of the tokenizers library."""


class Hanging:
    """A classifier that hangs on the text "hang" until it is let go, and panics on `BACKTRACKING`."""

    labels = ("length",)
    problem_type: ProblemType = "regression"

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.tokenizer = character_tokenizer()
        self._panicking = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        self._panicking.pre_tokenizer = pre_tokenizers.Split(Regex("(a|a)*$"), "isolated")

    def predict_logits(self, texts: Sequence[TextInput]) -> Logits:
        return self.predict_encoded(self.tokenizer.encode(texts))

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        texts = ["".join(map(chr, row)) for row in rows]
        if "hang" in texts:
            assert self.may_go.wait(60)
        self._panicking.encode_batch(texts)
        return np.array([[len(text)] for text in texts], np.float32)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    classifier = Hanging()
    yield classifier
    classifier.may_go.set()


def reason_of(asked: BaseException | object) -> Reason | object:
    return asked.reason if isinstance(asked, Refusal) else asked


@pytest.fixture
def served(hanging: Hanging, serve_sources: Callable[..., Running]) -> Running:
    settings = ServeSettings(port=0, drain_s=0, threads=1, deadline_ms=60_000, batch_timeout_s=HANG_S)
    source = ModelSource("tiny", Path("nowhere"), settings.limits_with({}), lambda _: Engine(hanging, max_length=64))
    return serve_sources([source], settings)


def test_a_batch_that_hangs_gets_503_and_another_thread_answers_the_rest(served: Running) -> None:
    asked = served.post("/predict", {"inputs": "hang"})
    assert (asked.status, asked.headers["retry-after"]) == (503, "1")
    assert served.post("/predict", {"inputs": "good"}).status == 200
    assert [served.ask("GET", path).status for path in ("/health/live", "/health/ready")] == [200, 200]
    metrics = served.ask("GET", "/metrics").body.decode()
    for line in (
        'potstill_replaced_threads_total{model="tiny"} 1.0',
        'potstill_answering{model="tiny"} 1.0',
        'potstill_requests_total{model="tiny",protocol="tei",status="503"} 1.0',
        'potstill_queue_seconds_count{model="tiny"} 1.0',  # of the batch that was computed
        'potstill_tokens_total{model="tiny"} 4.0',
    ):
        assert line in metrics


def test_a_server_whose_threads_all_hang_is_neither_ready_nor_live_until_one_comes_back(
    served: Running, hanging: Hanging
) -> None:
    with ThreadPoolExecutor(2) as pool:  # one hangs and is replaced, and its replacement hangs too
        for _ in range(2):
            assert pool.submit(served.post, "/predict", {"inputs": "hang"}).result().status == 503
    wait_until(lambda: served.ask("GET", "/health/live").status == 503)
    for path in ("/health/ready", "/v2/health/live", "/v2/models/tiny/ready"):
        assert served.ask("GET", path).status == 503
    assert served.post("/predict", {"inputs": "good"}).status == 503  # at once, not at its deadline
    hanging.may_go.set()
    wait_until(lambda: served.ask("GET", "/health/ready").status == 200)
    assert served.post("/predict", {"inputs": "good"}).status == 200


def test_a_panic_of_a_native_library_is_one_requests_and_no_threads_end(hanging: Hanging) -> None:
    engine = Engine(hanging, max_length=64)
    replaced: list[None] = []
    batcher = Batcher(threads=1, max_queue=9, max_batch_tokens=99, on_replaced=lambda: replaced.append(None))

    async def main() -> None:
        found = await asyncio.gather(
            *(batcher.submit([text], engine, deadline_s=60) for text in ("good", BACKTRACKING, "fine")), return_exceptions=True
        )
        assert reason_of(found[1]) is Reason.NOT_READY
        assert [answers[0].logits for answers in (found[0], found[2])] == [[4], [4]]  # type: ignore[index]

    asyncio.run(main())
    batcher.close()
    assert not replaced


def test_a_panic_of_the_tokenizer_is_an_error_of_its_text(hanging: Hanging) -> None:
    library = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    library.pre_tokenizer = pre_tokenizers.Split(Regex("(a|a)*$"), "isolated")
    hanging.tokenizer = TextTokenizer(library, max_length=64, pad_id=0)
    engine, batcher = Engine(hanging, max_length=64), Batcher(threads=1, max_queue=9, max_batch_tokens=99)

    async def main() -> None:
        found = await asyncio.gather(
            *(batcher.submit([text], engine, deadline_s=60) for text in ("good", BACKTRACKING, "fine")), return_exceptions=True
        )
        assert isinstance(found[1], DatasetError)
        assert all(isinstance(answers, list) for answers in (found[0], found[2]))

    asyncio.run(main())
    batcher.close()


def test_a_tokenizer_that_hangs_is_a_thread_that_hangs(hanging: Hanging) -> None:
    endless = models.WordPiece({"[UNK]": 0, "x": 1, "##x": 2}, unk_token="[UNK]", max_input_chars_per_word=10_000)
    hanging.tokenizer = TextTokenizer(Tokenizer(endless), max_length=64, pad_id=0)
    engine = Engine(hanging, max_length=64)
    batcher = Batcher(threads=1, max_queue=9, max_batch_tokens=99, timeout_s=HANG_S)

    async def main() -> None:
        with pytest.raises(Refusal) as refused:  # long before a word of 4,000 characters is split
            await batcher.submit(["x" * 4000], engine, deadline_s=60)
        assert refused.value.reason is Reason.NOT_READY
        assert len(await batcher.submit(["x"], engine, deadline_s=60)) == 1

    asyncio.run(main())
    assert batcher.admission.waiting_texts == batcher.admission.waiting_tokens == 0
    batcher.close()


def test_a_thread_that_dies_is_replaced_and_its_requests_are_refused(hanging: Hanging) -> None:
    def die_once(computed: Computed) -> None:
        batches.append(computed)
        if len(batches) == 1:
            raise OSError("the disk is full")

    batches: list[Computed] = []
    batcher = Batcher(threads=1, max_queue=9, max_batch_tokens=99, on_batch=die_once, timeout_s=HANG_S)

    async def main() -> None:
        engine = Engine(hanging, max_length=64)
        with pytest.raises(Refusal) as refused:
            await batcher.submit(["lost"], engine, deadline_s=60)
        assert refused.value.reason is Reason.NOT_READY
        (answer,) = await batcher.submit(["kept"], engine, deadline_s=60)
        assert answer.logits == [4]

    asyncio.run(main())
    assert batcher.is_answering
    batcher.close()
    assert [(batch.texts, len(batch.waits_s)) for batch in batches] == [(1, 1), (1, 1)]


def test_closing_does_not_wait_for_a_thread_that_hangs(hanging: Hanging) -> None:
    batcher = Batcher(threads=1, max_queue=9, max_batch_tokens=99, timeout_s=HANG_S)

    async def main() -> None:
        with pytest.raises(Refusal):
            await batcher.submit(["hang"], Engine(hanging, max_length=64), deadline_s=60)

    asyncio.run(main())
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
