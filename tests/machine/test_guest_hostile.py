"""A root file system that would lead systemd's mounts astray is refused, and the host untouched."""

from collections.abc import Iterator

import pytest

import guest
from containers import Container, make_busybox
from cycle import left, running, within
from machine import Machine

TREE = "/srv/astray"
# What a mount or a file that went astray would change.
_HOST = """
cut -d' ' -f5- /proc/self/mountinfo | grep -v '/run/credentials/\\|/proc/sys/fs/binfmt' | sort
find /etc /run/lock /var/log/journal /srv -xdev ! -name '*.journal' ! -path '/etc/torpor*' \\
    -printf '%p %y %m %U %G %l\\n' | sort
find /etc -xdev -type f ! -path '/etc/torpor/*' -exec sha256sum {} + | sort
"""
PLACES = ("/run", "/run/lock", "/tmp", "/var/log/journal", "/sys/fs/cgroup")
MAKE = {
    "a link to the host": 'ln -s /etc "$1"',
    "a link that climbs": 'ln -s ../../../../../../../etc "$1"',
    "a link to nowhere": 'ln -s /nowhere "$1"',
    "a file": 'echo x >"$1"',
    "a FIFO": 'mkfifo "$1"',
    "a device": 'mknod "$1" b 7 0',
}


RECORDED = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
# Called as an init, so that all is mounted for it that systemd needs.
LOOP = ["/sbin/init", "-c", "while :; do busybox sleep 0.1; done"]
ELSEWHERE = "/run/elsewhere"
# Executes itself anew when it is told to, as systemd does, and leads who looks for it elsewhere.
PRETENDER = f"""
import os, signal, socket, sys, time
open("/proc/self/comm", "w").write("systemd")
signal.signal(59, lambda *_: os.execv(sys.executable, sys.orig_argv))
os.makedirs("/run/systemd", exist_ok=True)
for path in ("/run/systemd/private", "{ELSEWHERE}"):
    if os.path.lexists(path):
        os.unlink(path)
os.symlink("{ELSEWHERE}", "/run/systemd/private")
link = socket.socket(socket.AF_UNIX)
link.bind("{ELSEWHERE}")
link.listen()
while True:
    time.sleep(0.1)
"""
BYSTANDER = f"""
import socket
link = socket.socket(socket.AF_UNIX)
link.bind("{ELSEWHERE}")
link.listen()
open("{ELSEWHERE}.ready", "w")
link.accept()
open("{ELSEWHERE}.called", "w")
"""


@pytest.fixture
def astray(machine: Machine) -> Iterator[Container]:
    """A container of a tree that is yet to be led astray."""
    make_busybox(machine, TREE)
    machine.run("sh", "-ec", f"cd {TREE}; mkdir -p sbin run var/log; ln -s ../bin/sh sbin/init")
    container = Container(machine, "astray").define(rootfs=TREE, command=["/sbin/init"])
    yield container
    container.remove()
    assert left(container) == ""
    machine.run("rm", "-rf", TREE)


def host(machine: Machine) -> str:
    return machine.run("sh", "-c", _HOST).stdout


def refusal(container: Container) -> str:
    """What it says instead of starting: one line, and a hint below it."""
    before = len(_said(container))
    assert container.systemctl("start", check=False) != 0
    (line,) = _said(container)[before:]
    return line


def _said(container: Container) -> list[str]:
    lines = container.journal().splitlines()
    return [line for line in lines if line.startswith(f"{container.name}: ")]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_no_directory_is_refused(astray: Container, place: str, kind: str) -> None:
    machine, path = astray.machine, f"{TREE}{place}"
    script = f'rm -rf "$1"; mkdir -p "$(dirname "$1")"; {MAKE[kind]}'
    machine.run("sh", "-ec", script, "sh", path)
    before = host(machine)
    said = refusal(astray)
    assert f"key 'rootfs': systemd is to boot in it, but {place} in it is" in said
    assert astray.property("ExecMainStatus") == "78"
    assert host(machine) == before


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory", "no id", "a huge file"])
def test_a_machine_id_that_is_none_is_refused(astray: Container, kind: str) -> None:
    make = MAKE | {
        "a directory": 'mkdir "$1"',
        "no id": 'echo none >"$1"',
        "a huge file": 'truncate -s 1T "$1"',
    }
    machine = astray.machine
    machine.run("sh", "-ec", make[kind], "sh", f"{TREE}/etc/machine-id")
    before = host(machine)
    assert "but /etc/machine-id in it" in refusal(astray)
    assert host(machine) == before


def test_a_machine_id_is_not_read_through_a_link_out_of_it(astray: Container) -> None:
    machine = astray.machine
    machine.write("/srv/outside", "0123456789abcdef0123456789abcdef\n")
    for link in ("/srv/outside", "../../../../../../../srv/outside"):
        machine.run("ln", "-sfn", link, f"{TREE}/etc/machine-id")
        config = machine.run("torpor", "render", "astray").stdout
        assert "container_uuid=" in config
        assert "container_uuid=01234567-89ab" not in config
    machine.run("rm", "/srv/outside")


def test_who_says_never_gets_nothing(astray: Container) -> None:
    machine = astray.machine
    machine.run("sh", "-ec", f"rm -r {TREE}/run; ln -s /etc {TREE}/run")
    astray.define(rootfs=TREE, command=["/sbin/init"], systemd="never")
    config = machine.run("torpor", "render", "astray").stdout
    assert '"/run"' not in config
    assert "container_uuid" not in config


HYBRID = """
umount --lazy /sys/fs/cgroup; mount -t tmpfs cgroup /sys/fs/cgroup
mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
torpor check astray
"""


def test_on_a_host_with_controllers_of_version_1_it_is_refused(astray: Container) -> None:
    words = ("unshare", "--mount", "--propagation=private", "sh", "-c", HYBRID)
    done = astray.machine.run(*words, check=False)
    assert done.returncode
    assert "but cgroup v2 is mounted at /sys/fs/cgroup/unified, beside" in done.stderr
    assert "is right" in astray.machine.run("torpor", "check", "astray").stdout


def test_a_configuration_of_50_megabytes_is_one_message(astray: Container) -> None:
    machine = astray.machine
    bundle = "/srv/astray-bundle"
    fill = "head -c 50000000 /dev/zero | tr '\\0' ' ' >>config.json"
    machine.run("sh", "-ec", f"mkdir {bundle}; cd {bundle}; runc spec; {fill}")
    before = host(machine)
    astray.define(bundle=bundle, systemd="always")
    assert "config.json" in refusal(astray)
    assert host(machine) == before
    machine.run("rm", "-r", bundle)


def test_a_place_that_becomes_a_link_is_refused_from_then_on(astray: Container) -> None:
    astray.define(rootfs=TREE, command=LOOP, checkpoint={"on": []})
    astray.start()
    astray.stop()
    astray.machine.run("sh", "-ec", f"cd {TREE}; rm -r tmp; ln -s /etc tmp")
    assert "systemd is to boot in it, but /tmp in it is a link" in refusal(astray)


def told(container: Container) -> str:
    # Until it executes its program it is runc's, which has no such variable.
    look = "tr '\\0' '\\n' </proc/1/environ | grep ^container_uuid="
    return within(container, f"until {look}; do busybox sleep 0.1; done").strip()


def test_a_machine_id_counts_as_it_is_at_each_start(astray: Container) -> None:
    machine = astray.machine
    machine.write(f"{TREE}/etc/machine-id", "")
    for read_only in (False, True):
        machine.write(f"{TREE}/etc/machine-id", "")
        astray.define(rootfs=TREE, command=LOOP, checkpoint={"on": []}, read_only=read_only)
        for recorded in ("", RECORDED, OTHER):
            machine.write(f"{TREE}/etc/machine-id", recorded)
            astray.start()
            found = told(astray).partition("=")[2].replace("-", "")
            assert found == (recorded or found)
            if recorded or read_only:
                assert within(astray, "cat /etc/machine-id").strip() == found
            astray.stop()


def test_who_is_told_another_machine_id_is_known_by_its_own(astray: Container) -> None:
    machine = astray.machine
    env = {"container_uuid": OTHER}
    keys = {"rootfs": TREE, "command": LOOP, "checkpoint": {"on": []}, "register": True}
    for recorded, read_only in ((RECORDED, False), ("", False), ("", True)):
        machine.write(f"{TREE}/etc/machine-id", recorded)
        astray.define(**keys, env=env, read_only=read_only)
        astray.start()
        status = machine.run("machinectl", "status", "astray", "--no-pager").stdout
        assert f"({recorded or OTHER})" in status.partition("\n")[0]
        if read_only:
            assert within(astray, "cat /etc/machine-id").strip() == OTHER
        astray.stop()


def test_a_start_of_which_nothing_changed_renders_nothing(astray: Container) -> None:
    machine = astray.machine
    astray.define(rootfs=TREE, command=LOOP)
    record = "/var/lib/torpor/astray/inputs"
    astray.start()
    first = machine.run("stat", "-c", "%i %z", record).stdout
    for _ in range(2):
        astray.stop()
        machine.run("touch", f"{TREE}/tmp/file", f"{TREE}/run")
        astray.start()
        assert machine.run("stat", "-c", "%i %z", record).stdout == first


def test_its_links_lead_no_connection_of_a_wake_to_the_host(machine: Machine) -> None:
    unit = "bystander"
    machine.run("systemd-run", "--quiet", f"--unit={unit}", "python3", "-c", BYSTANDER)
    try:
        machine.run(
            "timeout", "10", "sh", "-c", f"until [ -e {ELSEWHERE}.ready ]; do sleep .1; done"
        )
        command = ["/usr/bin/python3", "-c", PRETENDER]
        with running(
            machine, "pretender", image=guest.PLACE, command=command, systemd="always"
        ) as container:
            machine.run("sleep", "1")
            container.sleep_and_wake()
            assert container.property("StatusText").startswith("restored"), container.journal()
            assert machine.run("test", "-e", f"{ELSEWHERE}.called", check=False).returncode
    finally:
        machine.run("systemctl", "stop", unit, check=False)
        machine.run("sh", "-c", f"rm -f {ELSEWHERE}*")
