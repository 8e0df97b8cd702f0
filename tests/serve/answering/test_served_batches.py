"""The queue: order, fairness, deadlines, and who is skipped; with an engine whose every batch can be watched."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from served import Lengths
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from distill.errors import DatasetError, SettingsError
from distill.labels import Logits
from distill.tokenization import Reading, TextTokenizer
from serve.answering.admission import TURN_TOKENS, WAIT_SHARE
from serve.answering.engine import Engine, RowAnswer
from serve.answering.queue import Batcher
from serve.errors import Reason, Refusal


def lengths_of(answers: Sequence[object]) -> list[float]:
    return [answer.logits[0] for answer in answers]  # type: ignore[attr-defined]


class Held:
    """A batcher, of one thread unless told, that is held by a first request."""

    def __init__(self, *, threads: int = 1, max_queue: int = 1000, max_batch_tokens: int = 100) -> None:
        self.classifier = Lengths()
        self.engine = Engine(self.classifier, max_length=64)
        self.batcher = Batcher(threads=threads, max_queue=max_queue, max_batch_tokens=max_batch_tokens)

    async def __aenter__(self) -> Held:
        self.first = self.ask(["first"])
        await asyncio.to_thread(self.classifier.has_begun.wait, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go()
        await asyncio.gather(self.first, return_exceptions=True)
        await asyncio.to_thread(self.batcher.close)

    def ask(
        self, texts: list[str], *, client: str = "", deadline_s: float = 20, is_wanted: bool = True
    ) -> asyncio.Task[list[object]]:
        answer = self.batcher.submit(texts, self.engine, client=client, deadline_s=deadline_s, is_wanted=lambda: is_wanted)
        return asyncio.get_running_loop().create_task(answer)  # type: ignore[arg-type]

    def go(self) -> None:
        self.classifier.may_go.set()


def test_what_waits_is_answered_together_and_in_order() -> None:
    async def main() -> None:
        async with Held() as held:
            tasks = [held.ask(["x" * size]) for size in (3, 1, 2)]
            await asyncio.sleep(0)
            held.go()
            assert [lengths_of(await task) for task in tasks] == [[3], [1], [2]]
            assert held.classifier.batches == [["first"], ["xxx", "x", "xx"]]

    asyncio.run(main())


def test_threads_that_compute_nothing_share_what_waits() -> None:
    async def main() -> None:
        classifier = Lengths()
        engine, batcher = Engine(classifier, max_length=64), Batcher(threads=2, max_queue=100, max_batch_tokens=100)
        while batcher.idle_threads < 2:
            await asyncio.sleep(0.001)

        def ask(text: str) -> asyncio.Task[list[object]]:
            return asyncio.get_running_loop().create_task(batcher.submit([text], engine, deadline_s=20))  # type: ignore[arg-type]

        together = [ask(text) for text in ("a1", "a2", "b1", "b2")]
        async with asyncio.timeout(10):
            while batcher.idle_threads:  # each has begun with its share
                await asyncio.sleep(0.001)
        classifier.may_go.set()
        await asyncio.gather(*together)
        assert sorted(classifier.batches) == [["a1", "a2"], ["b1", "b2"]]
        await asyncio.to_thread(batcher.close)

    asyncio.run(main())


class HoldsOther(Lengths):
    """Holds the text "other" until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.has_other = threading.Event()

    def predict_encoded(self, rows: Sequence[NDArray[np.int64]]) -> Logits:
        if len(rows[0]) == len("other"):
            self.has_other.set()
            assert self.may_end.wait(20)
        return super().predict_encoded(rows)


def test_a_thread_takes_all_that_waits_while_the_others_compute() -> None:
    async def main() -> None:
        classifier = HoldsOther()
        engine, batcher = Engine(classifier, max_length=64), Batcher(threads=2, max_queue=100, max_batch_tokens=100)
        asked = [asyncio.create_task(batcher.submit(["other"], engine, deadline_s=20))]
        await asyncio.to_thread(classifier.has_other.wait, 20)
        asked.append(asyncio.create_task(batcher.submit(["held"], engine, deadline_s=20)))
        await asyncio.to_thread(classifier.has_begun.wait, 20)
        asked += [asyncio.create_task(batcher.submit([text], engine, deadline_s=20)) for text in ("a", "b", "c")]
        await asyncio.sleep(0)
        classifier.may_go.set()
        await asyncio.gather(*asked[1:])
        assert classifier.batches == [["held"], ["a", "b", "c"]]
        classifier.may_end.set()
        await asked[0]
        await asyncio.to_thread(batcher.close)

    asyncio.run(main())


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    async def main() -> None:
        async with Held(max_batch_tokens=12) as held:
            large = held.ask(["large"] * 100)  # 5 tokens each
            await asyncio.sleep(0)
            small = held.ask(["small"])
            await asyncio.sleep(0)
            held.go()
            await small
            assert len(await large) == 100
            places = [index for index, batch in enumerate(held.classifier.batches) if "small" in batch]
            assert places == [1]  # in the first batch after the one that held it, beside a portion of the large one

    asyncio.run(main())


def test_a_full_queue_refuses_and_recovers() -> None:
    async def main() -> None:
        async with Held(max_queue=2) as held:
            waiting = [held.ask(["a"]), held.ask(["b"])]
            await asyncio.sleep(0)
            with pytest.raises(Refusal) as refused:
                await held.ask(["c"])
            assert refused.value.reason is Reason.OVERLOADED
            assert refused.value.retry_after_s == 1
            with pytest.raises(Refusal):  # before an engine or its tokenizer is looked at
                await held.batcher.submit(["c"], cast(Engine, None), deadline_s=20)
            held.go()
            await asyncio.gather(*waiting)
            assert lengths_of(await held.ask(["dd"])) == [2]

    asyncio.run(main())


def test_a_burst_that_is_read_at_once_does_not_find_the_room_of_one() -> None:
    async def main() -> None:
        async with Held(max_queue=3) as held:
            held.ask(["a"])
            await asyncio.sleep(0)
            for _ in range(2):  # two of those let in here never ask; the next turn has forgotten them
                held.batcher.admission.let_in("", deadline_s=20)
                held.batcher.admission.let_in("", deadline_s=20)
                with pytest.raises(Refusal) as refused:
                    held.batcher.admission.let_in("", deadline_s=20)
                assert refused.value.reason is Reason.OVERLOADED
                await asyncio.sleep(0)

    asyncio.run(main())


def test_a_request_is_refused_when_the_tokens_before_it_take_too_long() -> None:
    async def main() -> None:
        async with Held() as held:
            admission = held.batcher.admission
            admission.learn(texts=1, tokens=4, seconds=2.0)  # half a second per token
            waiting = held.ask(["x" * 32])
            await asyncio.sleep(0)
            assert admission.expected_wait_s("") == 4 * 0.5  # it has not been read: estimated
            patience = (4 + 4) * 0.5 / WAIT_SHARE  # 24 s
            with pytest.raises(Refusal) as refused:
                await held.ask(["x"], deadline_s=0.99 * patience)
            assert refused.value.reason is Reason.OVERLOADED
            last = held.ask(["x"], deadline_s=1.01 * patience)
            held.go()
            assert lengths_of(await last) == [1]
            assert lengths_of(await waiting) == [32]


def test_a_request_that_costs_much_more_than_expected_is_refused_once_it_is_read() -> None:
    async def main() -> None:
        async with Held(max_queue=10_000) as held:
            held.batcher.admission.learn(texts=1, tokens=1, seconds=0.5)
            waiting = held.ask(["x"])
            await asyncio.sleep(0)
            large = held.ask(["x" * 64] * 10, deadline_s=12 * 0.5 / WAIT_SHARE)  # 11 tokens are expected, and 640 come
            await asyncio.sleep(0)
            held.go()
            with pytest.raises(Refusal) as refused:
                await large
            assert refused.value.reason is Reason.OVERLOADED
            assert lengths_of(await waiting) == [1]
            assert held.classifier.batches == [["first"], ["x"]]
            assert held.batcher.admission.waiting_tokens == 0

    asyncio.run(main())


def test_what_must_not_be_cut_is_refused_before_it_is_computed() -> None:
    async def main() -> None:
        async with Held() as held:
            submit = partial(held.batcher.submit, engine=held.engine, deadline_s=20)
            strict = asyncio.create_task(submit(["short", "x" * 65], long_texts="refuse"))
            lenient = asyncio.create_task(submit(["short", "x" * 65]))
            whole = asyncio.create_task(submit(["x" * 65, "y" * 64], long_texts="windows"))
            await asyncio.sleep(0)
            held.go()
            with pytest.raises(Refusal) as refused:
                await strict
            assert refused.value.reason is Reason.INVALID
            assert [(each.logits, each.was_cut, each.num_windows) for each in await lenient] == [
                ([5], False, 1),
                ([64], True, 1),
            ]
            # Windows of 64 that overlap by 16: 0 to 63 and 48 to 64, which are 17 characters.
            windows = [(each.logits, each.was_cut, each.num_windows) for each in await whole]
            assert windows == [([(64 + 17) / 2], False, 2), ([64], False, 1)]
            assert sum(batch.count("short") for batch in held.classifier.batches) == 1

    asyncio.run(main())


def test_a_pair_fails_its_own_request_and_the_others_are_read_and_computed_together() -> None:
    async def main() -> None:
        async with Held() as held:
            library = held.classifier.tokenizer._tokenizer
            library.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
            held.classifier.tokenizer = TextTokenizer(library, max_length=64, pad_id=0)
            tasks = [held.ask(texts) for texts in (["a"], ["b", ("c", "d")], ["e"])]
            await asyncio.sleep(0)
            held.go()
            assert [lengths_of(await tasks[0]), lengths_of(await tasks[2])] == [[1], [1]]
            with pytest.raises(SettingsError):
                await tasks[1]
            assert held.classifier.batches == [["first"], ["a", "e"]]

    asyncio.run(main())


def test_a_client_with_a_hundred_requests_delays_another_by_one_turn() -> None:
    async def main() -> None:
        async with Held(max_batch_tokens=TURN_TOKENS) as held:
            greedy = [held.ask(["x" * 60], client="greedy") for _ in range(100)]
            await asyncio.sleep(0)
            small = held.ask(["small"], client="other")  # 6,000 tokens are before it
            await asyncio.sleep(0)
            held.go()
            await small
            await asyncio.gather(*greedy)
            place = next(index for index, batch in enumerate(held.classifier.batches) if "small" in batch)
            assert place <= 2  # the first is the one that held them

    asyncio.run(main())


def test_a_client_with_many_long_words_delays_another_by_the_reading_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read_long, long_reads, seen = TextTokenizer._read_long, list[int](), list[tuple[int, list[list[int]]]]()

    def reading(self: TextTokenizer, text: str) -> Reading:
        long_reads.append(len(text))
        return read_long(self, text)

    monkeypatch.setattr(TextTokenizer, "_read_long", reading)

    async def main() -> None:
        async with Held() as held:
            library = Tokenizer(models.WordLevel({"?": 63, "small": 1}, unk_token="?"))
            library.pre_tokenizer = pre_tokenizers.Whitespace()
            held.classifier.tokenizer = TextTokenizer(library, max_length=64, pad_id=0)
            compute = held.classifier.predict_encoded

            def computing(rows: Sequence[NDArray[np.int64]]) -> Logits:
                seen.append((len(long_reads), [row.tolist() for row in rows]))
                return compute(rows)

            monkeypatch.setattr(held.classifier, "predict_encoded", computing)
            greedy = [held.ask(["x" * 20_000], client="greedy") for _ in range(50)]  # each is one word, encoded whole
            await asyncio.sleep(0)
            small = [held.ask(["small"], client="other") for _ in range(5)]
            await asyncio.sleep(0)
            held.go()
            await asyncio.gather(*small, *greedy)

    asyncio.run(main())
    assert len(long_reads) == 50
    # The one whose turn it was when they came; none is read for the same batch.
    assert [(count, rows.count([1])) for count, rows in seen if [1] in rows] == [(1, 5)]


def test_a_queue_that_one_client_filled_makes_room_for_another() -> None:
    async def main() -> None:
        async with Held(max_queue=4) as held:
            greedy = [held.ask([name], client="greedy") for name in ("a", "b", "c", "d")]
            await asyncio.sleep(0)
            with pytest.raises(Refusal):
                await held.ask(["e"], client="greedy")
            others = [held.ask([name], client="other") for name in ("1", "2")]
            await asyncio.sleep(0)
            with pytest.raises(Refusal):  # now each has its half
                await held.ask(["3"], client="other")
            held.go()
            found = await asyncio.gather(*greedy, *others, return_exceptions=True)
            assert [isinstance(each, Refusal) for each in found] == [False, False, True, True, False, False]
            assert held.batcher.admission.waiting_texts == 0

    asyncio.run(main())


def test_past_its_deadline_a_request_is_answered_and_dropped_from_the_queue() -> None:
    async def main() -> None:
        async with Held() as held:
            with pytest.raises(Refusal) as refused:
                await held.ask(["late"], deadline_s=0.05)
            assert refused.value.reason is Reason.LATE
            held.go()
            assert lengths_of(await held.ask(["next"])) == [4]
            assert ["late"] not in held.classifier.batches
            assert held.batcher.admission.waiting_texts == 0

    asyncio.run(main())


def test_an_answer_that_a_busy_loop_hands_out_past_the_deadline_is_not_given() -> None:
    async def main() -> None:
        async with Held() as held:
            task = held.ask(["late"], deadline_s=0.5)
            due = time.monotonic() + 0.5
            await asyncio.sleep(0)
            held.go()
            while ["late"] not in held.classifier.batches or time.monotonic() < due + 0.1:
                time.sleep(0.01)  # the event loop gets to the answer after the deadline
            with pytest.raises(Refusal) as refused:
                await task
            assert held.classifier.batches == [["first"], ["late"]]
            assert refused.value.reason is Reason.LATE

    asyncio.run(main())


def test_a_client_that_went_away_is_skipped_and_its_request_ends() -> None:
    async def main() -> None:
        async with Held() as held:
            gone = held.ask(["gone"], is_wanted=False)
            await asyncio.sleep(0)
            there = held.ask(["there"])
            await asyncio.sleep(0)
            held.go()
            await there
            assert held.classifier.batches == [["first"], ["there"]]
            with pytest.raises(Refusal) as refused:  # long before its deadline
                await asyncio.wait_for(gone, 5)
            assert refused.value.reason is Reason.GONE

    asyncio.run(main())


def test_a_text_that_fails_fails_its_own_request_only() -> None:
    async def main() -> None:
        async with Held() as held:
            bad, good = held.ask(["bad"]), held.ask(["good"])
            await asyncio.sleep(0)
            held.go()
            assert lengths_of(await good) == [4]
            with pytest.raises(ValueError, match="bad"):
                await bad

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_to_requests_nothing_is_left_counted(seed: int) -> None:
    async def main() -> None:
        pick = random.Random(seed)
        classifier = Lengths()
        classifier.may_go.set()
        engines = [Engine(classifier, max_length=64) for _ in range(2)]
        batcher = Batcher(threads=2, max_queue=30, max_batch_tokens=100)

        async def ask() -> list[RowAnswer]:
            await asyncio.sleep(pick.choice((0, 0, 0.01)))
            texts = [pick.choice(("a", "bad", "x" * 60, "y" * 5000, "z" * 200)) for _ in range(pick.choice((1, 1, 2, 25)))]
            return await batcher.submit(
                texts,
                pick.choice(engines),
                client=pick.choice("abc"),
                long_texts=pick.choice(("truncate", "windows", "refuse")),
                deadline_s=pick.choice((0.001, 0.05, 20, 20, 20)),
                is_wanted=partial(bool, pick.random() < 0.8),
            )

        found = await asyncio.gather(*(ask() for _ in range(300)), return_exceptions=True)
        kinds = {each.reason if isinstance(each, Refusal) else type(each) for each in found}
        assert {list, ValueError, Reason.OVERLOADED, Reason.INVALID, Reason.GONE} <= kinds
        await asyncio.to_thread(batcher.close)
        admission = batcher.admission
        assert (admission.waiting_texts, admission.waiting_tokens, admission.texts_of, admission.tokens_of) == (0, 0, {}, {})

    asyncio.run(main())


@pytest.mark.parametrize(
    ("texts", "deadline_s", "outcome"),
    [
        pytest.param(["fine"], 20, list, id="answered"),
        pytest.param(["late"], 0.05, Refusal, id="late while it is computed"),
        pytest.param([("a", "pair")], 20, SettingsError, id="cannot be read"),
        pytest.param(["\ud800"], 20, DatasetError, id="cannot be encoded"),
    ],
)
def test_a_replaced_engine_is_kept_neither_by_a_thread_that_waits_nor_by_a_request(
    texts: list[str | tuple[str, str]], deadline_s: float, outcome: type
) -> None:
    async def main() -> None:
        classifier = Lengths()
        engine, batcher = Engine(classifier, max_length=64), Batcher(threads=1, max_queue=100, max_batch_tokens=100)
        kept = weakref.ref(engine)
        if outcome is not Refusal:
            classifier.may_go.set()
        (found,) = await asyncio.gather(batcher.submit(texts, engine, deadline_s=deadline_s), return_exceptions=True)
        assert isinstance(found, outcome)
        classifier.may_go.set()
        del engine, found
        async with asyncio.timeout(5):
            while kept() is not None:
                await asyncio.sleep(0.001)
        await asyncio.to_thread(batcher.close)

    gc.disable()  # collections are rare in a server
    try:
        asyncio.run(main())
    finally:
        gc.enable()
