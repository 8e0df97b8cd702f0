"""One question and its reply: within the budget, and in the form in which it is kept."""

from __future__ import annotations

import random
from dataclasses import replace

from distill.asking.budget import Budget, Tokens, most_tokens
from distill.asking.client import Address, RefusedTextError, Reply, TryAgainError
from distill.asking.kept import KeptAnswer
from distill.asking.prompts import Question
from distill.asking.replies import UnreadableReplyError, read_reply
from distill.texts import parts_of

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0


async def spent_on(budget: Budget, address: Address, asked: Question) -> Reply | RefusedTextError:
    """Send one request within the budget; a refusal of the text is returned, because it is kept like a reply.

    Raises:
        TryAgainError: It failed in a way that may pass.
        AddressError: The address refuses every request.
        BudgetError: It could pass a limit.
    """
    most = most_tokens(asked.body)
    await budget.set_aside(most)
    took = Tokens(0, 0)
    try:
        reply = await address.ask(asked.body)
        took = Tokens(
            most.input if reply.input_tokens is None else reply.input_tokens,
            most.output if reply.output_tokens is None else reply.output_tokens,
        )
        return replace(reply, input_tokens=took.input, output_tokens=took.output)
    except TryAgainError as exc:
        took = most if exc.kind == "reply" else took
        raise
    except RefusedTextError as exc:
        return exc
    finally:
        await budget.settle(most, took=took)


def answer_of(asked: Question, reply: Reply | RefusedTextError) -> KeptAnswer:
    """Return a reply as it is kept; its label is None where it names none."""
    answer = KeptAnswer(key=asked.key, text=parts_of(asked.text), asking=asked.asking, labels=asked.labels, label=None)
    if isinstance(reply, RefusedTextError):
        return answer.model_copy(update={"problem": str(reply)})
    answer = answer.model_copy(
        update={
            "content": reply.content,
            "fingerprint": reply.fingerprint,
            "input_tokens": reply.input_tokens,
            "output_tokens": reply.output_tokens,
        }
    )
    try:
        reading = read_reply(reply.content, reply.positions, asked.labels)
    except UnreadableReplyError as exc:
        cut = "; it was cut at --max-reply-tokens" if reply.is_cut else ""
        return answer.model_copy(update={"problem": f"{exc}{cut}"})
    found = {name: getattr(reading, name) for name in ("label", "shares", "undivided", "mass")}
    return answer.model_copy(update=found)


def wait_s(attempt: int) -> float:
    """Return a wait that doubles each time, with chance in it, so that requests that failed together do not return together."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt)
    return longest * (0.5 + 0.5 * random.random())  # noqa: S311
