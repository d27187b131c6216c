"""Limits of a container's own cgroup: what the kernel is told, taken away for a dump, put back."""

import os
from pathlib import Path

import pytest

from torpor import limits
from torpor.cgroup import Cgroup

MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
FILES = ("memory.max", "memory.high", "pids.max", "cpu.max", "memory.oom.group", "io.max")
FREE = dict(zip(FILES, ("max", "max", "max", "max 100000", "0", ""), strict=True))


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    monkeypatch.setattr("torpor.cgroup.mount_point", lambda: str(tmp_path))
    # The kernel's files take a value whole.
    monkeypatch.setattr(Cgroup, "write", lambda self, file, line: replace(self, file, line))
    found = Cgroup("/payload")
    Path(found.path).mkdir()
    for file, line in FREE.items():
        (Path(found.path) / file).write_text(f"{line}\n" if line else "")
    return found


def replace(cgroup: Cgroup, file: str, line: str) -> None:
    (Path(cgroup.path) / file).write_text(f"{line}\n")


def content(cgroup: Cgroup) -> dict[str, str]:
    return {file: (Path(cgroup.path) / file).read_text().strip() for file in FILES}


@pytest.mark.parametrize(
    ("name", "word", "file", "line"),
    [
        ("MemoryMax", "1G", "memory.max", str(1 << 30)),
        ("MemoryMax", "infinity", "memory.max", "max"),
        ("MemoryMax", "12.5%", "memory.max", str(MEMORY_BYTES // 8)),
        ("MemoryHigh", "512M", "memory.high", str(512 << 20)),
        ("MemorySwapMax", "0", "memory.swap.max", "0"),
        ("MemoryZSwapMax", "4096", "memory.zswap.max", "4096"),
        ("TasksMax", "400", "pids.max", "400"),
        ("TasksMax", "infinity", "pids.max", "max"),
        ("CPUQuota", "10%", "cpu.max", "10000 100000"),
        ("CPUQuota", "250%", "cpu.max", "250000 100000"),
        ("CPUQuota", "0.5%", "cpu.max", "1000 200000"),
        ("CPUQuota", "0.01%", "cpu.max", "1000 1000000"),
        ("OOMPolicy", "kill", "memory.oom.group", "1"),
        ("OOMPolicy", "continue", "memory.oom.group", "0"),
    ],
)
def test_a_directive_is_what_the_kernel_takes(name: str, word: str, file: str, line: str) -> None:
    assert limits.knobs([(name, word)]) == {file: [line]}


def test_a_percentage_of_tasks_is_one_of_the_machines() -> None:
    (most,) = limits.knobs([("TasksMax", "100%")])["pids.max"]
    (half,) = limits.knobs([("TasksMax", "50%")])["pids.max"]
    assert int(half) == int(most) // 2 > 0
    assert limits.knobs([("TasksMax", "0.01%")])["pids.max"] != ["0"]


def test_rates_of_one_device_are_one_line(tmp_path: Path) -> None:
    given = [
        ("IOReadBandwidthMax", f"{tmp_path} 10M"),
        ("IOWriteIOPSMax", f"{tmp_path} infinity"),
    ]
    (line,) = limits.knobs(given)["io.max"]
    assert line.endswith(" rbps=10000000 wiops=max")


def test_a_device_that_is_not_there_is_told_and_limits_nothing(cgroup: Cgroup) -> None:
    (said,) = limits.settle(cgroup, [("IOReadIOPSMax", "/dev/no-such 5"), ("TasksMax", "5")])
    assert "/dev/no-such: No such file" in said
    assert content(cgroup) == FREE


def test_what_is_limited_no_more_is_free(cgroup: Cgroup) -> None:
    assert limits.settle(cgroup, [("MemoryMax", "1M"), ("TasksMax", "5")]) == []
    assert content(cgroup) == FREE | {"memory.max": "1048576", "pids.max": "5"}
    assert limits.settle(cgroup, [("TasksMax", "6")], alone=True) == []
    assert content(cgroup) == FREE | {"pids.max": "6"}


def test_what_others_limit_stays(cgroup: Cgroup) -> None:
    replace(cgroup, "memory.max", "1048576")
    assert limits.settle(cgroup, [("TasksMax", "6")]) == []
    assert limits.settle(cgroup, []) == []
    assert content(cgroup) == FREE | {"memory.max": "1048576", "pids.max": "6"}


def test_without_a_controller_its_limit_is_told(cgroup: Cgroup) -> None:
    (Path(cgroup.path) / "cpu.max").unlink()
    (said,) = limits.settle(cgroup, [("CPUQuota", "5%"), ("TasksMax", "5")])
    assert "no cpu controller" in said
    assert limits.settle(cgroup, [("TasksMax", "5")]) == []


def test_limits_are_lifted_and_put_back(cgroup: Cgroup) -> None:
    limited = {"memory.max": "1048576", "pids.max": "5", "cpu.max": "1000 100000"}
    for file, line in limited.items():
        (Path(cgroup.path) / file).write_text(f"{line}\n")
    lifted = limits.lift(cgroup)
    assert {file: line.strip() for file, line in lifted} == limited
    assert content(cgroup) == FREE
    assert limits.put_back(cgroup, lifted) == []
    assert content(cgroup) == FREE | limited
