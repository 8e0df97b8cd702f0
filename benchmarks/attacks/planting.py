"""Attacks by bundles: copies of the served one with something planted in them, sealed as an attacker would, and reloaded."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from benchmarks.attacks.damaging import Whole
from benchmarks.attacks.trials import Attack
from benchmarks.attacks.wire import ADMIN_TOKEN, Seen, Target, ask, whole
from distill.bundle import MANIFEST, TOKENIZER, Bundle
from distill.storage import sha256_of

Change = Callable[[Path], None]


async def plant(target: Target, change: Change) -> Seen:
    """Reload a changed copy of the bundle; it must be refused, and the served one must go on to answer."""
    folder = target.work / "planted"
    if not folder.exists():
        await asyncio.to_thread(shutil.copytree, target.folder, folder)
        await asyncio.to_thread(change, folder)
    body = json.dumps({"bundle": str(folder)}).encode()
    request = whole("POST", "/admin/reload", f"authorization: Bearer {ADMIN_TOKEN}", body=body)
    return await ask(target, [request], expected=(409,), first_s=target.patience_s)


def changed_graph(folder: Path) -> None:
    """Change one byte of the graph and nothing in the manifest."""
    path = _graph(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def named_pipe(folder: Path) -> None:
    """Put a named pipe in the manifest's place: opening it waits for a writer that never comes."""
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def endless_manifest(folder: Path) -> None:
    """Put a link to a file without end in the manifest's place."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")


def not_a_number(folder: Path) -> None:
    """Replace every weight in fp32 by a value that is not a number."""
    model = onnx.load(_graph(folder))
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            values = np.full_like(numpy_helper.to_array(weight), np.nan)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    _seal_graph(folder, model)


def endless_loop(folder: Path) -> None:
    """Put a loop in front of the logits whose end nobody lives to see."""
    model = onnx.load(_graph(folder))
    logits, inner = model.graph.output[0].name, _before_logits(model)
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("carried", "next")]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    before, after = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("before", "after"))
    steps = [helper.make_node("Identity", ["before"], ["after"]), helper.make_node("Identity", ["carried"], ["next"])]
    body = helper.make_graph(steps, "body", [turn, before, carried[0]], [after, carried[1]])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "turns"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("Loop", ["turns", "always", inner], [logits], body=body))
    _seal_graph(folder, model)


def file_outside(folder: Path) -> None:
    """List a file by a name that leads out of the folder."""
    outside = folder.with_name("outside.txt")
    outside.write_text("not the bundle's\n")
    whole = Whole.of(folder)
    entry = {"size_bytes": outside.stat().st_size, "sha256": sha256_of(outside)}
    whole.seal({}, files={**whole.manifest["files"], f"../{outside.name}": entry})


async def weights_outside(target: Target) -> Seen:
    """Take the weights of the graph from a file in the folder that the server runs in."""

    def change(folder: Path) -> None:
        model = onnx.load(_graph(folder))
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        outside = Path(f"/proc/{target.server.process.pid}/cwd") / "weights.bin"
        outside.write_bytes(weights.raw_data)
        onnx.external_data_helper.set_external_data(weights, location=outside.name, length=len(weights.raw_data))
        weights.ClearField("raw_data")
        _seal_graph(folder, model)

    return await plant(target, change)


def huge_constant(folder: Path) -> None:
    """Make a tensor of two gigabytes of a size in the graph, and add its first value to the logits."""
    model = onnx.load(_graph(folder))
    sizes = {"planted_size": 2**31, "planted_place": 0}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([size]), name) for name, size in sizes.items())
    zero = helper.make_tensor("", TensorProto.UINT8, [1], [0])
    before = _before_logits(model)
    model.graph.node.extend(
        (
            helper.make_node("ConstantOfShape", ["planted_size"], ["planted"], value=zero),
            helper.make_node("Gather", ["planted", "planted_place"], ["planted_first"]),
            helper.make_node("Cast", ["planted_first"], ["planted_zero"], to=TensorProto.FLOAT),
            helper.make_node("Add", [before, "planted_zero"], [model.graph.output[0].name]),
        )
    )
    _seal_graph(folder, model)


def backtracking_tokenizer(folder: Path) -> None:
    """Split texts by a regular expression that takes exponential time."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("(a|aa)+$"), "isolated"), tokenizer.pre_tokenizer]
    )
    _seal_tokenizer(folder, tokenizer)


def growing_tokenizer(folder: Path) -> None:
    """Make every text a thousand times longer before it is tokenized."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    longer = normalizers.Replace("e", "e" * 1000)
    tokenizer.normalizer = normalizers.Sequence([longer, *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    _seal_tokenizer(folder, tokenizer)


def _before_logits(model: onnx.ModelProto) -> str:
    """Let the graph write its logits under another name, and return that."""
    logits = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{logits}_before" if name == logits else name for name in node.output]
    return f"{logits}_before"


def _graph(folder: Path) -> Path:
    bundle = Bundle.open(folder)
    return bundle.graph(bundle.best_precision())


def _seal_graph(folder: Path, model: onnx.ModelProto) -> None:
    bundle, name = Bundle.open(folder), _graph(folder).name
    with bundle.staging() as staged:
        onnx.save(model, staged / name)
        bundle.adding({name: staged / name})


def _seal_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    bundle = Bundle.open(folder)
    with bundle.staging() as staged:
        tokenizer.save(str(staged / TOKENIZER))
        bundle.adding({TOKENIZER: staged / TOKENIZER})


def _bundle(name: str, tries: str, guard: str, act: Callable[[Target], Awaitable[Seen]]) -> Attack:
    return Attack(name, "bundles", tries, guard, act, frozenset({"admin"}), {"--reload-timeout-s": "3"})


BUNDLES = (
    *(
        _bundle(name, tries, guard, partial(plant, change=change))
        for name, tries, guard, change in (
            ("changed_graph", "a graph that was changed after it was sealed", "digests", changed_graph),
            ("named_pipe", "a named pipe in place of a file", "reload_time", named_pipe),
            ("endless_manifest", "a link to a file without end", "manifest_bytes", endless_manifest),
            ("file_outside", "a file of another folder in the manifest", "file_names", file_outside),
            ("not_a_number", "weights that are not numbers", "self_check", not_a_number),
            ("endless_loop", "a graph with a loop without end", "graph_limits", endless_loop),
            ("huge_constant", "a graph that makes two gigabytes of one number", "graph_limits", huge_constant),
            ("backtracking_tokenizer", "a regular expression without end", "tokenizer_limits", backtracking_tokenizer),
            ("growing_tokenizer", "a tokenizer that makes texts longer", "tokenizer_limits", growing_tokenizer),
        )
    ),
    _bundle("weights_outside", "a graph whose weights are another file of the machine", "graph_limits", weights_outside),
)
