"""Settings of asking a language model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distill.settings import Settings, TextSettings


class AddressSettings(Settings, heading="Network"):
    """Which model answers, behind which address."""

    endpoint: str = Field(
        pattern="^https?://",
        description="OpenAI-compatible endpoint, such as http://127.0.0.1:8080/v1; the texts are sent nowhere else",
    )
    model: str = Field(min_length=1, description="name of the model at that endpoint")
    key_variable: str = Field(
        "POTSTILL_ASK_KEY",
        min_length=1,
        description="environment variable with the key of the endpoint; if it is not set, no key is sent",
    )
    concurrency: int = Field(8, ge=1, le=1024, description="number of requests sent at the same time")
    deadline_s: float = Field(60, gt=0, description="seconds after which a request is given up and sent again")
    retries: int = Field(
        6, ge=0, description="times that a failed request is sent again; then its text is left for the next run"
    )


class QuestionSettings(Settings, heading="Teacher"):
    """How a text is asked; a change makes other answers, which belong in another folder."""

    askings: int = Field(
        1,
        ge=1,
        le=100,
        description="times that each text is asked, with the labels in another order each time; a later run can raise it",
    )
    sampling_temperature: float = Field(0.0, ge=0, le=2, description="temperature at which the model answers")
    top_logprobs: int = Field(
        20, ge=0, le=20, description="log-probabilities to request per token; 0: none, and each answer counts as one vote"
    )
    max_reply_tokens: int = Field(64, ge=1, description="longest answer, in tokens")
    plain_text: bool = Field(False, description="ask for the bare label instead of JSON with a schema")


class PriceSettings(Settings, heading="Limits"):
    """What an address takes for its answers."""

    price_input: float = Field(0.0, ge=0, description="language model: price of a million prompt tokens")
    price_output: float = Field(0.0, ge=0, description="language model: price of a million answer tokens")


class SpendingSettings(PriceSettings, heading="Limits"):
    """What the answers may cost; counted over all runs into the same folder."""

    max_tokens_total: int | None = Field(
        None, ge=1, description="limit on the tokens of prompts and answers; all runs into --out count"
    )
    max_cost: float | None = Field(
        None, gt=0, description="limit on the cost, in the currency of the prices; all runs into --out count"
    )

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if self.max_cost is not None and not self.price_input + self.price_output:
            raise ValueError("max_cost needs the prices of your address; give --price-input and --price-output")
        return self


class AskSettings(AddressSettings, QuestionSettings, SpendingSettings):
    """How texts are labelled by a language model."""


class AuditSettings(TextSettings, heading="Measuring"):
    """What answers are judged by."""

    gold: str | None = Field(None, description="texts labelled by hand: FILE or builtin:NAME (its test texts)")
    label_column: str = Field("label", min_length=1, description="column with the gold label")
    width: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="report how many gold labels make the 95 % interval of macro-F1 this wide; without --gold: of accuracy",
    )
    suspects: int = Field(20, ge=0, description="number of suspect texts to list, of each kind")
