"""The queue: order, fairness, deadlines, and who is skipped; with an engine whose every batch can be watched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from served import Lengths

from serve.answering.admission import WAIT_SHARE
from serve.answering.engine import Engine
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

    def ask(self, texts: list[str], *, deadline_s: float = 20, is_wanted: bool = True) -> asyncio.Task[list[object]]:
        answer = self.batcher.submit(texts, self.engine, deadline_s=deadline_s, is_wanted=lambda: is_wanted)
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


def test_a_thread_takes_all_that_waits_while_the_others_compute() -> None:
    async def main() -> None:
        async with Held(threads=2) as held:
            other = held.ask(["other"])
            await asyncio.sleep(0)
            while held.batcher.admission.waiting_texts:  # until the second thread, which may only just start, has taken it
                await asyncio.sleep(0.001)
            waiting = [held.ask([text]) for text in ("a", "b", "c")]
            await asyncio.sleep(0)
            held.go()
            await asyncio.gather(other, *waiting)
            assert ["a", "b", "c"] in held.classifier.batches

    asyncio.run(main())


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    async def main() -> None:
        async with Held(max_batch_tokens=10) as held:
            large = held.ask(["large"] * 100)  # 3 estimated tokens each
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
                held.batcher.admission.let_in(deadline_s=20)
                held.batcher.admission.let_in(deadline_s=20)
                with pytest.raises(Refusal) as refused:
                    held.batcher.admission.let_in(deadline_s=20)
                assert refused.value.reason is Reason.OVERLOADED
                await asyncio.sleep(0)

    asyncio.run(main())


def test_the_expected_wait_counts_tokens_and_a_request_that_would_wait_too_long_is_refused() -> None:
    async def main() -> None:
        async with Held() as held:
            waiting = held.ask(["x" * 32])  # 32 / 4 + 2 = 10 tokens
            await asyncio.sleep(0)
            admission = held.batcher.admission
            admission.learn(texts=1, tokens=4, seconds=2.0)  # half a second per token
            assert admission.expected_wait_s() == 10 * 0.5
            patience = (10 + 4) * 0.5 / WAIT_SHARE  # what a request of four tokens needs: 42 s
            with pytest.raises(Refusal) as refused:
                await held.ask(["x" * 8], deadline_s=0.99 * patience)
            assert refused.value.reason is Reason.OVERLOADED
            last = held.ask(["x" * 8], deadline_s=1.01 * patience)
            held.go()
            assert lengths_of(await last) == [8]
            await waiting
            assert admission.expected_wait_s(1) not in (0, 0.5)  # the batches were measured

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
