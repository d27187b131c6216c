"""Cgroups elsewhere than in the unit: where the processes are, and that nothing stays behind."""

import time
from collections.abc import Iterator

import pytest
from test_kill import kill_at

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]
PARENT = "/torpor-test-parent"
# cgroups:, slice:, and where the payload is; {name} is the container's
PLACES = [
    ("unit", None, "/torpor.slice/torpor@{name}.service/payload"),
    ("none", None, "/torpor.slice/torpor@{name}.service/{name}"),
    ("systemd", None, "/torpor.slice/torpor-{name}.scope"),
    (f"cgroupfs:{PARENT}", None, f"{PARENT}/torpor-{{name}}"),
    ("unit", "torpor-x.slice", "/torpor.slice/torpor-x.slice/torpor@{name}.service/payload"),
    ("none", "torpor-x.slice", "/torpor.slice/torpor-x.slice/torpor@{name}.service/{name}"),
    ("systemd", "a-b.slice", "/a.slice/a-b.slice/torpor-{name}.scope"),
]
ENDS = "trap 'echo ended; exit' TERM; "  # which systemd sends to what it stops
ELSEWHERE = PLACES[1:4]
POPULATED = """
for cgroup in "/sys/fs/cgroup$1" "/sys/fs/cgroup/unified$1" "/sys/fs/cgroup/systemd$1"; do
    [ ! -e "$cgroup" ] || { echo "$cgroup"; cat "$cgroup/cgroup.procs"; }
done
"""
LEFT = r"""
findmnt -rno TARGET | grep "^/run/torpor/$1/"
ls -d "/run/torpor/$1" "/run/runc/$1" 2>/dev/null
systemctl list-units --all --plain --no-legend "torpor-$1.scope"
true
"""


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    make_busybox(machine)
    made = Container(machine, f"placed{time.monotonic_ns()}")
    yield made
    made.remove()
    machine.run("rmdir", f"/sys/fs/cgroup{PARENT}", f"/sys/fs/cgroup/unified{PARENT}", check=False)
    machine.run("systemctl", "daemon-reload")


def place(container: Container, cgroups: str, slice_name: str | None) -> None:
    keys = {"slice": slice_name} if slice_name else {}
    container.define(rootfs=BUSYBOX, command=COMMAND, cgroups=cgroups, **keys)
    container.machine.run("systemctl", "daemon-reload")


def cgroup(container: Container) -> str:
    path = f"/proc/{container.property('MainPID')}/cgroup"
    text = container.machine.run("cat", path).stdout
    return next(line for line in text.splitlines() if line.startswith("0::"))[3:]


def left(container: Container, payload: str) -> str:
    """What is still there of one that does not run."""
    path = payload.format(name=container.name)
    run = container.machine.run
    return (
        run("sh", "-c", POPULATED, "sh", path).stdout
        + run("sh", "-c", LEFT, "sh", container.name).stdout
    )


@pytest.mark.parametrize(("cgroups", "slice_name", "payload"), PLACES)
def test_it_is_where_the_definition_says_before_and_after_the_wake(
    container: Container, cgroups: str, slice_name: str | None, payload: str
) -> None:
    place(container, cgroups, slice_name)
    container.start()
    assert cgroup(container) == payload.format(name=container.name)
    time.sleep(0.2)
    container.stop()
    assert container.state() == "READY", container.journal()
    assert left(container, payload) == ""
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    assert cgroup(container) == payload.format(name=container.name)
    time.sleep(0.2)
    assert without_gap(container.numbers())


@pytest.mark.parametrize(("cgroups", "slice_name", "payload"), ELSEWHERE)
@pytest.mark.parametrize("verb", ["start", "wake"])
def test_who_is_killed_leaves_neither_processes_nor_a_cgroup_to_the_next_start(
    container: Container, verb: str, cgroups: str, slice_name: str | None, payload: str
) -> None:
    place(container, cgroups, slice_name)
    container.start()
    if verb == "wake":
        container.stop()
        container.start()
    first = container.property("MainPID")
    container.machine.run("systemctl", "kill", "--signal=KILL", container.unit)
    container.wait_for("failed", timeout_s=30)
    assert left(container, payload) == ""
    container.systemctl("reset-failed")
    container.start()
    assert container.property("MainPID") != first
    time.sleep(0.3)
    numbers = container.numbers()
    assert numbers.count(1) == 2 and numbers[-1] < 15


@pytest.mark.parametrize(("cgroups", "slice_name", "payload"), ELSEWHERE)
@pytest.mark.parametrize(("verb", "moment"), [("stop", "committed"), ("start", "post-restore")])
def test_a_helper_that_is_killed_costs_no_memory_and_leaves_no_cgroup(
    container: Container, verb: str, moment: str, cgroups: str, slice_name: str | None, payload: str
) -> None:
    place(container, cgroups, slice_name)
    # When its helper is dead, systemd gives the start, and the container, this long.
    container.drop_in("timeout", "TimeoutStartSec=5s\nTimeoutStopSec=10s")
    container.start()
    if verb == "start":
        container.stop()
    kill_at(container, verb, moment, "helper")
    assert left(container, payload) == ""
    container.systemctl("reset-failed", check=False)
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    time.sleep(0.2)
    assert without_gap(container.numbers())


@pytest.mark.parametrize("slice_name", ["torpor-x.slice", "a-b.slice"])
def test_a_scope_in_a_slice_of_its_own_is_asleep_before_the_machine_goes_down(
    container: Container, slice_name: str
) -> None:
    place(container, "systemd", slice_name)
    container.define(**container.definition | {"command": ["/bin/sh", "-c", ENDS + COUNTER]})
    container.start()
    time.sleep(0.2)
    container.machine.reboot()
    assert "ended" not in container.journal()
    assert container.state() == "READY", container.journal()
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    time.sleep(0.2)
    assert without_gap(container.numbers())


@pytest.mark.parametrize(
    ("slice_name", "words"),
    [
        ("a--b.slice", "'a--b.slice' has a dash at its beginning or end, or two in a row"),
        ("web", "'web' is not a name that ends in .slice"),
        ("a b.slice", "'a b.slice' holds ' '"),
        ("/wrong/a-b.slice", "is not where systemd puts a-b.slice"),
    ],
)
def test_a_bad_slice_is_refused_with_the_reason(
    container: Container, slice_name: str, words: str
) -> None:
    container.define(rootfs=BUSYBOX, command=COMMAND, cgroups="systemd", slice=slice_name)
    done = container.machine.run("torpor", "check", container.name, check=False)
    assert done.returncode == 78
    assert f"{container.name}.yaml:9: key 'slice': " in done.stderr
    assert words in done.stderr
