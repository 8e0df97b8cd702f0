"""Flags of the command: each field of a settings model becomes one, shown under the help heading of its model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from cyclopts import Group, Parameter

from distill.settings import FROM_TEXTS, ONE_A_FLAG, DataSettings, Heading, Settings

Command = TypeVar("Command", bound=Callable[..., Any])

GROUPS = {heading: Group(heading, sort_key=place) for place, heading in enumerate(get_args(Heading))}

Flat = Parameter(name="*")
Data = Annotated[DataSettings, Flat]
Json = Annotated[
    bool, Parameter(group=GROUPS["Output"], help="print the result as one JSON object, in the last line of stdout")
]
Unlabeled = Annotated[
    tuple[str, ...],
    Parameter(group=GROUPS["Transfer set"], help="texts without labels to learn from: FILE or builtin:NAME"),
]
BundleOut = Annotated[Path, Parameter(group=GROUPS["Output"], help="folder of the new bundle")]


def with_headings(command: Command) -> Command:
    """Put each flag that comes from a settings model under the heading of the class that declares the field."""
    for model in get_type_hints(command).values():
        if not (isinstance(model, type) and issubclass(model, Settings)):
            continue
        for name, field in model.model_fields.items():
            declared_by = next(base for base in reversed(model.__mro__) if name in vars(base).get("__annotations__", ()))
            if issubclass(declared_by, Settings) and not any(isinstance(each, Parameter) for each in field.metadata):
                field.metadata.append(_parameter(GROUPS[declared_by.heading], field.json_schema_extra))
    return command


def shown_default(value: object) -> str | None:
    """Return a default as a user would type it; None, which shows nothing, for flags that are off or not set."""
    if value is None or value is False or value in ((), ""):
        return None
    if isinstance(value, Path):
        return os.path.relpath(value)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parameter(group: Group, extra: object) -> Parameter:
    """Return what a field's flag has beside its default and its help, which are the field's."""
    if extra == FROM_TEXTS:
        return Parameter(group=group, show_default=False)
    return Parameter(group=group, consume_multiple=False) if extra == ONE_A_FLAG else Parameter(group=group)
