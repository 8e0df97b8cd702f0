"""What else ran on the machine, computed from processor clocks, and the machine that a result records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.measure.circumstances import Watch, circumstances

TICKS = os.sysconf("SC_CLK_TCK")


def stat(*, user_s: float = 0, idle_s: float = 0, stolen_s: float = 0) -> str:
    """Return a first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest nice."""
    values = [user_s, 0, 0, idle_s, 0, 0, 0, stolen_s, 0, 0]
    return "cpu  " + " ".join(str(round(value * TICKS)) for value in values) + "\ncpu0 ...\n"


def test_others_are_what_is_busy_and_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text(stat(user_s=100, idle_s=100))
    watch = Watch(stat=path)
    path.write_text(stat(user_s=160, idle_s=130, stolen_s=10))
    session = watch.session()
    # 60 s of work in next to no time, hardly any of it ours; 10 of 100 s were stolen.
    assert session.others_processors == pytest.approx(60 / session.seconds, rel=0.2)
    assert session.stolen_share == pytest.approx(0.1)


def test_the_work_of_our_children_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text(stat())
    watch = Watch(stat=path)
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    path.write_text(stat(user_s=0.5))
    assert watch.session().others_processors == 0.0  # half a second of work, and the child did at least that


def test_where_the_system_does_not_say_nothing_is_made_up(tmp_path: Path) -> None:
    session = Watch(stat=tmp_path / "absent").session()
    assert session.others_processors is None
    assert session.stolen_share is None


def test_circumstances_are_complete_and_name_no_place() -> None:
    found = circumstances()
    wanted = {
        "cpu",
        "cpu_flags",
        "affinity",
        "cgroup_quota_cpus",
        "load_average_1m",
        "versions",
        "git_commit",
        "git_dirty",
    }
    assert wanted <= found.keys()
    assert len(found["affinity"]) >= 1
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text
