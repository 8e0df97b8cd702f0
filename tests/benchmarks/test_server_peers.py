"""What runs beside the servers of `serving`: their command lines, and the models that they serve."""

from __future__ import annotations

import asyncio
import json
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers import stock
from benchmarks.peers.servers import SERVERS
from benchmarks.peers.servers.inside import stock_folder
from benchmarks.peers.servers.inside.stock_model import StockModel
from benchmarks.peers.servers.protocol import Start
from benchmarks.serving import trivial
from benchmarks.serving.generator import take_response
from distill.bundle import Bundle
from distill.classifier import predict
from export.measure.protocol import Job
from export.runtime.sessions import OnnxClassifier

TEXTS = ["a great film", "a dull film that never ends"]


@pytest.fixture
def folder(tiny_student: Bundle, tmp_path: Path) -> Path:
    """Return a folder as a peer serves it, with the student's own graph in place of the stock one."""
    made = tmp_path / "stock"
    shutil.copytree(tiny_student.path, made)
    (made / "model.onnx").rename(made / stock_folder.GRAPH)
    return made


def labels(bundle: Bundle) -> list[str]:
    return [each.label for each in predict(OnnxClassifier.open(bundle, precision="fp32"), TEXTS)]


def test_the_stock_model_gives_the_labels_of_the_student(folder: Path, tiny_student: Bundle) -> None:
    answers = StockModel(folder, threads=1).answer(TEXTS)
    assert [label for label, _ in answers] == labels(tiny_student)
    assert all(0.5 <= score <= 1 for _, score in answers)  # the higher of two shares


def test_litserve_serves_the_stock_model_with_the_setting_that_it_is_given(
    folder: Path, tiny_student: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    apis, given = list[Any](), dict[str, Any]()

    def server(api: Any, **how: Any) -> SimpleNamespace:
        apis.append(api)
        given.update(how)
        return SimpleNamespace(run=lambda **more: given.update(more))

    library = ModuleType("litserve")
    monkeypatch.setitem(vars(library), "LitAPI", type("LitAPI", (), {"__init__": lambda self, **how: given.update(how)}))
    monkeypatch.setitem(vars(library), "LitServer", server)
    monkeypatch.setitem(sys.modules, "litserve", library)
    start = Start(Path(sys.executable), folder, 20_000, folder, SERVERS["litserve"].settings[3])
    _, _, module, told = SERVERS["litserve"].command(start)
    monkeypatch.setattr(sys, "argv", [module, told])
    runpy.run_module(module, run_name="__main__")
    assert (given["max_batch_size"], given["num_api_servers"], given["port"]) == (16, 2, 20_000)
    apis[0].setup("cpu")
    answers = apis[0].predict([{"text": text} for text in TEXTS])
    assert [SERVERS["litserve"].label(json.dumps(answer).encode()) for answer in answers] == labels(tiny_student)


def test_mlserver_serves_the_stock_model_by_the_files_that_it_is_given(
    folder: Path, tiny_student: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    peer = SERVERS["mlserver"]
    peer.command(Start(Path(sys.executable), folder, 20_000, work, peer.settings[-1]))
    server, model = (json.loads((work / name).read_text()) for name in ("settings.json", "model-settings.json"))
    assert [server[name] for name in ("http_port", "grpc_port", "metrics_port")] == [20_000, 20_001, 20_002]
    assert (server["parallel_workers"], model["max_batch_size"]) == (2, 16)

    library, codecs = ModuleType("mlserver"), ModuleType("mlserver.codecs")
    codec = SimpleNamespace(decode_input=lambda given: given, encode_output=lambda name, data: {"name": name, "data": data})
    monkeypatch.setitem(vars(library), "MLModel", type("MLModel", (), {"name": "student", "version": None}))
    monkeypatch.setitem(vars(library), "types", SimpleNamespace(InferenceResponse=dict, ResponseOutput=dict))
    monkeypatch.setitem(vars(codecs), "StringCodec", codec)
    monkeypatch.setitem(sys.modules, "mlserver", library)
    monkeypatch.setitem(sys.modules, "mlserver.codecs", codecs)
    module, _, name = model["implementation"].rpartition(".")
    runtime = runpy.run_module(module)[name]()
    runtime.settings = SimpleNamespace(parameters=SimpleNamespace(**model["parameters"]))
    assert asyncio.run(runtime.load())
    response = asyncio.run(runtime.predict(SimpleNamespace(id="1", inputs=[TEXTS])))
    assert response["outputs"][0]["data"] == labels(tiny_student)
    assert peer.label(json.dumps(response).encode()) == labels(tiny_student)[0]


@pytest.mark.parametrize(("place", "skips"), [(0, True), (1, False)])
def test_infinity_finds_the_stock_export_in_its_working_folder(place: int, skips: bool, folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    words = SERVERS["infinity"].command(Start(Path(sys.executable), folder, 20_000, work, SERVERS["infinity"].settings[place]))
    assert words[words.index("--model-id") + 1] == "."
    assert (work / stock_folder.GRAPH).read_bytes() == (folder / stock_folder.GRAPH).read_bytes()
    assert ("--onnx-disable-optimize" in words) is skips


def test_the_stock_folder_is_made_once(tiny_student: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def prepare(job: Job) -> None:
        made.append(job.folder)
        (job.folder / stock.GRAPH).write_bytes(b"a graph")

    monkeypatch.setattr(stock_folder, "write_portable", lambda bundle, place: None)
    monkeypatch.setattr(stock, "prepare", prepare)
    folder = tmp_path / "work" / "stock"
    assert stock_folder.write_stock_folder(tiny_student.path, folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        stock_folder.GRAPH,
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    stock_folder.write_stock_folder(tiny_student.path, folder)
    assert len(made) == 1
    assert not made[0].exists()


def test_the_server_that_the_generator_is_weighed_with_answers_at_once() -> None:
    said: list[bytes] = []

    async def ask() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"anything")
        reader.feed_eof()
        await trivial.answer(reader, SimpleNamespace(write=said.append, close=lambda: None))  # type: ignore[arg-type]

    asyncio.run(ask())
    found = take_response(b"".join(said))
    assert found is not None
    assert (found[0], json.loads(found[1])[0]["label"]) == (200, "positive")
