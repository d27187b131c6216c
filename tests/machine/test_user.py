"""Who the program is, what it may do, and that a sleep does not change it."""

import json
import re
from collections.abc import Iterator

import pytest

from containers import make_bundle, make_busybox
from cycle import cycle, running, within
from machine import Machine

ROOTFS = "/srv/accounts"
PASSWD = """root:x:0:0::/:/bin/sh
web:x:1000:1001::/:/bin/sh
"""
GROUP = """root:x:0:
web:x:1001:
games:x:60:web
audio:x:63:
"""
# Which fields of proc_pid_status(5) say who a process is and what it may do.
SHOW = "grep -E '^(Uid|Gid|Groups|Umask|Cap[A-Z].*|NoNewPrivs|Seccomp):' /proc/$1/status"
IDS = "id -u; id -g; id -G"
NOT_BY_CHMOD = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    ],
}


@pytest.fixture(scope="module", autouse=True)
def accounts(machine: Machine) -> Iterator[None]:
    make_busybox(machine, ROOTFS)
    machine.write(f"{ROOTFS}/etc/passwd", PASSWD)
    machine.write(f"{ROOTFS}/etc/group", GROUP)
    yield
    machine.run("rm", "-r", ROOTFS)


@pytest.mark.parametrize(
    ("user", "groups", "said"),
    [
        ("web", [], "1000 1001 1001 60"),
        ("1000", [], "1000 1001 1001 60"),
        ("web:audio", [], "1000 63 63"),
        ("1000:7", [], "1000 7 7"),
        ("4242", [], "4242 0 0"),
        ("web", ["audio", "77"], "1000 1001 1001 60 63 77"),
        ("0", ["games"], "0 0 0 60"),
    ],
)
def test_the_program_has_the_user_and_groups_of_the_containers_own_files(
    machine: Machine, user: str, groups: list[str], said: str
) -> None:
    command = ["/bin/sh", "-c", f"echo ids $({IDS})"]
    with running(
        machine, "ids", rootfs=ROOTFS, command=command, user=user, groups=groups
    ) as container:
        container.wait_for("inactive")
        assert f"\nids {said}\n" in container.journal()


def test_umask_limits_and_capabilities_are_those_of_the_definition_after_a_sleep_too(
    machine: Machine,
) -> None:
    with running(
        machine,
        "powers",
        rootfs=ROOTFS,
        umask="027",
        rlimits={"nofile": "1000:2000", "core": "0"},
        capabilities={"add": ["NET_ADMIN", "cap_chown"], "drop": "audit_write"},
    ) as container:
        for _ in range(2):
            status = within(container, SHOW.replace("$1", "1"))
            fields = dict(line.split(":", 1) for line in status.splitlines())
            assert fields["Umask"].strip() == "0027"
            assert fields["NoNewPrivs"].strip() == "1"
            # kill, net_bind_service, net_admin, chown: capability numbers of capabilities(7)
            wanted = 1 << 5 | 1 << 10 | 1 << 12 | 1 << 0
            for name in ("CapEff", "CapPrm", "CapBnd"):
                assert int(fields[name], 16) == wanted, name
            limits = within(container, "cat /proc/1/limits")
            assert re.search("^Max open files +1000 +2000 ", limits, re.MULTILINE)
            assert re.search("^Max core file size +0 +0 ", limits, re.MULTILINE)
            cycle(container)


def test_in_a_user_namespace_another_user_with_groups_sleeps_and_wakes(machine: Machine) -> None:
    bundle = make_bundle(machine, "/srv/user-bundle", ROOTFS)
    with running(
        machine,
        "other-user",
        bundle=bundle,
        idmap="0:100000:65536",
        user="web",
        groups=["audio"],
        capabilities={"add": ["net_raw"]},
    ) as container:
        pid = container.property("MainPID")
        before = machine.run("sh", "-c", SHOW, "sh", pid).stdout
        assert "Uid:\t101000\t101000" in before
        assert "Groups:\t100060 100063 101001 \n" in before
        cycle(container)
        pid = container.property("MainPID")
        assert machine.run("sh", "-c", SHOW, "sh", pid).stdout == before
    machine.run("rm", "-r", bundle)


def test_devices_of_the_host_are_there_and_open_after_a_sleep_too(machine: Machine) -> None:
    devices = ["/dev/null:/dev/mynull", "/dev/zero:/dev/readable:r"]
    script = "exec 5</dev/readable 6>/dev/mynull; while :; do echo x >&6; sleep 0.1; done"
    command = ["/bin/sh", "-c", script]
    with running(machine, "devices", rootfs=ROOTFS, command=command, devices=devices) as container:
        for _ in range(2):
            listed = within(container, "stat -c '%F %t:%T' /dev/mynull /dev/readable")
            assert listed == "character special file 1:3\ncharacter special file 1:5\n"
            cycle(container)


def test_a_seccomp_profile_holds_through_a_sleep(machine: Machine) -> None:
    machine.write("/srv/profile.json", json.dumps(NOT_BY_CHMOD))
    script = "while :; do chmod 700 /tmp 2>&1; sleep 0.3; done"
    with running(
        machine,
        "filtered",
        rootfs=ROOTFS,
        command=["/bin/sh", "-c", script],
        seccomp="/srv/profile.json",
    ) as container:
        assert "\nSeccomp:\t2\n" in within(container, SHOW.replace("$1", "1"))
        cycle(container)
        assert "\nSeccomp:\t2\n" in within(container, SHOW.replace("$1", "1"))
        container.machine.run("sleep", "0.5")
        said = container.journal().rpartition("restored generation")[2]
        assert "chmod: /tmp: Operation not supported" in said
    machine.run("rm", "/srv/profile.json")
