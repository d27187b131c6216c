"""SIGKILL of a helper, of runc or of CRIU, at named moments: the next start has one answer.

The helper stops itself at the moment; then the victim is killed and the helper goes on.
"""

import time
from collections.abc import Iterator

import pytest

from containers import COUNTER, Container, make_busybox
from faults import MARK, begin_held, go_on, wait_for_rest
from machine import Machine

KEPT = "the memory is kept"
FRESH = "it starts fresh"

# moment, victim, what the next start finds
STOPS = [
    ("dumping", "helper", FRESH),
    ("frozen", "helper", FRESH),
    ("post-dump", "helper", FRESH),
    ("sealed", "helper", FRESH),
    ("committed", "helper", KEPT),
    ("killed", "helper", KEPT),
    ("ready", "helper", KEPT),
    ("post-dump", "criu", FRESH),
    ("sealed", "criu", KEPT),
    ("committed", "criu", KEPT),
    ("post-dump", "runc", KEPT),
    ("sealed", "runc", KEPT),
    ("committed", "runc", KEPT),
]
STARTS = [
    ("restoring", "helper", KEPT),
    ("setup-namespaces", "helper", KEPT),
    ("post-restore", "helper", KEPT),
    ("consumed", "helper", FRESH),
    ("restored", "helper", FRESH),
    ("setup-namespaces", "criu", KEPT),
    ("post-restore", "criu", KEPT),
    ("consumed", "criu", FRESH),
    ("setup-namespaces", "runc", KEPT),
    ("post-restore", "runc", KEPT),
    ("consumed", "runc", FRESH),
]
# The mark names the helper; runc is its child and CRIU below that, so no other is hit.
KILL = r"""
read point helper <"$2"
runc=$(pgrep -P "$helper" -x runc || true)
criu=$(pgrep -P "${runc:-0}" -x criu || pgrep -f 'criu swrk|criu: (dump|restore)' || true)
case $1 in helper) kill -9 "$helper" ;; runc) kill -9 $runc ;; criu) kill -9 $criu ;; esac
sleep 0.2
kill -CONT "$helper" 2>/dev/null || true
"""
CHECKSUM = 'cd "$1" && find . -type f | sort | xargs sha256sum; find . | sort'
LEFT = r"""
ps -eo comm= | grep -E '^(criu|runc|start|stop|settle)$' || true
grep -E 'criu|/run/(runc|torpor)' /proc/self/mountinfo || true
ls -A /run/runc /run/torpor | grep -v '^[/.]' | grep . || true
ls -d /tmp/.criu* 2>/dev/null || true
"""


@pytest.fixture
def counter(machine: Machine) -> Iterator[Container]:
    """A running counter on a root file system of its own."""
    container = Container(machine, f"killed{time.monotonic_ns()}")
    rootfs = make_busybox(machine, f"/srv/{container.name}")
    container.define(rootfs=rootfs, command=["/bin/sh", "-c", COUNTER])
    # When its helper is dead, systemd gives the start, and the container, this long.
    container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
    container.start()
    time.sleep(0.3)
    yield container
    container.remove()
    machine.run("rm", "-rf", rootfs)


def rootfs_content(counter: Container) -> str:
    return counter.machine.run("sh", "-c", CHECKSUM, "sh", f"/srv/{counter.name}").stdout


def kill_at(counter: Container, verb: str, moment: str, victim: str) -> None:
    """Run a verb of systemctl, and kill the victim at that moment of it."""
    begin_held(counter, verb, moment)
    counter.machine.run("sh", "-ec", KILL, "sh", victim, MARK)
    wait_for_rest(counter)


def assert_next_start(counter: Container, finds: str, before: str) -> None:
    if counter.property("ActiveState") != "active":  # else the start has tried again itself
        counter.systemctl("reset-failed", check=False)
        left = counter.machine.run("sh", "-c", LEFT).stdout
        assert left == ""
        counter.start()
    time.sleep(0.4)
    numbers = counter.numbers()
    runs = [index for index, number in enumerate(numbers) if number == 1]
    assert len(runs) == (1 if finds == KEPT else 2), counter.journal()
    for begin, end in zip(runs, [*runs[1:], len(numbers)], strict=True):
        # No repeat and no gap: no stale memory, no second run beside the first.
        assert numbers[begin:end] == list(range(1, end - begin + 1))
    assert numbers[-1] > 2
    assert rootfs_content(counter) == before
    counter.stop()
    assert counter.state() == "READY"
    assert counter.machine.run("sh", "-c", LEFT).stdout == ""


@pytest.mark.parametrize(("moment", "victim", "finds"), STOPS)
def test_a_kill_while_it_falls_asleep(
    counter: Container, moment: str, victim: str, finds: str
) -> None:
    before = rootfs_content(counter)
    kill_at(counter, "stop", moment, victim)
    assert_next_start(counter, finds, before)


@pytest.mark.parametrize(("moment", "victim", "finds"), STARTS)
def test_a_kill_while_it_wakes(counter: Container, moment: str, victim: str, finds: str) -> None:
    before = rootfs_content(counter)
    counter.stop()
    kill_at(counter, "start", moment, victim)
    assert_next_start(counter, finds, before)


@pytest.mark.parametrize("moment", ["restoring", "setup-namespaces", "post-restore"])
def test_a_stop_while_it_wakes_lets_it_sleep_on(counter: Container, moment: str) -> None:
    before = rootfs_content(counter)
    counter.stop()
    begin_held(counter, "start", moment)
    counter.machine.run("systemctl", "stop", "--no-block", counter.unit)
    # systemd lets what it signals continue (SIGCONT): no need to do it here.
    wait_for_rest(counter)
    assert counter.property("ActiveState") == "inactive"
    assert counter.state() == "READY"
    assert_next_start(counter, KEPT, before)


@pytest.mark.parametrize("moment", ["running", "created", "started"])
def test_a_kill_of_the_helper_in_a_fresh_start(counter: Container, moment: str) -> None:
    before = rootfs_content(counter)
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    kill_at(counter, "start", moment, "helper")
    if counter.property("ActiveState") != "active":
        counter.systemctl("reset-failed", check=False)
        assert counter.machine.run("sh", "-c", LEFT).stdout == ""
        counter.start()
    time.sleep(0.3)
    assert counter.numbers().count(1) == 2
    assert rootfs_content(counter) == before


def test_a_helper_killed_after_the_container_woke_harms_nothing(counter: Container) -> None:
    counter.stop()
    kill_at(counter, "start", "awake", "helper")
    assert counter.property("ActiveState") == "active"
    counter.stop()
    counter.start()
    time.sleep(0.2)
    assert counter.numbers().count(1) == 1


@pytest.mark.parametrize(
    ("moment", "finds"),
    [("setup-namespaces", KEPT), ("post-restore", KEPT), ("consumed", FRESH)],
)
def test_a_runc_delete_while_it_wakes_takes_no_file(
    counter: Container, moment: str, finds: str
) -> None:
    """runc has the root file system mounted in the directory that it then removes."""
    before = rootfs_content(counter)
    counter.stop()
    begin_held(counter, "start", moment)
    counter.machine.run("runc", "delete", "--force", counter.name, check=False)
    go_on(counter)
    assert_next_start(counter, finds, before)


# A process of that name, in the cgroup of a unit that is down.
LEFT_OVER = """
mkdir -p "$1/supervisor" /run/runc-left
cp /usr/bin/sleep /run/runc-left/runc
/run/runc-left/runc 600 &
echo $! >"$1/supervisor/cgroup.procs"
echo $!
"""


def test_a_runc_that_a_killed_helper_left_is_ended_before_a_start(counter: Container) -> None:
    machine = counter.machine
    counter.stop()
    group = f"/sys/fs/cgroup/torpor.slice/torpor@{counter.name}.service"
    left = machine.popen("sh", "-ec", LEFT_OVER, "sh", group)
    assert left.stdout
    pid = left.stdout.readline().strip()
    counter.start()
    assert counter.property("StatusText").startswith("restored"), counter.journal()
    assert machine.run("test", "-e", f"/proc/{pid}", check=False).returncode
