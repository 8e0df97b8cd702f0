"""Bundles by the thousand that must not open, from one seed: damaged ones, and planted ones with right digests."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from distill import bundle as bundle_module
from distill import manifest as manifest_module
from distill.bundle import BENCHMARK, GRAPH_OF_PRECISION, MANIFEST, TOKENIZER, WEIGHTS, Bundle
from distill.errors import BundleError
from export.runtime.sessions import OnnxClassifier

PLANTED_EVERY = 5
"""One bundle in five is planted, the others are damaged."""
SHOWN = 10
"""Cases that a row tells of."""


@dataclass(frozen=True)
class Whole:
    """A bundle that opens.

    Attributes:
        folder: Where it is.
        files: The content of every file, the manifest's among them.
        manifest: Its values, without its digest.
        graph: Name of the graph that runs.
    """

    folder: Path
    files: Mapping[str, bytes]
    manifest: Mapping[str, Any]
    graph: str

    @classmethod
    def of(cls, folder: Path) -> Whole:
        """Read the bundle of a folder."""
        bundle = Bundle.open(folder)
        files = {name: (folder / name).read_bytes() for name in (*sorted(bundle.manifest.files), MANIFEST)}
        values = json.loads(files[MANIFEST])
        del values["sha256"]
        return cls(folder, files, values, GRAPH_OF_PRECISION[bundle.best_precision()])

    def seal(self, changed: Mapping[str, bytes], **values: Any) -> None:
        """Write changed files, and a manifest that lists them with their right digests and has other values."""
        files = dict(self.manifest["files"])
        for name, content in changed.items():
            (self.folder / name).write_bytes(content)
            files[name] = {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}
        content = manifest_module._sealed({**self.manifest, "files": files, **values})
        (self.folder / MANIFEST).write_bytes(content)


def fuzz_bundles(bundle: Path, *, bundles: int, seed: int) -> dict[str, Any]:
    """Open so many bundles that must be refused, and return the row: how many were, and which were not."""
    opened, failed, kinds, began = list[str](), list[str](), Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bundle"
        shutil.copytree(bundle, folder)
        shipped = Bundle.open(folder)  # one graph and what it needs
        other = {"model.onnx"} if shipped.best_precision() == "int8" else set[str]()
        shipped.adding({}, dropping=frozenset({WEIGHTS, BENCHMARK, *other}))
        whole, draw = Whole.of(folder), random.Random(seed)  # noqa: S311
        for number in range(bundles):
            is_planted = number % PLANTED_EVERY == PLANTED_EVERY - 1
            # In turn, so that each file and each plant comes up.
            cases = PLANTS if is_planted else {name: partial(damage, name) for name in whole.files}
            name = list(cases)[number // PLANTED_EVERY % len(cases)] if is_planted else list(cases)[number % len(cases)]
            kinds["planted" if is_planted else "damaged"] += 1
            with _restored(whole) as touch:
                what = f"{name}: {cases[name](whole, draw, touch)}"
                try:
                    _open(whole, None if is_planted else name)
                except BundleError:
                    continue
                except Exception as exc:  # noqa: BLE001  # anything but a refusal is what this looks for
                    failed.append(f"{what}: {exc!r}")
                else:
                    opened.append(what)
    failures = [f"{len(cases)} {how}: {cases[0]}" for cases, how in ((opened, "were opened"), (failed, "failed")) if cases]
    return {
        "kind": "fuzz",
        "name": "bundles",
        "tried": bundles,
        "seed": seed,
        "seconds": time.monotonic() - began,
        **kinds,
        "plants": list(PLANTS),
        "refused": bundles - len(opened) - len(failed),
        "opened": opened[:SHOWN],
        "failed": failed[:SHOWN],
        "survived": not failures,
        "failures": failures,
    }


Touch = Callable[[str], None]
Plant = Callable[[Whole, random.Random, Touch], str]


@contextmanager
def _restored(whole: Whole) -> Iterator[Touch]:
    """Yield what is told of each file that is changed; these and the manifest are as before after the block."""
    touched: set[str] = set()
    yield touched.add
    for name in touched:
        (whole.folder / name).unlink(missing_ok=True)
        (whole.folder / name).write_bytes(whole.files[name])


def _open(whole: Whole, damaged: str | None) -> None:
    """Open a bundle as a server does; of a damaged one only the changed file is read, the digests of the others are known."""
    module: Any = bundle_module
    digest = module.sha256_of
    known = {whole.folder / name: entry["sha256"] for name, entry in whole.manifest["files"].items() if name != damaged}
    if damaged is not None:
        module.sha256_of = lambda path: known.get(path) or digest(path)
    try:
        bundle = Bundle.open(whole.folder)
    finally:
        module.sha256_of = digest
    if damaged is None:
        OnnxClassifier.open(bundle, threads=1)


def damage(name: str, whole: Whole, draw: random.Random, touch: Touch) -> str:
    """Change a byte of a file (four times in five) or cut off its end."""
    touch(name)
    content = whole.files[name]
    place = draw.randrange(len(content))
    with (whole.folder / name).open("r+b") as file:
        if draw.random() < 0.2:
            file.truncate(place)
            return f"cut at {place}"
        file.seek(place)
        file.write(bytes([content[place] ^ draw.randrange(1, 256)]))
    return f"byte {place} changed"


# Plants


def file_elsewhere(whole: Whole, draw: random.Random, touch: Touch) -> str:
    """List a file by a name that is none of the bundle's own folder."""
    touch(MANIFEST)
    steps = draw.choice(("../", "/", "./", "a/", "..\\", "~/", ".", "\0", "-", "%2e%2e/"))
    name = steps * draw.randrange(1, 4) + draw.choice(list(whole.files))
    listed = {"size_bytes": 1, "sha256": "0" * 64}
    whole.seal({}, files={**whole.manifest["files"], name: draw.choice((listed, whole.manifest["files"][whole.graph]))})
    return repr(name)


def wrong_value(whole: Whole, draw: random.Random, touch: Touch) -> str:
    """Give a field of the manifest a value of another kind or out of its range."""
    touch(MANIFEST)
    name = draw.choice(("labels", "max_length", "pad_token_id", "precisions", "problem_type", "role", "schema", "other"))
    value: Any = draw.choice(
        (-draw.randrange(1, 2**62), 2**62 + draw.randrange(2**62), "x" * draw.randrange(1, 99), {}, [[]], 1.5)
    )
    whole.seal({}, **{name: value})
    return f"{name} is {value!r}"


def link(whole: Whole, draw: random.Random, touch: Touch) -> str:
    """Put a link to another file in a file's place."""
    name, other = draw.sample(list(whole.files), 2)
    touch(name)
    (whole.folder / name).unlink()
    target = draw.choice((other, name, "/etc/hostname", "/dev/null", "/", "nowhere"))
    (whole.folder / name).symlink_to(target)
    return f"{name} is a link to {target}"


def _in_graph(change: Callable[[onnx.ModelProto, random.Random], str]) -> Plant:
    def planted(whole: Whole, draw: random.Random, touch: Touch) -> str:
        touch(MANIFEST)
        touch(whole.graph)
        model = onnx.load_from_string(whole.files[whole.graph])
        what = change(model, draw)
        whole.seal({whole.graph: model.SerializeToString()})
        return what

    return planted


def external_data(model: onnx.ModelProto, draw: random.Random) -> str:
    """Take the values of a tensor from another file."""
    tensor = draw.choice(model.graph.initializer)
    location = draw.choice((TOKENIZER, "../secret", "/etc/passwd", "/dev/zero", "http://127.0.0.1/"))
    onnx.external_data_helper.set_external_data(tensor, location=location, offset=draw.randrange(2**20))
    tensor.ClearField("raw_data")
    return f"{tensor.name} is in {location}"


def huge_shape(model: onnx.ModelProto, draw: random.Random) -> str:
    """Declare a tensor, a value or an attribute of a size beyond reason."""
    dims = [draw.choice((1, -1)) * 2 ** draw.randrange(31, 62), draw.randrange(1, 9)]
    if draw.random() < 0.5:
        draw.choice(model.graph.initializer).dims[:] = dims
        return f"a tensor of {dims}"
    model.graph.value_info.append(helper.make_tensor_value_info("huge", TensorProto.FLOAT, dims))
    return f"a value of {dims}"


def foreign_op(model: onnx.ModelProto, draw: random.Random) -> str:
    """Put in an op that no graph of ours has, some with a graph inside."""
    domain, op = draw.choice(
        (
            *(("", op) for op in ("Loop", "If", "Scan", "SequenceMap", "RandomNormal", "StringConcat", "Optional")),
            *(("custom", op) for op in ("Add", "Anything")),
            *(("com.microsoft", op) for op in ("PyOp", "Inverse", "BeamSearch", "Sampling")),
            *(("ai.onnx.ml", op) for op in ("TreeEnsemble", "LabelEncoder")),
        )
    )
    body = {"body": helper.make_graph([], "body", [], [])} if draw.random() < 0.5 else {}
    node = helper.make_node(op, [model.graph.input[0].name], [f"unused{draw.random()}"], domain=domain, **body)
    model.graph.node.insert(draw.randrange(len(model.graph.node) + 1), node)
    return f"{domain}:{op} {'with' if body else 'without'} a graph"


def foreign_part(model: onnx.ModelProto, draw: random.Random) -> str:
    """Add a part of the format that a classifier does not need."""
    part = draw.choice(("function", "training", "sparse tensor", "session options", "strings"))
    if part == "function":
        name = draw.choice(model.graph.node).op_type
        model.functions.append(helper.make_function("", name, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], []))
    elif part == "training":
        model.training_info.add()
    elif part == "sparse tensor":
        model.graph.sparse_initializer.add()
    elif part == "session options":
        model.metadata_props.add(key="ort_config", value=json.dumps({"session_options": {"inter_op_num_threads": 999}}))
    else:
        words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[1], string_data=[draw.randbytes(9)])
        model.graph.initializer.append(words)
    return part


def _in_tokenizer(change: Callable[[dict[str, Any], random.Random], str]) -> Plant:
    def planted(whole: Whole, draw: random.Random, touch: Touch) -> str:
        touch(MANIFEST)
        touch(TOKENIZER)
        values = json.loads(whole.files[TOKENIZER])
        what = change(values, draw)
        content = json.dumps(values).encode()
        Tokenizer.from_buffer(content)  # the library itself takes it
        whole.seal({TOKENIZER: content})
        return what

    return planted


def regular_expression(values: dict[str, Any], draw: random.Random) -> str:
    """Split texts by a regular expression that backtracks."""
    letter, other = draw.sample("abcdefghij", 2)
    regex = draw.choice(("({0}|{0}{0})+$", "({0}+)+{1}", "({0}*)*{1}", "(.*{0}){{9,}}", "({0}|{0}?)+{1}", r"(\w+\s?)*{1}"))
    regex = regex.format(letter, other)
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    values["pre_tokenizer"] = _put(step, values["pre_tokenizer"], "pretokenizers", draw)
    return regex


def growth(values: dict[str, Any], draw: random.Random) -> str:
    """Make every text longer before it is tokenized."""
    letter, times = draw.choice("etaoins "), draw.randrange(2, 2000)
    step: dict[str, Any] = {"type": "Replace", "pattern": {"String": letter}, "content": letter * times}
    if draw.random() < 0.3:
        step = {"type": "Prepend", "prepend": "a" * (times + 16)}
    values["normalizer"] = _put(step, values["normalizer"], "normalizers", draw)
    return f"{step['type']} {times} times"


def _put(step: dict[str, Any], there: dict[str, Any] | None, key: str, draw: random.Random) -> dict[str, Any]:
    """Return a sequence with one more step, some way down."""
    steps = [there] if there else []
    steps.insert(draw.randrange(len(steps) + 1), step)
    found: dict[str, Any] = {"type": "Sequence", key: steps}
    for _ in range(draw.randrange(4)):
        found = {"type": "Sequence", key: [found]}
    return found


PLANTS: Mapping[str, Plant] = {
    "file_elsewhere": file_elsewhere,
    "wrong_value": wrong_value,
    "link": link,
    "external_data": _in_graph(external_data),
    "huge_shape": _in_graph(huge_shape),
    "foreign_op": _in_graph(foreign_op),
    "foreign_part": _in_graph(foreign_part),
    "regular_expression": _in_tokenizer(regular_expression),
    "growth": _in_tokenizer(growth),
}
