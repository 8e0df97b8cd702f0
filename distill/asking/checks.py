"""Questions that begin each run: they show what the address can do, and that the model is still the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from distill.asking.budget import Budget
from distill.asking.client import Address, RefusedTextError, Reply, TryAgainError
from distill.asking.exchange import answer_of, spent_on, wait_s
from distill.asking.kept import CHECKS, AnswerLog, Asked, KeptAnswer, require_same_question
from distill.asking.prompts import Abilities, Question, question
from distill.asking.settings import AskSettings, QuestionSettings
from distill.asking.task import LabellingTask
from distill.errors import AddressError
from distill.progress import Reporter
from distill.texts import TextInput

CHECK_TEXTS = 4
SAME_MODEL = 0.1
"""Difference of a label's probability up to which two replies to one question come from the same model."""


async def checked(
    task: LabellingTask, log: AnswerLog, address: Address, settings: AskSettings, budget: Budget, reporter: Reporter
) -> Asked:
    """Ask a few questions about the labels themselves: they show what the address can do, and that the model is the same.

    Raises:
        AddressError: The address does not answer, or as another model than before.
    """
    kept = log.asked()
    deciding = {name: getattr(settings, name) for name in QuestionSettings.model_fields if name != "askings"}
    unknown = Abilities(structured=not settings.plain_text, log_probabilities=settings.top_logprobs > 0)
    asked = Asked(
        task=task,
        model=settings.model,
        replies_name="" if kept is None else kept.replies_name,
        settings=deciding,
        abilities=unknown if kept is None else kept.abilities,
    )
    if kept is not None:
        require_same_question(log.folder, kept, asked)
    else:
        able = await _abilities(asked, log, address, settings, budget)
        asked = asked.model_copy(update={"abilities": able})
    earlier = {check.key: check for check in log.checks}
    for text in _check_texts(task):
        one = question(task, text, asking=0, model=settings.model, settings=settings, abilities=asked.abilities)
        reply = await _first_reply(address, one, settings, budget)
        if isinstance(reply, RefusedTextError):
            raise AddressError(str(reply))
        answer = answer_of(one, reply)
        if kept is not None and (difference := _difference(earlier.get(one.key), answer, reply.model, kept)):
            raise AddressError(
                f"the model behind {settings.model!r} has changed: {difference}; name another --out, answers of two models do "
                "not belong in one folder"
            )
        log.keep(CHECKS, answer)
        asked = asked.model_copy(update={"replies_name": reply.model})
    if kept is None:
        log.begin(asked)
        reporter.say(f"the address answers as {asked.replies_name!r}{_in_words(asked.abilities)}")
    return asked


def _in_words(abilities: Abilities) -> str:
    form = "JSON with a schema" if abilities.structured else "no schema"
    return f": {form}, {'log-probabilities' if abilities.log_probabilities else 'no log-probabilities: answers are votes'}"


async def _abilities(asked: Asked, log: AnswerLog, address: Address, settings: AskSettings, budget: Budget) -> Abilities:
    """Ask the first question with everything that the settings want, and then with less, until it is not refused."""
    wanted = asked.abilities
    tries = dict.fromkeys(
        Abilities(structured=wanted.structured and structured, log_probabilities=wanted.log_probabilities and probabilities)
        for probabilities in (True, False)
        for structured in (True, False)
    )
    refusals = []
    for able in tries:
        one = question(asked.task, _check_texts(asked.task)[0], asking=0, model=asked.model, settings=settings, abilities=able)
        reply = await _first_reply(address, one, settings, budget)
        if isinstance(reply, Reply):
            log.keep(CHECKS, answer_of(one, reply))
            return replace(able, log_probabilities=able.log_probabilities and bool(reply.positions))
        refusals.append(str(reply))
    raise AddressError(refusals[-1])


async def _first_reply(address: Address, one: Question, settings: AskSettings, budget: Budget) -> Reply | RefusedTextError:
    """Ask as often as the settings say; an address that cannot be connected to is refused at once."""
    for attempt in range(settings.retries + 1):
        try:
            return await spent_on(budget, address, one)
        except TryAgainError as exc:
            if attempt == settings.retries or exc.kind == "connection":
                hint = "; is the server running, and does --endpoint name it?" if exc.kind == "connection" else ""
                raise AddressError(f"{exc}{hint}") from exc
            await asyncio.sleep(wait_s(attempt) if exc.after_s is None else exc.after_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _check_texts(task: LabellingTask) -> list[TextInput]:
    """Return texts about the labels themselves: they are sent anyway, and are none of the user's."""
    meanings = list(task.labels.items())[:CHECK_TEXTS]
    return [next(iter(meaning.examples), meaning.definition or name) for name, meaning in meanings]


def _difference(before: KeptAnswer | None, now: KeptAnswer, named: str, kept: Asked) -> str:
    """Return what shows that another model answers; empty if nothing does."""
    if named != kept.replies_name:
        return f"it calls itself {named!r}, before {kept.replies_name!r}"
    if before is None:
        return ""
    if before.input_tokens != now.input_tokens:
        return f"it counts {now.input_tokens} tokens in a question in which it counted {before.input_tokens}"
    if kept.settings["sampling_temperature"] == 0 and before.label != now.label:
        return f"it answers {now.label!r} to a question that it answered with {before.label!r}"
    differing = max((abs(share - now.shares.get(name, 0.0)) for name, share in before.shares.items()), default=0.0)
    return f"its probabilities differ by {differing:.2f}" if differing > SAME_MODEL and now.shares else ""
