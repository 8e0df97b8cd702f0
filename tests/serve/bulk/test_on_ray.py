"""The same job on a Ray cluster: the same bytes, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bulk_task import digest_of, write_table

from distill.bundle import Bundle
from distill.errors import ClusterError, DatasetError
from serve.bulk.run import score
from serve.bulk.settings import ScoreSettings
from serve.bulk.work import Finished, Job

pytest.importorskip("ray")
from serve.bulk.on_ray import run_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray leaves sockets and files to the collector

ROOT = Path(__file__).parents[3]
SETTINGS = ScoreSettings(key=("id",), part_rows=32, workers=2)


@pytest.fixture
def cluster() -> Iterator[object]:
    """Start two nodes on this machine, with one processor each, and join them."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_two_nodes_write_what_one_machine_writes_and_a_lost_one_changes_nothing(
    tmp_path: Path, tiny_student: Bundle, cluster: object
) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", 400, seed=ord(name))
    inputs = [str(tmp_path / f"{name}.parquet") for name in ("a", "b")]
    score(tiny_student, inputs, str(tmp_path / "threads"), settings=SETTINGS)
    workers: set[str] = set()

    def one_dies(job: Job, done: frozenset[str]) -> Iterator[Finished]:
        for number, finished in enumerate(run_on_ray(job, done)):
            workers.add(finished.worker)
            if number == 3:  # an actor: Ray starts another
                os.kill(int(finished.worker.partition("-")[2]), signal.SIGKILL)
            if number == 8:  # a node, with all on it
                cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)  # type: ignore[attr-defined]
            yield finished

    score(tiny_student, inputs, str(tmp_path / "ray"), settings=SETTINGS, runner=one_dies)
    assert digest_of(tmp_path / "ray") == digest_of(tmp_path / "threads")
    assert len(workers) >= 2


def test_a_cut_file_is_said_by_its_name_and_a_wrong_address_is_no_cluster(tmp_path: Path, tiny_student: Bundle) -> None:
    (tmp_path / "cut.jsonl").write_text('{"text": "lovely"}\n' * 2100 + '{"text": "du')
    settings = ScoreSettings(part_rows=512, ray="local", workers=1)
    with pytest.raises(DatasetError, match=r"cut\.jsonl:2101"):
        score(tiny_student, [str(tmp_path / "cut.jsonl")], str(tmp_path / "out"), settings=settings)
    assert len(json.loads((tmp_path / "out" / "_manifest.json").read_text())["parts"]) <= 4
    write_table(tmp_path / "in.parquet", 10)
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"):
        score(
            tiny_student,
            [str(tmp_path / "in.parquet")],
            str(tmp_path / "other"),
            settings=settings.model_copy(update={"ray": "127.0.0.1:1"}),
        )


def test_the_two_commands_of_the_page_take_a_folder_to_labels(tmp_path: Path, tiny_student: Bundle) -> None:
    page = (ROOT / "docs" / "deploy" / "bulk-scoring.md").read_text()
    [(install, command)] = re.findall(r"```console\n(pip install [^\n]*)\n(potstill score [^\n]*--ray local)\n```", page)
    assert install == "pip install 'potstill[scale]'"
    (tmp_path / "reviews").mkdir()
    write_table(tmp_path / "reviews" / "a.parquet", 300)
    (tmp_path / "student").symlink_to(tiny_student.path)
    arguments = ["-m", "distill", *command.split()[1:], "--part-rows", "100", "--workers", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["num_rows"] == 300
    others = [line for line in done.stderr.splitlines() if not line.startswith("rows: ")]
    assert all("RAY_BACKEND_LOG_LEVEL" in line for line in others), done.stderr  # that it is quiet is all Ray says
    assert sorted(path.name for path in (tmp_path / "labels").glob("part-*")) == [
        f"part-00000-{number:06d}.parquet" for number in range(3)
    ]


@pytest.mark.parametrize("kills", [4])
def test_the_command_killed_at_random_moments_ends_as_if_it_never_was(tmp_path: Path, tiny_student: Bundle, kills: int) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", 3000, seed=ord(name))
    command = [sys.executable, "-m", "distill", "score", str(tiny_student.path), "--input", str(tmp_path / "*.parquet")]
    command += ["--key", "id", "--part-rows", "16", "--workers", "2", "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, cwd=ROOT, capture_output=True)
    moments = random.Random(0)
    for _ in range(kills):
        with subprocess.Popen(
            [*command, str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as run:
            # Killed after a random number of parts, not after a time: four kills end before the 376th part on any machine.
            enough = len(list((tmp_path / "out").glob("part-*"))) + moments.randint(1, 40)
            while run.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < enough:
                time.sleep(0.01)
            run.kill()
        assert run.returncode == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "out")], check=True, cwd=ROOT, capture_output=True)
    assert digest_of(tmp_path / "out") == digest_of(tmp_path / "whole")
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["totals"]["num_rows"] == 6000
