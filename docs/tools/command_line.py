"""The reference of the command and of the settings, from the command's own parser and the settings models."""

from __future__ import annotations

import re
from collections.abc import Iterator

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from distill.asking.settings import AskSettings, AuditSettings
from distill.asking.task import LabellingTask, LabelMeaning
from distill.cli.main import COMMANDS, app
from distill.recipes import RecipeSettings
from distill.settings import DataSettings, DistillSettings, Settings, TrialSettings
from distill.teacher_settings import OriginSettings, SelectSettings, TeacherSettings
from docs.tools.markdown import code, plain, table
from docs.tools.staging import NOT_SEARCHED
from export.settings import BenchSettings, DemoSettings, ExportSettings, FitSettings
from serve.bulk.settings import ScoreSettings
from serve.settings import ServeSettings

MODELS: tuple[type[Settings], ...] = (
    DataSettings,
    FitSettings,
    DemoSettings,
    AskSettings,
    LabellingTask,
    LabelMeaning,
    AuditSettings,
    SelectSettings,
    TeacherSettings,
    OriginSettings,
    DistillSettings,
    RecipeSettings,
    TrialSettings,
    ExportSettings,
    BenchSettings,
    ScoreSettings,
    ServeSettings,
)
_BOUNDS = {Ge: "≥", Gt: "&gt;", Le: "≤", Lt: "&lt;"}


def command_page() -> str:
    """Return the page of the command: every subcommand with an example and all its flags."""
    rows = [[f"[`{name}`](#potstill-{name})", plain(line)] for name, (_, line, _) in COMMANDS.items()]
    parts = [
        "# The command",
        "Every flag of every subcommand, as `potstill COMMAND --help` shows it. `--config FILE` reads the same settings from a "
        "TOML file with one table per command; [settings](settings.md) has their ranges.",
        table(["command", "what it does"], rows),
    ]
    for name, (_, _, example) in COMMANDS.items():
        shown = app[name].generate_docs(heading_level=2, usage_name=f"potstill {name}")
        body = shown[shown.index("```") :].strip()
        parts.append(f"## potstill {name}\n\n{_escaped_help(body)}\n\nExample:\n\n```console\npotstill {name} {example}\n```")
    return "\n\n".join(parts) + "\n"


def _escaped_help(body: str) -> str:
    """Escape the text of each flag, but not the marks that the parser sets around defaults and choices."""

    def line(found: re.Match[str]) -> str:
        flag, text, marks = found.groups()
        return f"* {flag}: {plain(text)}{marks}"

    return re.sub(r"^\* (`[^`]*`): (.*?)((?: \*+\[[^\]]*\]\*+)*)$", line, body, flags=re.MULTILINE)


def settings_page() -> str:
    """Return the page of the settings models: each key with its type, default and range."""
    parts = [
        f"{NOT_SEARCHED}# Settings",
        "Each stage has one settings model. It is immutable and refuses unknown keys. Its fields are the arguments in Python, "
        "the flags of the [command](command.md) (`max_length` is `--max-length`) and the keys of the `--config` file.",
    ]
    for model in MODELS:
        summary = (model.__doc__ or "").strip().partition("\n\n")[0]
        parts.append(f"## {model.__name__}\n\n{plain(summary)} In Python: `{model.__module__}.{model.__name__}`.")
        rows = [list(_row(name, field)) for name, field in model.model_fields.items()]
        parts.append(table(["key", "type", "default", "range", "meaning"], rows))
    return "\n\n".join(parts) + "\n"


def _row(name: str, field: FieldInfo) -> Iterator[str]:
    yield code(name)
    yield code(type_name(field.annotation))
    yield "required" if field.is_required() else code(repr(field.default))
    yield ", ".join(_limits(field))
    yield plain(field.description or "")


def _limits(field: FieldInfo) -> Iterator[str]:
    for each in field.metadata:
        if type(each) in _BOUNDS:
            yield f"{_BOUNDS[type(each)]} {getattr(each, type(each).__name__.lower()):g}"
        elif isinstance(each, MinLen):
            yield f"at least {each.min_length} character{'s' if each.min_length > 1 else ''}"


def type_name(annotation: object) -> str:
    """Return a type as a reader would write it: without modules, and `Literal` as its values."""
    text = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    text = re.sub(r"Annotated\[(\w+),.*?\](?=[],]|$)", r"\1", text.replace("typing.", ""))
    text = re.sub(r"\b[a-z_]+(?:\.[a-z_]+)*\.(?=[A-Z])", "", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " | "), text)
    return re.sub(r"Optional\[(.*)\]", r"\1 | None", text).replace("NoneType", "None")
