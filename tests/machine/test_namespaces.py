"""Namespaces of the host, by path, or of another container: the same after sleep and wake."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]
GRACEFUL = "trap 'echo graceful; exit 0' TERM; while :; do sleep 0.1; done"
SHARED = ["ipc", "uts", "net", "pid"]
ATTEMPTS = 4
MOUNTED = 'findmnt -rno TARGET | grep "^/run/torpor/$1/" || true'


@pytest.fixture
def giver(machine: Machine) -> Iterator[Container]:
    """A defined counter, whose namespaces another may join."""
    make_busybox(machine)
    container = Container(machine, f"giver{time.monotonic_ns()}")
    yield container.define(rootfs=BUSYBOX, command=COMMAND)
    container.remove()


@pytest.fixture
def joiner(giver: Container) -> Iterator[Container]:
    container = Container(giver.machine, giver.name.replace("giver", "joiner"))
    yield container
    container.remove()
    giver.machine.run("systemctl", "daemon-reload")


def join(joiner: Container, **namespaces: str) -> None:
    """Define a counter with these namespaces."""
    joiner.define(rootfs=BUSYBOX, command=COMMAND, namespaces=namespaces)
    joiner.machine.run("systemctl", "daemon-reload")


def inode(container: Container, kind: str) -> str:
    path = f"/proc/{container.property('MainPID')}/ns/{kind}"
    return container.machine.run("readlink", path).stdout


def inside(container: Container, script: str) -> str:
    argv = ("runc", "exec", container.name, "/bin/sh", "-c", script)
    return container.machine.run(*argv).stdout.strip()


def mounted(*containers: Container) -> str:
    """What is still mounted for containers that do not run."""
    run = containers[0].machine.run
    return "".join(run("sh", "-c", MOUNTED, "sh", one.name).stdout for one in containers)


def wake(joiner: Container) -> None:
    """Start it; in a pid namespace that they share the giver may have one of its ids just then."""
    for _ in range(ATTEMPTS):
        if joiner.systemctl("start", check=False) == 0:
            return


def cycle(giver: Container, joiner: Container) -> None:
    """Both fall asleep, the joiner first, and wake."""
    giver.stop()
    assert (joiner.state(), giver.state()) == ("READY", "READY"), joiner.journal()
    assert mounted(giver, joiner) == ""
    wake(joiner)
    for one in (giver, joiner):
        assert one.property("StatusText").startswith("restored"), one.journal()
        assert without_gap(one.numbers())


@pytest.mark.parametrize("kind", SHARED)
def test_both_who_share_a_namespace_share_it_after_they_woke(
    giver: Container, joiner: Container, kind: str
) -> None:
    join(joiner, **{kind: f"container:{giver.name}"})
    joiner.start()
    time.sleep(0.2)
    cycle(giver, joiner)
    assert inode(joiner, kind) == inode(giver, kind)


def test_all_namespaces_can_be_shared_at_once(giver: Container, joiner: Container) -> None:
    join(joiner, **dict.fromkeys(SHARED, f"container:{giver.name}"))
    joiner.start()
    time.sleep(0.2)
    for _ in range(2):
        cycle(giver, joiner)
        for kind in SHARED:
            assert inode(joiner, kind) == inode(giver, kind)


def test_who_shares_a_host_name_takes_that_of_the_other(
    giver: Container, joiner: Container
) -> None:
    giver.define(rootfs=BUSYBOX, command=COMMAND, hostname="of-the-giver")
    join(joiner, uts=f"container:{giver.name}")
    joiner.start()
    ask = "/bin/busybox hostname; cat /etc/hostname; echo $HOSTNAME"
    assert inside(joiner, ask).split() == ["of-the-giver"] * 3
    cycle(giver, joiner)
    assert inside(joiner, ask).split() == ["of-the-giver"] * 3


MAKE_THREE = ("ipcmk", "-M", "8192", "-S", "3", "-Q")


def test_shared_memory_of_both_kinds_is_shared_after_they_woke(
    giver: Container, joiner: Container
) -> None:
    machine = giver.machine
    join(joiner, ipc=f"container:{giver.name}")
    joiner.start()
    machine.run("nsenter", f"--target={giver.property('MainPID')}", "--ipc", *MAKE_THREE)
    inside(giver, "echo of the giver >/dev/shm/giver")
    inside(joiner, "echo of the joiner >/dev/shm/joiner")
    cycle(giver, joiner)
    assert inside(joiner, "cat /dev/shm/giver") == "of the giver"
    assert inside(giver, "cat /dev/shm/joiner") == "of the joiner"
    inside(joiner, "echo anew >/dev/shm/giver")
    assert inside(giver, "cat /dev/shm/giver") == "anew"
    enter = ("nsenter", f"--target={joiner.property('MainPID')}", "--ipc", "ipcs")
    assert [machine.run(*enter, f"-{kind}").stdout.count("0x") for kind in "msq"] == [1, 1, 1]


# Attaches a segment of System V and ends at SIGTERM.
ATTACH = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) {
    signal(SIGTERM, end);
    if (shmat(shmget(7, 4096, IPC_CREAT | 0600), 0, 0) == (void *)-1) return 1;
    for (;;) pause();
}
"""


def test_an_attached_segment_of_anothers_namespace_is_noticed_before_anything_is_frozen(
    giver: Container, joiner: Container
) -> None:
    machine, rootfs = giver.machine, make_busybox(giver.machine, "/srv/segment")
    machine.write("/srv/segment.c", ATTACH)
    machine.run("gcc", "-O1", "-static", "-o", f"{rootfs}/bin/attach", "/srv/segment.c")
    shared = {"ipc": f"container:{giver.name}"}
    giver.define(rootfs=rootfs, command=["/bin/attach"])
    joiner.define(rootfs=rootfs, command=["/bin/attach"], namespaces=shared)
    machine.run("systemctl", "daemon-reload")
    joiner.start()
    giver.stop()
    assert (joiner.state(), giver.state()) == ("EXITED", "READY")
    assert "(attach) has shared memory of System V attached" in joiner.journal()
    assert "frozen" not in joiner.journal()
    machine.run("rm", "-r", rootfs, "/srv/segment.c")


def test_a_joiner_of_nobody_is_refused(joiner: Container) -> None:
    join(joiner, ipc="container:nobody-here")
    done = joiner.machine.run("systemctl", "start", joiner.unit, check=False, timeout=30)
    assert done.returncode != 0
    nobody = Container(joiner.machine, "nobody-here")
    assert "/etc/torpor/nobody-here.yaml" in nobody.journal()
    nobody.remove()
    assert mounted(joiner) == ""


@pytest.mark.parametrize("kind", SHARED)
def test_a_sleeping_joiner_wakes_beside_a_giver_that_began_afresh(
    giver: Container, joiner: Container, kind: str
) -> None:
    join(joiner, **{kind: f"container:{giver.name}"})
    joiner.start()
    time.sleep(0.2)
    giver.machine.run("torpor", "stop", "--fresh", giver.name)
    assert joiner.state() == "READY"
    wake(joiner)
    assert joiner.property("StatusText").startswith("restored"), joiner.journal()
    assert inode(joiner, kind) == inode(giver, kind)
    time.sleep(0.2)
    assert without_gap(joiner.numbers())
    assert giver.numbers().count(1) == 2


def test_a_joiner_whose_process_id_was_taken_can_wait_asleep_until_it_is_free(
    giver: Container, joiner: Container
) -> None:
    shared = {"pid": f"container:{giver.name}"}
    joiner.define(rootfs=BUSYBOX, command=COMMAND, namespaces=shared)
    joiner.machine.run("systemctl", "daemon-reload")
    joiner.start()
    time.sleep(0.2)
    take_all = "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; " + COUNTER
    giver.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", take_all])
    joiner.machine.run("torpor", "stop", "--fresh", giver.name)
    giver.start()
    time.sleep(1)
    assert joiner.systemctl("start", check=False) != 0
    assert "cannot restore: " in joiner.journal()
    assert joiner.state() == "READY", joiner.journal()
    giver.define(rootfs=BUSYBOX, command=["/bin/sleep", "1000"])
    joiner.machine.run("torpor", "stop", "--fresh", giver.name)
    joiner.start()
    assert joiner.property("StatusText").startswith("restored"), joiner.journal()
    time.sleep(0.2)
    assert without_gap(joiner.numbers())


@pytest.mark.parametrize("kind", ["ipc", "uts", "net", "pid", "cgroup"])
def test_a_namespace_of_the_host_is_that_after_the_wake(joiner: Container, kind: str) -> None:
    join(joiner, **{kind: "host"})
    joiner.start()
    time.sleep(0.2)
    joiner.stop()
    assert joiner.state() == "READY", joiner.journal()
    assert mounted(joiner) == ""
    joiner.start()
    assert inode(joiner, kind) == joiner.machine.run("readlink", f"/proc/1/ns/{kind}").stdout
    time.sleep(0.2)
    assert without_gap(joiner.numbers())


@pytest.fixture
def netns(machine: Machine) -> Iterator[str]:
    machine.run("ip", "netns", "add", "torpor-test")
    yield "/run/netns/torpor-test"
    machine.run("ip", "netns", "del", "torpor-test", check=False)


def test_a_named_network_is_joined_again_and_kept_by_none_when_it_is_gone(
    joiner: Container, netns: str
) -> None:
    join(joiner, net=f"path:{netns}")
    joiner.start()
    time.sleep(0.2)
    joiner.stop()
    assert joiner.state() == "READY", joiner.journal()
    joiner.machine.run("ip", "netns", "del", "torpor-test")
    assert joiner.systemctl("start", check=False) != 0
    assert netns in joiner.journal()
    assert joiner.state() == "READY", joiner.journal()
    assert mounted(joiner) == ""
    joiner.machine.run("ip", "netns", "add", "torpor-test")
    joiner.start()
    assert joiner.property("StatusText").startswith("restored"), joiner.journal()
    found = joiner.machine.run("stat", "-Lc", "%i", netns).stdout.strip()
    assert found in inode(joiner, "net")
    time.sleep(0.2)
    assert without_gap(joiner.numbers())


def test_a_cgroup_namespace_by_path_ends_gracefully_and_says_why(joiner: Container) -> None:
    joiner.define(
        rootfs=BUSYBOX,
        command=["/bin/sh", "-c", GRACEFUL],
        namespaces={"cgroup": "path:/proc/1/ns/cgroup"},
    )
    said = joiner.machine.run("torpor", "check", joiner.name).stderr
    assert "it cannot sleep: it joins a cgroup namespace by path" in said
    joiner.start()
    time.sleep(0.2)
    joiner.stop()
    assert joiner.state() == "EXITED"
    text = joiner.journal()
    assert "cannot checkpoint: it joins a cgroup namespace by path" in text
    assert "graceful" in text
    assert mounted(joiner) == ""


def test_a_user_namespace_of_another_ends_gracefully_and_says_why(
    giver: Container, joiner: Container
) -> None:
    rootfs = make_busybox(giver.machine, "/srv/mapped-namespaces")
    giver.machine.run("chown", "-hR", "100000:100000", rootfs)
    giver.define(rootfs=rootfs, command=COMMAND, idmap="0:100000:65536")
    joiner.define(
        rootfs=rootfs,
        command=["/bin/sh", "-c", GRACEFUL],
        namespaces={"user": f"container:{giver.name}", "net": f"container:{giver.name}"},
    )
    joiner.machine.run("systemctl", "daemon-reload")
    said = joiner.machine.run("torpor", "check", joiner.name).stderr
    assert "it cannot sleep: it joins a user namespace by path" in said
    joiner.start()
    assert inode(joiner, "user") == inode(giver, "user")
    time.sleep(0.2)
    giver.stop()
    assert (joiner.state(), giver.state()) == ("EXITED", "READY")
    text = joiner.journal()
    assert "cannot checkpoint: it joins a user namespace by path" in text
    assert "graceful" in text
    giver.machine.run("rm", "-r", rootfs)


@pytest.mark.parametrize("where", ["host", "path:/proc/1/ns/mnt", "container:other"])
def test_a_mount_namespace_of_another_is_refused(joiner: Container, where: str) -> None:
    join(joiner, mnt=where)
    done = joiner.machine.run("torpor", "check", joiner.name, check=False)
    assert done.returncode == 78
    assert f"/etc/torpor/{joiner.name}.yaml:9: key 'namespaces': mnt can only be own" in done.stderr


def test_two_who_join_each_other_are_refused_at_once(giver: Container, joiner: Container) -> None:
    join(giver, ipc=f"container:{joiner.name}")
    join(joiner, ipc=f"container:{giver.name}")
    began = time.monotonic()
    done = joiner.machine.run("systemctl", "start", joiner.unit, check=False, timeout=30)
    assert done.returncode != 0
    assert "cyclic" in done.stderr or "is not running" in joiner.journal(), done.stderr
    assert time.monotonic() - began < 10
    assert mounted(giver, joiner) == ""
