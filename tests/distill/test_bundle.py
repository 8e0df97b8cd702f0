"""The bundle: whole or refused, at every moment of its life."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.bundle import Bundle, new_bundle_folder, seal_new_bundle
from distill.card import write_card
from distill.errors import BundleError, SettingsError, StorageError
from distill.manifest import Lineage, Manifest

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4,
    "model.onnx": b"a graph" * 100,
    "model_int8.onnx": b"a smaller graph",
    "benchmark.json": b"{}",
}


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "role": "student",
        "labels": ("schlecht", "gut ✓"),
        "problem_type": "single_label_classification",
        "max_length": 128,
        "pad_token_id": 0,
        "num_parameters": 1234,
        "precisions": ("fp32", "int8"),
        "lineage": Lineage(base_model="tiny", train_fingerprint="a" * 64, validation_fingerprint="b" * 64, seed=3),
        "settings": {"distill": {"temperature": 2.0, "layers": [0, 2]}},
        "quality": {"fp32": {"macro_f1": 0.9, "macro_f1_interval": [0.88, 0.92]}},
        "history": ({"epoch": 1.0, "macro_f1": 0.5},),
    }
    return Manifest(**{**values, **changes})


def write_bundle(folder: Path, files: dict[str, bytes] = FILES, **changes: Any) -> Bundle:
    with new_bundle_folder(folder) as staged:
        for name, content in files.items():
            (staged / name).write_bytes(content)
        return seal_new_bundle(folder, staged, manifest(**changes))


def test_the_seconds_of_a_training_are_those_of_its_epochs() -> None:
    assert manifest(history=({"epoch": 1.0, "seconds": 2.5}, {"epoch": 2.0, "seconds": 4.0}, {"epoch": 3.0})).training_s == 6.5
    assert manifest(history=()).training_s == 0


@pytest.fixture
def whole(tmp_path: Path) -> Bundle:
    """Return a bundle whose files are no models, but whole."""
    return write_bundle(tmp_path / "bundle")


def refusal_of(path: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, verify=verify)
    return str(caught.value)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it a right digest, as someone who knows the format could."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["sha256"]
    change(values)

    def spelled(content: dict[str, Any]) -> str:
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    path.write_text(spelled({**values, "sha256": hashlib.sha256(spelled(values).encode()).hexdigest()}))


# Whole


def test_what_was_written_is_what_is_read(whole: Bundle) -> None:
    opened = Bundle.open(whole.path)
    assert opened == whole
    assert opened.labels == ("schlecht", "gut ✓")
    assert opened.manifest.model_copy(update={"files": {}}) == manifest()
    assert {name: (entry.size_bytes, entry.sha256) for name, entry in opened.manifest.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    assert {path.name: path.read_bytes() for path in whole.path.iterdir() if path.name != "manifest.json"} == FILES


def test_an_opened_bundle_can_be_named_by_a_string(whole: Bundle) -> None:
    assert Bundle.open(str(whole.path)) == whole


def test_the_manifest_carries_its_schema_and_the_digest_of_all_its_other_lines(whole: Bundle) -> None:
    content = (whole.path / "manifest.json").read_text()
    values = json.loads(content)
    assert values["schema"] == 2
    without_digest = "".join(line for line in content.splitlines(keepends=True) if not line.startswith('  "sha256"'))
    assert hashlib.sha256(without_digest.encode()).hexdigest() == values["sha256"]


def test_the_manifest_names_no_place_on_this_machine(whole: Bundle) -> None:
    content = (whole.path / "manifest.json").read_text()
    assert str(whole.path.parent) not in content
    assert str(Path.home()) not in content


def test_a_file_the_manifest_does_not_list_is_none_of_its_business(whole: Bundle) -> None:
    (whole.path / "notes.txt").write_text("mine")
    Bundle.open(whole.path)


def test_what_must_be_shipped_is_counted(whole: Bundle) -> None:
    manifest_bytes = (whole.path / "manifest.json").stat().st_size
    assert whole.size_bytes("fp32") == len(FILES["model.onnx"]) + len(FILES["tokenizer.json"]) + manifest_bytes
    assert whole.size_bytes("int8") == len(FILES["model_int8.onnx"]) + len(FILES["tokenizer.json"]) + manifest_bytes
    assert whole.size_bytes(None) == sum(len(FILES[name]) for name in ("model.safetensors", "tokenizer.json", "config.json"))


def test_int8_is_preferred_where_there_is_one(whole: Bundle, tmp_path: Path) -> None:
    assert whole.best_precision() == "int8"
    assert write_bundle(tmp_path / "other", precisions=("fp32",)).best_precision() == "fp32"


# Not whole


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_byte_in_any_file_is_refused(whole: Bundle, name: str, place: str) -> None:
    content = bytearray(FILES[name])
    content[{"first": 0, "middle": len(content) // 2, "last": -1}[place]] ^= 1
    (whole.path / name).write_bytes(content)
    assert f"{name} has sha256" in refusal_of(whole.path)
    Bundle.open(whole.path, verify=False)  # the size is right


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_longer_file_is_refused_even_without_digests(whole: Bundle, name: str) -> None:
    for content in (FILES[name][:-1], FILES[name] + b"\n", b""):
        (whole.path / name).write_bytes(content)
        assert f"{name} has {len(content):,} bytes, the manifest says" in refusal_of(whole.path, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(whole: Bundle, name: str) -> None:
    (whole.path / name).unlink()
    assert f"{name} is missing; the bundle is damaged: make or copy it again" in refusal_of(whole.path)
    (whole.path / name).mkdir()
    assert f"{name} is missing" in refusal_of(whole.path)


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a manifest alone, which is written afresh by each example."""
    return write_bundle(tmp_path_factory.mktemp("sealed") / "bundle", {}).path


SEALED = manifest().to_bytes()


@given(place=st.integers(0, len(SEALED) - 1), bits=st.integers(1, 255))
def test_any_changed_byte_of_the_manifest_is_refused(sealed: Path, place: int, bits: int) -> None:
    (sealed / "manifest.json").write_bytes(SEALED[:place] + bytes([SEALED[place] ^ bits]) + SEALED[place + 1 :])
    refusal_of(sealed)


@given(length=st.integers(0, len(SEALED) - 1))
def test_a_manifest_cut_anywhere_is_refused(sealed: Path, length: int) -> None:
    (sealed / "manifest.json").write_bytes(SEALED[:length])
    refusal_of(sealed)


@given(place=st.integers(0, len(SEALED)), more=st.binary(min_size=1, max_size=3))
def test_a_manifest_with_more_in_it_is_refused(sealed: Path, place: int, more: bytes) -> None:
    (sealed / "manifest.json").write_bytes(SEALED[:place] + more + SEALED[place:])
    refusal_of(sealed)


def test_the_manifest_that_these_examples_damage_is_whole(sealed: Path) -> None:
    (sealed / "manifest.json").write_bytes(SEALED)
    Bundle.open(sealed)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b"\xff\xfe{\x00}\x00", b'{"schema": 1}'])
def test_what_is_no_manifest_is_refused(whole: Bundle, content: bytes) -> None:
    (whole.path / "manifest.json").write_bytes(content)
    assert "manifest.json" in refusal_of(whole.path)


@pytest.mark.parametrize("schema", [3, 0, "1", True, 1.0, None])
def test_an_unknown_schema_is_refused_with_both_versions(whole: Bundle, schema: object) -> None:
    rewrite_manifest(whole.path, lambda values: values.update(schema=schema))
    message = refusal_of(whole.path)
    assert f"has schema {schema!r}, this version of potstill reads schemas 1 to 2" in message


def test_a_manifest_without_a_schema_is_refused(whole: Bundle) -> None:
    rewrite_manifest(whole.path, lambda values: values.pop("schema"))
    assert "has schema None" in refusal_of(whole.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "", "a\\b", "a\n"])
def test_a_manifest_that_points_outside_its_folder_is_refused(whole: Bundle, name: str) -> None:
    (whole.path.parent / "secret").write_bytes(FILES["config.json"])
    rewrite_manifest(whole.path, lambda values: values["files"].update({name: values["files"]["config.json"]}))
    assert "files" in refusal_of(whole.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", []),
        ("role", "pupil"),
        ("max_length", 0),
        ("max_length", 10**9),
        ("pad_token_id", 2**62),
        ("precisions", ["fp16"]),
        ("lineage", None),
        ("surprise", 1),
    ],
)
def test_a_well_sealed_manifest_with_a_wrong_value_is_refused_by_name(whole: Bundle, key: str, value: object) -> None:
    rewrite_manifest(whole.path, lambda values: values.update({key: value}))
    assert f"manifest.json: {key}" in refusal_of(whole.path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "is not a bundle: it has no manifest.json" in refusal_of(tmp_path)


def test_a_file_or_nothing_is_no_bundle(whole: Bundle, tmp_path: Path) -> None:
    assert "is not a folder" in refusal_of(whole.path / "manifest.json")
    assert "is not a folder" in refusal_of(tmp_path / "absent")


def test_a_manifest_that_is_a_folder_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    assert "cannot read" in refusal_of(tmp_path)


# What is not there


def test_what_a_bundle_lacks_is_refused_with_what_makes_it(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"tokenizer.json": b"{}"}, precisions=())
    for ask in (bundle.best_precision, lambda: bundle.graph("int8"), lambda: bundle.size_bytes("int8")):
        with pytest.raises(BundleError, match=r"run `potstill export .*` to make"):
            ask()
    for ask in (bundle.weights, lambda: bundle.size_bytes(None)):
        with pytest.raises(BundleError, match=r"has no model\.safetensors.*--strip"):
            ask()
    with pytest.raises(BundleError, match="is not a tokenizer"):
        bundle.tokenizer()


# Changing


def newcomer(bundle: Bundle, name: str, content: bytes) -> Path:
    path = bundle.path / f".new-{name}"
    path.write_bytes(content)
    return path


def test_files_are_added_and_the_manifest_changed(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"tokenizer.json": b"{}"}, precisions=())
    added = bundle.adding({"model.onnx": newcomer(bundle, "model.onnx", b"graph")}, precisions=("fp32",), opset=18)
    assert Bundle.open(bundle.path) == added
    assert added.graph("fp32").read_bytes() == b"graph"
    assert (added.manifest.precisions, added.manifest.opset) == (("fp32",), 18)
    assert added.manifest.files.keys() == {"tokenizer.json", "model.onnx"}
    assert sorted(path.name for path in bundle.path.iterdir()) == ["manifest.json", "model.onnx", "tokenizer.json"]


def test_a_listed_file_is_replaced(whole: Bundle) -> None:
    replaced = whole.adding({"model.onnx": newcomer(whole, "model.onnx", b"better")})
    assert Bundle.open(whole.path) == replaced
    assert replaced.graph("fp32").read_bytes() == b"better"
    assert replaced.manifest.precisions == ("fp32", "int8")


def test_files_that_another_process_added_meanwhile_stay_listed(tmp_path: Path) -> None:
    # As when `bench` measures for minutes a bundle that `export` writes to.
    opened_early = write_bundle(tmp_path / "bundle", {"model.onnx": b"a graph"}, precisions=("fp32",))
    other = Bundle.open(opened_early.path)
    int8 = {"model_int8.onnx": newcomer(other, "model_int8.onnx", b"a smaller graph")}
    other.adding(int8, precisions=("fp32", "int8"))
    benchmark = {"benchmark.json": newcomer(opened_early, "benchmark.json", b"{}")}
    after = opened_early.adding(benchmark)
    assert after == Bundle.open(after.path)
    assert after.manifest.files.keys() == {"model.onnx", "model_int8.onnx", "benchmark.json"}
    assert after.manifest.precisions == ("fp32", "int8")


def test_writers_at_the_same_time_lose_no_file(whole: Bundle) -> None:
    names = [f"extra-{number}.json" for number in range(12)]
    files = {name: newcomer(whole, name, b"{}") for name in names}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: whole.adding({name: files[name]}), names))
    assert Bundle.open(whole.path).manifest.files.keys() == FILES.keys() | set(names)


def test_a_file_of_another_bundle_is_not_added(whole: Bundle) -> None:
    other = Lineage(base_model="other", train_fingerprint="c" * 64, validation_fingerprint="d" * 64, seed=4)
    replacement = write_bundle(whole.path, lineage=other)
    with pytest.raises(BundleError, match="replaced"):
        whole.adding({"benchmark.json": newcomer(whole, "benchmark.json", b"{1}")})
    assert Bundle.open(whole.path) == replacement


def test_files_are_taken_out_with_the_precision_they_were(whole: Bundle) -> None:
    rest = whole.adding({}, dropping=frozenset({"model.safetensors", "model_int8.onnx"}))
    assert Bundle.open(whole.path) == rest
    assert rest.manifest.files.keys() == FILES.keys() - {"model.safetensors", "model_int8.onnx"}
    assert not (whole.path / "model.safetensors").exists()
    assert rest.manifest.precisions == ("fp32",)
    assert rest.best_precision() == "fp32"


def test_taking_out_a_file_that_is_not_listed_leaves_it(whole: Bundle) -> None:
    (whole.path / "notes.txt").write_text("mine")
    assert whole.adding({}, dropping=frozenset({"notes.txt", "absent"})) == whole
    assert (whole.path / "notes.txt").exists()


def test_a_new_bundle_takes_the_place_of_an_old_one(whole: Bundle) -> None:
    fresh = write_bundle(whole.path, {"tokenizer.json": b"{ }"}, role="teacher", precisions=())
    assert Bundle.open(whole.path) == fresh
    assert not (whole.path / "model_int8.onnx").exists()
    assert not (whole.path / "benchmark.json").exists()


def test_staging_leaves_nothing_behind(whole: Bundle) -> None:
    def stopped_halfway() -> None:
        with whole.staging() as staged:
            assert staged.parent == whole.path
            (staged / "half").write_text("half")
            raise SettingsError("stop")

    with pytest.raises(SettingsError, match="stop"):
        stopped_halfway()
    assert {path.name for path in whole.path.iterdir()} == {*FILES, "manifest.json"}


def test_what_a_killed_run_left_in_staging_is_swept_by_the_next(whole: Bundle) -> None:
    left = whole.path / ".staging-killed"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    write_bundle(whole.path)
    assert not left.exists()


# Older schemas


def since(layout: int) -> list[tuple[str, str]]:
    """Return the keys that manifests of schema 1 had only later: those of the layouts after this one, in order."""
    added = [
        [("lineage", "unlabeled_fingerprint")],
        [("lineage", "ensemble")],
        [("", "target")],
        [("", "cascade")],
        [("", "calibration_temperature"), ("lineage", "chain"), ("lineage", "adapted_fingerprint")],
        [("", "pairs")],
    ]
    return [key for keys in added[layout:] for key in keys]


def age(folder: Path, layout: int) -> None:
    """Write the manifest as the version of a layout of schema 1 wrote it."""

    def change(values: dict[str, Any]) -> None:
        values["schema"] = 1
        for part, key in since(layout):
            del (values[part] if part else values)[key]

    rewrite_manifest(folder, change)


@pytest.mark.parametrize("layout", range(7))
def test_every_manifest_of_schema_1_is_read_and_written_in_the_present_schema(whole: Bundle, layout: int) -> None:
    present = whole.manifest
    age(whole.path, layout)
    opened = Bundle.open(whole.path)
    assert opened.manifest == present.model_copy(update={"schema_version": 1})
    changed = opened.adding({}, opset=18)
    assert changed.manifest == present.model_copy(update={"opset": 18})
    assert Bundle.open(whole.path) == changed


def test_a_kill_at_any_step_of_upgrading_leaves_a_bundle_that_opens(tmp_path: Path) -> None:
    files = {**FILES, "README.md": b"an old card"}
    quality: dict[str, Any] = {"quality": {}}
    step, schemas = 0, []
    while True:
        bundle = write_bundle(tmp_path / str(step), files, **quality)
        age(bundle.path, 0)
        killed = killed_at(step, partial(write_card, Bundle.open(bundle.path)))
        schemas.append(Bundle.open(bundle.path).manifest.schema_version)
        if not killed:
            break
        step += 1
    assert (schemas[0], schemas[-1]) == (1, 2)
    assert whole_states_of(bundle.path).keys() == files.keys()
    assert "# A student for schlecht, gut" in (bundle.path / "README.md").read_text()


# Cut off in the middle


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` and kill it before its `step`-th change to a name on the disk; tell whether it came so far."""
    taken = 0
    patch = pytest.MonkeyPatch()

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **keywords: Any) -> Any:
            nonlocal taken
            if taken >= step:
                raise KilledError
            taken += 1
            return change(*arguments, **keywords)

        return changed

    for name in ("replace", "unlink", "rename", "open"):
        patch.setattr(Path, name, counting(getattr(Path, name)))
    patch.setattr(os, "replace", counting(os.replace))
    patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clean up
    try:
        work()
    except KilledError:
        return True
    finally:
        patch.undo()
    return False


def whole_states_of(folder: Path) -> dict[str, bytes]:
    """Open a bundle, so prove it whole, and return its listed files."""
    opened = Bundle.open(folder)
    return {name: (folder / name).read_bytes() for name in opened.manifest.files}


CHANGED = {"model.onnx": b"better", "model_int8.onnx": b"smaller", "new.json": b"{}"}


def test_a_kill_at_any_step_of_adding_leaves_a_bundle_that_opens(tmp_path: Path) -> None:
    step, states = 0, []
    while True:
        bundle = write_bundle(tmp_path / str(step))
        files = {name: newcomer(bundle, name, content) for name, content in CHANGED.items()}
        killed = killed_at(step, partial(bundle.adding, files, opset=18))
        states.append(whole_states_of(bundle.path))
        opened = Bundle.open(bundle.path)
        for precision in opened.manifest.precisions:
            opened.graph(precision)  # no precision is promised without its graph
        if not killed:
            break
        step += 1
    kept = {name: content for name, content in FILES.items() if name not in CHANGED}
    assert states[0] == FILES
    assert states[-1] == {**kept, **CHANGED}
    # Every state is the old bundle, the bundle without what is being replaced, or the new one; and all three occur.
    assert {frozenset(state.items()) for state in states} == {
        frozenset(state.items()) for state in (FILES, kept, {**kept, **CHANGED})
    }


def test_a_kill_at_any_step_of_taking_out_leaves_a_bundle_that_opens(tmp_path: Path) -> None:
    names = frozenset({"model.safetensors", "benchmark.json"})
    rest = {name: content for name, content in FILES.items() if name not in names}
    step = 0
    while True:
        bundle = write_bundle(tmp_path / str(step))
        killed = killed_at(step, partial(bundle.adding, {}, dropping=names))
        assert whole_states_of(bundle.path) in (FILES, rest)
        if not killed:
            break
        step += 1
    assert step >= 3
    assert whole_states_of(bundle.path) == rest


def test_a_kill_at_any_step_of_making_leaves_the_old_bundle_none_or_the_new_one(tmp_path: Path) -> None:
    fresh = {"tokenizer.json": b"{ }", "config.json": b"{ }", "model.safetensors": b"new weights"}
    step, outcomes = 0, []
    while True:
        folder = tmp_path / str(step)
        write_bundle(folder)
        with new_bundle_folder(folder) as staged:
            for name, content in fresh.items():
                (staged / name).write_bytes(content)
            killed = killed_at(step, partial(seal_new_bundle, folder, staged, manifest(precisions=())))
        outcomes.append(whole_states_of(folder) if (folder / "manifest.json").exists() else None)
        if not killed:
            break
        step += 1
    assert outcomes[0] == FILES
    assert outcomes[-1] == fresh
    assert all(outcome in (FILES, None, fresh) for outcome in outcomes)


# A target that cannot be written


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StorageError, match="cannot write"), new_bundle_folder(folder):
            raise AssertionError("there is no such folder")


def test_a_bundle_on_a_full_disk_stays_what_it_was(small_disk: Path) -> None:
    bundle = write_bundle(small_disk / "bundle")
    with pytest.raises(StorageError, match="No space left on device"):
        bundle.adding({"new.json": newcomer(bundle, "new.json", b"{}")}, settings={"export": {"much": "x" * 2**20}})
    assert whole_states_of(bundle.path) == FILES


def test_a_bundle_on_a_read_only_disk_is_opened_and_not_changed(small_disk: Path, make_read_only: Callable[[], None]) -> None:
    bundle = write_bundle(small_disk / "bundle")
    make_read_only()
    assert whole_states_of(bundle.path) == FILES
    for work in (
        lambda: bundle.adding({}, dropping=frozenset({"model.onnx"})),
        lambda: bundle.adding({}, opset=18),
        lambda: write_bundle(small_disk / "bundle"),
        lambda: write_bundle(small_disk / "another"),
    ):
        with pytest.raises(StorageError, match="Read-only file system"):
            work()
    assert whole_states_of(bundle.path) == FILES
