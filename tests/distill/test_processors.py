"""Processors by affinity and quota, on folders that look like a container's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distill import machine as cpus
from distill.machine import available_cpus, cgroup_quota_cpus, instruction_set, multiplies_bf16_faster


def write_file(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")


def version_1(root: Path, folder: str, quota: int, period: int = 100_000) -> None:
    write_file(root / "sys/fs/cgroup" / folder / "cpu.cfs_quota_us", str(quota))
    write_file(root / "sys/fs/cgroup" / folder / "cpu.cfs_period_us", str(period))


def version_2(root: Path, folder: str, content: str) -> None:
    write_file(root / "sys/fs/cgroup" / folder / "cpu.max", content)


def own_cgroup(root: Path, *lines: str) -> None:
    write_file(root / "proc/self/cgroup", "\n".join(lines))


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota_cpus(tmp_path) is None


@pytest.mark.parametrize(("content", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("20000 10000", 2.0)])
def test_version_2_inside_a_container(tmp_path: Path, content: str, quota: float | None) -> None:
    own_cgroup(tmp_path, "0::/")
    version_2(tmp_path, ".", content)
    assert cgroup_quota_cpus(tmp_path) == quota


def test_version_2_takes_the_tightest_of_the_group_and_its_parents(tmp_path: Path) -> None:
    own_cgroup(tmp_path, "0::/user.slice/job.scope")
    version_2(tmp_path, "user.slice/job.scope", "max 100000")
    version_2(tmp_path, "user.slice", "300000 100000")
    assert cgroup_quota_cpus(tmp_path) == 3
    version_2(tmp_path, "user.slice/job.scope", "250000 100000")
    assert cgroup_quota_cpus(tmp_path) == 2.5


def test_the_quota_of_another_group_does_not_count(tmp_path: Path) -> None:
    own_cgroup(tmp_path, "0::/mine")
    version_2(tmp_path, "other", "100000 100000")
    assert cgroup_quota_cpus(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(50_000, 0.5), (-1, None), (400_000, 4.0)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_inside_a_container(tmp_path: Path, mount: str, quota: int, expected: float | None) -> None:
    # The path is the host's and is not there inside; the container's own group stands at the mount itself.
    own_cgroup(tmp_path, "5:memory:/docker/abc", "4:cpu,cpuacct:/docker/abc", "1:name=systemd:/docker/abc")
    version_1(tmp_path, mount, quota)
    assert cgroup_quota_cpus(tmp_path) == expected


def test_version_1_on_a_host(tmp_path: Path) -> None:
    own_cgroup(tmp_path, "4:cpu,cpuacct:/batch/job", "3:cpuset:/pinned")
    version_1(tmp_path, "cpu,cpuacct", -1)
    version_1(tmp_path, "cpu,cpuacct/batch", 600_000)
    version_1(tmp_path, "cpu,cpuacct/batch/job", 800_000)
    version_1(tmp_path, "cpuset/pinned", 100_000)  # another controller's folder
    assert cgroup_quota_cpus(tmp_path) == 6


def test_half_a_version_1_quota_is_none(tmp_path: Path) -> None:
    write_file(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000")
    assert cgroup_quota_cpus(tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "content", "expected"),
    [
        (8, "max 100000", 8),
        (8, "150000 100000", 2),  # two threads, each three quarters of the time
        (8, "50000 100000", 1),
        (8, "1000 100000", 1),
        (2, "400000 100000", 2),  # a quota above the mask gives nothing more
        (8, "300000 100000", 3),
    ],
)
def test_mask_and_quota_both_bound_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, content: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    version_2(tmp_path, ".", content)
    assert available_cpus(tmp_path) == expected


def test_without_masks_the_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


def test_this_machine_has_a_processor() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2", "avx2"),
        ("flags\t\t: avx2 avx512f avx512bw avx512_vnni", "avx512_vnni"),
        ("flags\t\t: avx2 avx512bw", "avx512bw"),
        ("flags\t\t: avx2 avx_vnni", "avx_vnni"),
        ("flags\t\t: amx_int8 avx512_vnni avx2", "amx_int8"),
        ("Features\t: fp asimd asimddp", "asimddp"),
        ("Features\t: fp asimd asimddp i8mm", "i8mm"),
        ("flags\t\t: fpu myavx2", "other64"),
        ("model name\t: avx2 lover", "other64"),
    ],
)
def test_the_best_int8_instructions_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str
) -> None:
    monkeypatch.setattr(cpus.platform, "machine", lambda: "other64")
    write_file(tmp_path / "proc/cpuinfo", f"processor\t: 0\n{line}")
    assert instruction_set(tmp_path) == expected


def test_a_system_without_cpuinfo_names_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus.platform, "machine", lambda: "arm64")
    assert instruction_set(tmp_path) == "arm64"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: avx512_bf16 amx_bf16 amx_tile", True),
        ("flags\t\t: avx512_bf16 amx_int8", False),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512_bf16", False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx512_bf16", True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx512f", False),
        ("model name\t: amx_bf16", False),
    ],
)
def test_a_matrix_unit_and_amds_instructions_make_bf16_faster(tmp_path: Path, line: str, expected: bool) -> None:
    assert not multiplies_bf16_faster(tmp_path)
    write_file(tmp_path / "proc/cpuinfo", f"processor\t: 0\n{line}")
    assert multiplies_bf16_faster(tmp_path) is expected
