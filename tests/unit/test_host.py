"""What doctor makes of what a host says of itself."""

import pytest

from torpor import host

MOUNTINFO = """\
22 1 0:20 / / rw - ext4 /dev/vda rw
30 22 0:20 /x /run/runc/web/criu-root rw - ext4 /dev/vda rw
31 22 0:30 / /tmp/.criu.mntns.Ab12 rw - tmpfs none rw
32 22 0:31 / /tmp/.criu.mntns.Cd34 rw - tmpfs none rw
33 22 0:32 / /run/runc/a\\040b/criu-root rw - ext4 /dev/vda rw
34 22 0:33 / /srv/run/runc/web/criu-root rw - ext4 /dev/vda rw
35 31 0:34 / /tmp/.criu.mntns.Ab12/9 rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("6.18.44-fc-v595", (6, 18, 44)),
        ("runc version 1.1.15+ds1", (1, 1, 15)),
        ("systemd 257 (257.9-1)", (257,)),
        ("no number", ()),
    ],
)
def test_versions_are_numbers(text: str, version: tuple[int, ...]) -> None:
    assert host.version_in(text) == version


@pytest.mark.parametrize(
    ("kernel", "criu", "level"),
    [
        ((6, 15, 9), (4, 1, 1), host.OK),
        ((6, 16), (4, 1, 1), host.PROBLEM),
        ((6, 18, 44), (4, 2), host.OK),
        ((6, 18, 44), (4, 2, 1), host.OK),
        ((6, 12), (4, 0), host.OK),
        ((7, 0), (4, 1), host.PROBLEM),
    ],
)
def test_new_kernels_need_a_new_criu(
    kernel: tuple[int, ...], criu: tuple[int, ...], level: str
) -> None:
    assert host.judge_pair(kernel, criu).level == level


@pytest.mark.parametrize(
    ("version", "booted", "level"),
    [((253,), True, host.PROBLEM), ((254,), True, host.OK), ((257,), False, host.PROBLEM)],
)
def test_systemd_must_be_new_enough_and_pid_1(
    version: tuple[int, ...], booted: bool, level: str
) -> None:
    assert host.judge_systemd(version, booted=booted).level == level


def test_controllers_of_cgroup_v1_are_a_warning_and_a_named_hierarchy_is_none() -> None:
    assert host.judge_cgroup_v1("1:name=systemd:/\n0::/x.slice\n").level == host.OK
    finding = host.judge_cgroup_v1("9:name=systemd:/\n4:memory:/\n2:cpu,cpuacct:/\n0::/\n")
    assert finding.level == host.WARNING
    assert "cpu, cpuacct, memory" in finding.found


def test_criu_speaks_for_itself() -> None:
    assert host.judge_criu_check(0, "Looks good.\n").found == "Looks good."
    log = "Warn  (a.c:1): w\nError (criu/cr-check.c:9): No vdso\nDoes not look good.\n"
    finding = host.judge_criu_check(1, log)
    assert (finding.level, finding.found) == (host.PROBLEM, "No vdso")
    assert "no answer" in host.judge_criu_check(-9, "").found
    assert host.judge_criu_check(1, "").found == "it said nothing"


def test_a_capability_that_only_other_users_need_is_a_warning() -> None:
    assert host.judge_capabilities([]).level == host.OK
    assert host.judge_capabilities(["CAP_SYS_RESOURCE"]).level == host.WARNING
    assert host.judge_capabilities(["CAP_SYS_ADMIN"]).level == host.PROBLEM


def test_what_killed_restores_left_is_found_with_its_remedy() -> None:
    roots, spaced, trees = host.judge_mounts(MOUNTINFO)
    assert roots.level == spaced.level == host.PROBLEM and trees.level == host.WARNING
    assert roots.remedy.endswith("umount --lazy /run/runc/web/criu-root")
    assert "/run/runc/a b/criu-root" in spaced.found
    assert trees.remedy.endswith("/tmp/.criu.mntns.Ab12 /tmp/.criu.mntns.Cd34")
    assert [finding.level for finding in host.judge_mounts("")] == [host.OK]


def test_every_finding_that_is_not_ok_has_a_remedy() -> None:
    for finding in host.findings():
        assert finding.found
        assert bool(finding.remedy) == (finding.level != host.OK), finding
