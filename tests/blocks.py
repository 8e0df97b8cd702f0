"""The code blocks of the pages, and a check for each language.

A line of a shell block is parsed by the program that it calls: `potstill` by its own parser with its own settings, so a flag,
a value or a combination that the command would refuse is found without running it. A block that only another program can
judge is marked in the page, on the line before it: `<!-- not run: needs Docker -->`. Its syntax is checked.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import yaml

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    if "decisions" not in path.parts
)
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+?) -->\s*\n)?^(?P<indent> *)```(?P<words>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```",
    re.M | re.S,
)
_TOKEN = re.compile(r"""(?P<quoted>'[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?P<operator>\|\||&&|[|;&])|(?:^|(?<=\s))\#.*""")
SMALL_TOOLS = (
    "cat",
    "cd",
    "cp",
    "grep",
    "head",
    "jq",
    "kill",
    "ln",
    "mkdir",
    "mv",
    "openssl",
    "seq",
    "source",
    "tail",
    "wc",
    "xargs",
)
OURS = ("distill", "export", "serve", "benchmarks")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        language: As its fence names it; shell if it names none.
        why_not_run: The reason in the mark before it.
    """

    page: str
    language: str
    code: str
    why_not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}: {self.code.strip().splitlines()[0]}" if self.code.strip() else self.page


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    for found in FENCE.finditer(path.read_text(encoding="utf-8")):
        indent, words = len(found["indent"]), found["words"].split()
        code = "\n".join(line[indent:] for line in found["code"].splitlines())
        yield Block(str(path.relative_to(ROOT)), words[0] if words else "console", code, found["why"])


def checked(block: Block) -> str:
    """Check a block; return in which way.

    Raises:
        Exception: The block is wrong, or there is no check for its language.
    """
    checks = _SYNTAX if block.why_not_run else _CHECKS
    if block.language not in checks:
        raise ValueError(f"there is no check for {block.language!r}; tests/blocks.py knows {', '.join(sorted(checks))}")
    checks[block.language](block.code)
    return "syntax" if block.why_not_run else "parsed"


def shell_lines(code: str) -> Iterator[list[list[str]]]:
    """Yield the commands of each line of a shell block, as words; a line that ends with a backslash goes on."""
    for line in code.replace("\\\n", " ").splitlines():
        parts = _TOKEN.sub(lambda found: "\0" if found["operator"] else found["quoted"] or "", line).split("\0")
        commands = [_without_surroundings(shlex.split(part)) for part in parts]
        if any(commands):
            yield [words for words in commands if words]


def _without_surroundings(words: list[str]) -> list[str]:
    """Return a command without the variables before it and the files that it reads from or writes to."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & {"<", ">", ">>"}]


def _shell(code: str) -> None:
    for commands in shell_lines(code):
        for program, *_ in commands:
            if program not in _PROGRAMS and program not in SMALL_TOOLS:
                raise ValueError(f"no test parses {program!r}; mark the block with <!-- not run: WHY -->")
    _marked_shell(code)


def _marked_shell(code: str) -> None:
    """Check the syntax, and parse the lines of the programs that are known."""
    subprocess.run(["bash", "-n"], input=code, text=True, check=True, capture_output=True)
    for commands in shell_lines(code):
        for program, *arguments in commands:
            if program in _PROGRAMS:
                _PROGRAMS[program](arguments)


def _potstill(arguments: list[str]) -> None:
    from distill.cli.main import app

    if "--config" in arguments:
        place = arguments.index("--config")
        arguments = arguments[:place] + arguments[place + 2 :]
    if arguments[-1:] not in (["--help"], ["--version"]):
        app.parse_args(arguments, exit_on_error=False, print_error=False)


def _python_program(arguments: list[str]) -> None:
    match arguments:
        case ["-c", code]:
            _python(code)
        case ["-m", "distill" | "export" | "serve", *rest]:
            _potstill(rest)
        case ["-m", "benchmarks", name, *_]:
            from benchmarks.__main__ import app

            app[name]
        case ["-m", "build" | "pip" | "venv" | "docs.tools" | "http.server" | "pytest", *_]:
            pass
        case _:
            raise ValueError(f"no test parses python {shlex.join(arguments)}")


def _torchrun(arguments: list[str]) -> None:
    _python_program(arguments[arguments.index("-m") :])


def _make(arguments: list[str]) -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for word in arguments:
        assert "=" in word or word in targets, f"the Makefile has no target {word}"


def _pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"(?:potstill|\.)\[([\w,-]+)\]", " ".join(arguments)):
        for extra in named.split(","):
            assert extra in extras, f"potstill has no extra {extra}"


def _curl(arguments: list[str]) -> None:
    from serve.http.routes import find

    address = next((word for word in arguments if re.match(r"(?:http://)?(?:localhost|127\.0\.0\.1)", word)), None)
    if address is None:
        return  # of a proxy, which has other paths
    body = next((arguments[place + 1] for place, word in enumerate(arguments) if word in ("-d", "--data", "--json")), None)
    routes = find(urlsplit(address if "://" in address else f"http://{address}").path or "/")
    method = arguments[arguments.index("-X") + 1] if "-X" in arguments else "POST" if body is not None else "GET"
    assert method in routes, f"the server has no route {method} {address}"
    takes = routes[method].route.takes
    if body is not None and takes is not None:
        msgspec.json.decode(body, type=takes)


def _python(code: str) -> None:
    """Compile it; names that it imports of ours are there, and calls of them have only arguments that they take."""
    tree = ast.parse(code)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
                continue
            inspect.signature(names[node.func.id]).bind(*node.args, **{str(each.arg): each.value for each in node.keywords})


def _balanced(code: str) -> None:
    """Check that every bracket outside of a string is closed."""
    code = re.sub(r"//[^\n]*|#[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", "", code)
    opened = []
    for sign in re.findall(r"[(){}\[\]]", code):
        if sign in "({[":
            opened.append(sign)
        else:
            assert opened, f"an unopened {sign}"
            assert opened.pop() + sign in ("()", "{}", "[]"), f"a wrong {sign}"
    assert not opened, f"not closed: {opened}"


def _javascript(code: str) -> None:
    _balanced(code)
    if shutil.which("node"):
        subprocess.run(["node", "--input-type=module", "--check"], input=code, text=True, check=True, capture_output=True)


def _dockerfile(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        assert re.match(
            r"(?:#|$|(?:FROM|RUN|COPY|ADD|ENV|ARG|USER|WORKDIR|EXPOSE|CMD|ENTRYPOINT|HEALTHCHECK|LABEL|VOLUME) )", line
        ), line


def _yaml(code: str) -> None:
    assert list(yaml.safe_load_all(code))


def _unit(code: str) -> None:
    for line in code.splitlines():
        assert re.match(r"(?:#|$|\[\w+\]$|\w+=)", line), line


_PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "potstill": _potstill,
    "python": _python_program,
    "python3": _python_program,
    "torchrun": _torchrun,
    "make": _make,
    "pip": _pip,
    "pre-commit": lambda arguments: None,
    "curl": _curl,
    ".ci/run": lambda arguments: None,
}
_CHECKS: dict[str, Callable[[str], object]] = {
    "console": _shell,
    "bash": _shell,
    "sh": _shell,
    "python": _python,
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": _yaml,
    "ini": _unit,
    "nginx": _balanced,
    "text": lambda code: None,
}
_SYNTAX = _CHECKS | {
    "console": _marked_shell,
    "bash": _marked_shell,
    "sh": _marked_shell,
    "python": ast.parse,
    "javascript": _javascript,
    "html": lambda code: None,
    "dockerfile": _dockerfile,
}
