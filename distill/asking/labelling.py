"""Ask a language model for the label of each text, and keep every reply the moment it arrives.

An interrupted run, killed or not, is resumed by running it again: no kept reply is asked for a second time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.asking.budget import Budget, Tokens
from distill.asking.checks import checked
from distill.asking.client import Address, RefusedTextError, Reply, TryAgainError
from distill.asking.exchange import answer_of, spent_on, wait_s
from distill.asking.kept import ANSWERS, QUARANTINE, AnswerLog, Asked
from distill.asking.prompts import Abilities, Question, question
from distill.asking.settings import AskSettings
from distill.asking.task import LabellingTask
from distill.errors import AddressError, BudgetError, PotstillError
from distill.progress import Reporter, SilentReporter
from distill.texts import TextInput

UNREACHABLE_TEXTS = 5
"""So many texts in a row without any answer end a run: the address does not work."""


@dataclass(frozen=True)
class AskingReport:
    """What one run asked.

    Attributes:
        num_texts: Texts to label, repeated ones counted once.
        num_asked: Replies of this run.
        num_answers: Replies in the folder that name a label.
        num_quarantined: Replies in the folder that name none.
        num_unanswered: Questions of this run without a reply.
        last_failure: Why the last of them has none.
        spent: Tokens of all runs into the folder.
        asked_tokens: Tokens of this run's replies.
        seconds: Time of this run.
        abilities: What the address can do.
    """

    num_texts: int
    num_asked: int
    num_answers: int
    num_quarantined: int
    num_unanswered: int
    last_failure: str
    spent: Tokens
    asked_tokens: Tokens
    seconds: float
    abilities: Abilities


def ask(
    task: LabellingTask,
    texts: Iterable[TextInput],
    *,
    out: Path,
    settings: AskSettings,
    only: int | None = None,
    reporter: Reporter | None = None,
) -> AskingReport:
    """Ask for the label of each text that has no reply in the folder yet.

    Args:
        task: The labels and what they mean.
        texts: Texts or pairs; repeated ones are asked once.
        out: Folder of the replies; see `distill.asking.kept`.
        settings: Address, form of the question, limits.
        only: Ask this many texts at most, the first ones.
        reporter: Told of progress.

    Raises:
        SettingsError: The folder has answers to another question.
        AddressError: The address refuses every request, does not answer, or answers as another model than before.
        BudgetError: The next request could pass a limit.
        StorageError: The folder cannot be written, or another run writes to it.
    """
    wanted = list(dict.fromkeys(texts))[:only]
    with AnswerLog(out) as log:
        return asyncio.run(_run(task, wanted, log, settings, reporter or SilentReporter()))


async def _run(
    task: LabellingTask, texts: Sequence[TextInput], log: AnswerLog, settings: AskSettings, reporter: Reporter
) -> AskingReport:
    started, before = time.monotonic(), Tokens(log.input_tokens, log.output_tokens)
    async with Address(settings) as address:
        budget = Budget(settings, before)
        asked = await checked(task, log, address, settings, budget, reporter)
        run = _Run(asked, log, address, settings, budget, reporter)
        with reporter.task("answers", len(texts) * settings.askings) as advance:
            try:
                await run.all(((text, asking) for text in texts for asking in range(settings.askings)), advance)
            except BudgetError as exc:
                raise BudgetError(f"{exc}; {log.num_answers:,} answers are kept; raise the limit and run it again") from exc
    spent = Tokens(log.input_tokens, log.output_tokens)
    return AskingReport(
        num_texts=len(texts),
        num_asked=run.num_asked,
        num_answers=log.num_answers,
        num_quarantined=log.num_quarantined,
        num_unanswered=run.num_unanswered,
        last_failure=run.last_failure,
        spent=spent,
        asked_tokens=spent - before,
        seconds=time.monotonic() - started,
        abilities=asked.abilities,
    )


class _Run:
    """One run over many texts."""

    def __init__(
        self, asked: Asked, log: AnswerLog, address: Address, settings: AskSettings, budget: Budget, reporter: Reporter
    ) -> None:
        self._asked, self._log, self._address, self._settings, self._budget = asked, log, address, settings, budget
        self._reporter = reporter
        self._slots = asyncio.Semaphore(settings.concurrency)
        # More texts than slots: one that waits before it is sent again leaves its slot to another.
        self._room = asyncio.Semaphore(2 * settings.concurrency)
        self._stopped: BaseException | None = None
        self._in_a_row = 0
        self._fingerprints = {log.checks[0].fingerprint}
        self.num_asked = self.num_unanswered = 0
        self.last_failure = ""

    async def all(self, jobs: Iterator[tuple[TextInput, int]], advance: Callable[[int], object]) -> None:
        """Ask all questions. When one shows that the run must stop, those under way are still awaited: they are paid for."""
        tasks: set[asyncio.Task[None]] = set()

        def done(task: asyncio.Task[None]) -> None:
            self._room.release()
            tasks.discard(task)
            advance(1)
            if not task.cancelled():
                error = task.exception()
                self._stopped = self._stopped or error

        for number, (text, asking) in enumerate(jobs):
            asked = self._question(text, asking)
            if self._is_kept(asked):
                advance(1)
                if number % 1000 == 0:
                    await asyncio.sleep(0)
                continue
            await self._room.acquire()
            if self._stopped is not None:
                break
            task = asyncio.create_task(self._answer(asked))
            tasks.add(task)
            task.add_done_callback(done)
        while tasks:
            await asyncio.wait(tasks)
        if self._stopped is not None:
            raise self._stopped

    def _question(self, text: TextInput, asking: int, offered: Sequence[str] | None = None) -> Question:
        return question(
            self._asked.task,
            text,
            asking=asking,
            offered=offered,
            model=self._asked.model,
            settings=self._settings,
            abilities=self._asked.abilities,
        )

    def _further(self, asked: Question) -> list[Question]:
        """Return the questions about labels that the reply leaves undivided."""
        return [self._question(asked.text, asked.asking, group) for group in self._log.groups[asked.key]]

    def _is_kept(self, asked: Question) -> bool:
        return asked.key in self._log.groups and all(map(self._is_kept, self._further(asked)))

    async def _answer(self, asked: Question) -> None:
        """Ask one question, and then those about labels that the reply leaves undivided."""
        if asked.key not in self._log.groups:
            await self._kept_reply(asked)
        if asked.key in self._log.groups:
            for further in self._further(asked):
                await self._answer(further)

    async def _kept_reply(self, asked: Question) -> None:
        pause_s = 0.0
        for attempt in range(self._settings.retries + 1):
            await asyncio.sleep(pause_s)
            async with self._slots:
                if self._stopped is not None:
                    return
                try:
                    self._keep(asked, await spent_on(self._budget, self._address, asked))
                    return
                except TryAgainError as exc:
                    self.last_failure = str(exc)
                    pause_s = wait_s(attempt) if exc.after_s is None else exc.after_s
                    if exc.kind == "throttled":  # inside the slot: fewer requests are sent
                        await asyncio.sleep(pause_s)
                        pause_s = 0.0
                except PotstillError as exc:  # before another takes the slot
                    self._stopped = self._stopped or exc
                    raise
        self.num_unanswered += 1
        self._in_a_row += 1
        if self._in_a_row >= UNREACHABLE_TEXTS:
            raise AddressError(f"{self.last_failure}; {self._in_a_row} texts in a row got no answer; run it again to go on")

    def _keep(self, asked: Question, reply: Reply | RefusedTextError) -> None:
        answer = answer_of(asked, reply)
        if isinstance(reply, Reply) and reply.model != self._asked.replies_name:
            changed = f"the address now answers as {reply.model!r}, before as {self._asked.replies_name!r}"
            self._log.keep(QUARANTINE, answer.model_copy(update={"label": None, "problem": changed}))
            raise AddressError(f"{changed}; name another --out, answers of two models do not belong in one folder")
        if isinstance(reply, Reply) and reply.fingerprint not in self._fingerprints:
            self._fingerprints.add(reply.fingerprint)
            self._reporter.say(f"the address now answers with build {reply.fingerprint!r} of the model")
        self._log.keep(QUARANTINE if answer.label is None else ANSWERS, answer)
        self.num_asked += 1
        self._in_a_row = 0
