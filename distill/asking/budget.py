"""What may still be spent. Every request sets aside the most that it can take, so no limit is ever passed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from distill.asking.settings import SpendingSettings
from distill.errors import BudgetError

TEMPLATE_TOKENS = 64
"""More than a model's chat template adds to the messages."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts and of answers."""

    input: int
    output: int

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.input + other.input, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.input - other.input, self.output - other.output)

    def cost(self, settings: SpendingSettings) -> float:
        """Return what they cost, at the user's prices."""
        return (self.input * settings.price_input + self.output * settings.price_output) / 1e6


def most_tokens(body: dict[str, Any]) -> Tokens:
    """Return the most tokens that a request can take: a token has at least one byte, whatever the tokenizer."""
    content = sum(len(message["content"].encode(errors="surrogatepass")) for message in body["messages"])
    schema = len(json.dumps(body.get("response_format", "")))  # some servers add it to the prompt
    return Tokens(content + schema + TEMPLATE_TOKENS, body["max_tokens"])


class Budget:
    """Tokens spent and set aside, against the limits."""

    def __init__(self, settings: SpendingSettings, spent: Tokens) -> None:
        """Begin with what earlier runs have spent."""
        self._settings, self.spent = settings, spent
        self._aside = Tokens(0, 0)
        self._changed = asyncio.Condition()

    async def set_aside(self, most: Tokens) -> None:
        """Wait until the most that a request can take is below the limits, and set it aside.

        Raises:
            BudgetError: It is above them, and no request is under way that could take less than was set aside for it.
        """
        async with self._changed:
            while (limit := self._passed(self.spent + self._aside + most)) is not None:
                if self._aside == Tokens(0, 0):
                    raise BudgetError(limit)
                await self._changed.wait()
            self._aside += most

    async def settle(self, most: Tokens, *, took: Tokens) -> None:
        """Replace what was set aside for a request by what it took."""
        async with self._changed:
            self._aside -= most
            self.spent += took
            self._changed.notify_all()

    def _passed(self, tokens: Tokens) -> str | None:
        """Return in words the limit that would be passed."""
        settings = self._settings
        if settings.max_tokens_total is not None and tokens.input + tokens.output > settings.max_tokens_total:
            return (
                f"stopped before --max-tokens-total {settings.max_tokens_total:,}: "
                f"{self.spent.input + self.spent.output:,} tokens are spent"
            )
        if settings.max_cost is not None and tokens.cost(settings) > settings.max_cost:
            return f"stopped before --max-cost {settings.max_cost:g}: {self.spent.cost(settings):.4g} is spent"
        return None
