"""Stopping the harness also stops what it started: workers, servers, and their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from distill.bundle import Bundle
from export.measure.children import child, run_child

ROOT = Path(__file__).parents[3]
WITHIN_S = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def below(pid: int) -> set[int]:
    """Return the living processes that a process started, and those that they started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    found, grown = {pid}, True
    while grown:
        more = {each for each, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {pid}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("scenario", ["server", "single-stream"])
def test_sigterm_leaves_no_server_and_no_worker(scenario: str, tiny_student: Bundle, tiny_csv: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", scenario, "--bundles", f"{tiny_student.path}:int8", "--test", str(tiny_csv)]
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, *places], cwd=ROOT) as harness:
        try:
            wait_until(lambda: any("benchmarks.peers" in line or "serve" in line for line in commands_below(harness.pid)))
            children = below(harness.pid)
            harness.send_signal(signal.SIGTERM)
            assert harness.wait(WITHIN_S) == 128 + signal.SIGTERM
            wait_until(lambda: not any(map(alive, children)), seconds=5)
        finally:
            harness.kill()
    assert not (tmp_path / "out").exists()


def commands_below(pid: int) -> list[str]:
    lines = []
    for each in below(pid):
        try:
            lines.append(Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return lines


@pytest.mark.parametrize("grace_s", [0.0, 0.5])
def test_what_a_child_started_ends_with_it_whether_or_not_it_asks_for_more_time(grace_s: float) -> None:
    # It ignores SIGTERM, and so does what it starts; a shell in between has long gone.
    script = "trap '' TERM; (sleep 60 & echo $!); sleep 60"
    with child(["sh", "-c", script], grace_s=grace_s, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        assert alive(grandchild)
    wait_until(lambda: not alive(grandchild), seconds=2)
    assert process.returncode == -signal.SIGKILL


def test_a_child_that_takes_too_long_is_killed_with_its_group() -> None:
    nap = f"60.{os.getpid()}"  # of this test alone
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(["sh", "-c", f"sleep {nap} & sleep {nap}"], timeout_s=0.2)
    sleeping = f"sleep\0{nap}\0".encode()
    wait_until(lambda: not any(_reads(path) == sleeping for path in Path("/proc").glob("[0-9]*/cmdline")), seconds=5)


def _reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_harness_under_nohup_goes_on_at_a_hang_up() -> None:
    program = (
        "import os, signal\n"
        "from export.measure.children import stop_by_leaving\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "stop_by_leaving()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('still here')\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = run_child([sys.executable, "-c", program], cwd=ROOT, env=dict(os.environ))
    assert (done.stdout, done.returncode) == ("still here\n", 128 + signal.SIGTERM)
