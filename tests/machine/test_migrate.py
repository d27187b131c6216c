"""A container that moves to another machine, and what becomes of it where that is cut off."""

import itertools
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from inside import CommandFailed
from machine import Machine
from neighbours import HERE, LINK, ONCE, THERE, bridged, neighbours
from netpeers import ROOTFS, make_rootfs, plugged

COMMAND = ["/bin/sh", "-c", COUNTER]
IMAGE = "/srv/move-image"
# Changes all of its memory again and again, and says when a pattern is broken.
RESTLESS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define SIZE (256UL << 20)
int main(void) {
    unsigned long *memory = malloc(SIZE), count = SIZE / sizeof *memory, round = 0;
    memset(memory, 0, SIZE);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (;; round++) {
        for (unsigned long at = 0; at < count; at++) {
            if (memory[at] != (round ? at * 2654435761UL + round - 1 : 0)) printf("broken\n");
            memory[at] = at * 2654435761UL + round;
        }
        printf("count %lu\n", round + 1);
    }
}
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def there(machine: Machine) -> Iterator[Machine]:
    with Machine(with_guest=False) as second, neighbours(machine, second):
        make_busybox(second)
        yield second


@pytest.fixture
def mover(machine: Machine, there: Machine) -> Iterator[Container]:
    """One that counts and runs here, under a name that was never there."""
    make_busybox(machine)
    made = Container(machine, f"mover{next(_numbers)}")
    made.define(rootfs=BUSYBOX, command=COMMAND)
    made.start()
    yield made
    made.remove()
    moved(made, there).remove()


def moved(container: Container, machine: Machine) -> Container:
    return Container(machine, container.name)


def migrate(container: Container, *words: str, host: str = THERE, **env: str) -> str:
    """What it says; CommandFailed where it was refused."""
    said = container.machine.run("torpor", "migrate", container.name, host, *words, env=env).stderr
    assert "Traceback" not in said
    return said


def refused(container: Container, *words: str, host: str = THERE, **env: str) -> str:
    with pytest.raises(CommandFailed) as failed:
        migrate(container, *words, host=host, **env)
    said = str(failed.value.stderr)
    assert "Traceback" not in said, said
    return said


def all_numbers(*places: Container) -> list[int]:
    time.sleep(0.3)
    return [number for place in places for number in place.numbers()]


def runs(container: Container) -> bool:
    """Whether it does now, and on as it ran before."""
    before = len(container.numbers())
    time.sleep(0.3)
    return len(container.numbers()) > before


def nothing_there(container: Container, there: Machine) -> bool:
    places = f"/var/lib/torpor/{container.name} /etc/torpor/{container.name}.yaml"
    script = f"ls -d {places} /var/lib/torpor/.*.new /run/torpor/{container.name} 2>/dev/null"
    return there.run("sh", "-c", script, check=False).stdout == ""


def test_it_goes_on_there_and_comes_back(mover: Container, there: Machine) -> None:
    mover.systemctl("enable")
    said = migrate(mover)
    away = moved(mover, there)
    assert f"moved to {THERE}" in said and "awake; it was away for" in said, said
    assert away.property("StatusText").startswith("restored"), away.journal()
    assert without_gap(all_numbers(mover, away))
    assert mover.state() == "MOVED" and mover.property("ActiveState") == "inactive"
    assert mover.property("UnitFileState") == "disabled"
    assert away.property("UnitFileState") == "enabled"
    # Here it is not started: it would be two.
    assert mover.systemctl("start", check=False)
    assert f"it moved to {THERE}" in mover.journal()
    mover.machine.run("sh", "-c", f"ssh {THERE} torpor export --running {mover.name} - >/srv/copy")
    with pytest.raises(CommandFailed, match="there is a container"):
        mover.machine.run("torpor", "import", "--trust", "/srv/copy")
    assert there.run("torpor", "migrate", mover.name, HERE).returncode == 0
    assert mover.property("StatusText").startswith("restored"), mover.journal()
    assert away.state() == "MOVED"
    assert without_gap(sorted(all_numbers(mover, away)))
    assert mover.property("UnitFileState") == "enabled"


def test_one_that_sleeps_moves_asleep_and_with_what_it_wrote(
    machine: Machine, there: Machine, mover: Container
) -> None:
    for place in (machine, there):
        make_busybox(place, IMAGE)
    over = Container(machine, f"{mover.name}-image")
    script = f"echo kept >/etc/kept; {COUNTER}"
    over.define(image=IMAGE, command=["/bin/sh", "-c", script], volumes=["/var/tmp"])
    over.start()
    time.sleep(0.3)
    over.stop()
    assert "it sleeps there" in migrate(over, "--asleep")
    away = moved(over, there)
    assert away.state() == "READY"
    away.start()
    root = f"/run/torpor/{over.name}/rootfs"
    assert there.read(f"{root}/etc/kept") == "kept\n"
    assert without_gap(all_numbers(over, away))
    over.remove()
    away.remove()


def test_much_memory_that_changes_moves_whole(
    machine: Machine, there: Machine, mover: Container
) -> None:
    machine.write("/srv/restless.c", RESTLESS)
    compile_it = f"gcc -O2 -static -o {BUSYBOX}/bin/restless /srv/restless.c"
    machine.run("sh", "-c", compile_it)
    large = Container(machine, f"{mover.name}-large")
    large.define(rootfs=BUSYBOX, command=["/bin/restless"])
    large.start()
    until = f"until [ $(journalctl -u {large.unit} -o cat | grep -c ^count) -ge 3 ]"
    machine.run("timeout", "60", "sh", "-c", f"{until}; do sleep 0.1; done")
    migrate(large)
    away = moved(large, there)
    time.sleep(1)
    found = all_numbers(large, away)
    assert without_gap(found) and away.numbers() and "broken" not in away.journal()
    large.remove()
    away.remove()


def test_the_other_host_is_asked_before_anything_stands_still(
    mover: Container, there: Machine
) -> None:
    init = mover.property("MainPID")
    mover.machine.run("mkdir", "-p", "/srv/only-here")
    cases = (
        (lambda: mover.define(rootfs=BUSYBOX, command=COMMAND, mounts=["/srv/only-here:/x"]),
         "/srv/only-here, which it sees, is not here"),
        (lambda: mover.define(rootfs=BUSYBOX, command=COMMAND, mounts=["shared:/x"]),
         "the volume shared is not here"),
        (lambda: there.run("sh", "-c", f"touch /etc/torpor/{mover.name}.yaml"),
         f"there is a container {mover.name} already"),
        (lambda: there.run("chmod", "a-x", "/usr/sbin/criu"), "criu is not installed"),
    )  # fmt: skip
    for change, words in cases:
        change()
        mover.machine.run("systemctl", "restart", mover.unit)
        init = mover.property("MainPID")
        said = refused(mover)
        there.run("chmod", "a+x", "/usr/sbin/criu")
        there.run("rm", "-f", f"/etc/torpor/{mover.name}.yaml")
        mover.define(rootfs=BUSYBOX, command=COMMAND)
        assert words in said and THERE in said, said
        assert mover.property("MainPID") == init and mover.state() == "RUNNING"
    assert "checkpointed" not in mover.journal()
    assert nothing_there(mover, there)


def test_a_host_that_is_not_there_or_has_no_torpor(mover: Container, there: Machine) -> None:
    init = mover.property("MainPID")
    assert "does not answer" in refused(mover, host="nobody.invalid")
    there.run("mv", "/usr/bin/torpor", "/usr/bin/torpor.away")
    said = refused(mover)
    there.run("mv", "/usr/bin/torpor.away", "/usr/bin/torpor")
    assert "is torpor installed there?" in said
    for wrong in ("a b", ""):
        assert "say where to" in refused(mover, host=wrong)
    assert mover.property("MainPID") == init and mover.state() == "RUNNING"


@pytest.mark.parametrize("tcp", ["keep", "close"])
def test_who_is_connected_goes_on_where_that_is_asked_for(
    machine: Machine, there: Machine, mover: Container, tcp: str
) -> None:
    """On one Ethernet, to which both hosts' bridges belong."""
    for place in (machine, there):
        make_rootfs(place)
    network = {"bridge": "mv0", "subnet": "10.83.0.0/24", "address": "10.83.0.9"}
    server = Container(machine, f"{mover.name}-server")
    command = ["/bin/sh", "-c", f"( {COUNTER} ) & exec /bin/answer 7000"]
    keys = {"network": network, "checkpoint": {"tcp": tcp}}
    server.define(rootfs=ROOTFS, command=command, **keys)
    server.start()
    away = moved(server, there)
    with bridged(machine, there, "mv0"), plugged(machine, "mv0", "10.83.0.200/24") as peer:
        time.sleep(0.3)
        talk = peer.talk("10.83.0.9")
        assert talk.say("before") == "before"
        migrate(server)
        assert away.property("StatusText").startswith("restored"), away.journal()
        talk.write("after")
        assert (talk.read() == "after") == (tcp == "keep"), away.journal()
        assert without_gap(all_numbers(server, away))
        assert peer.talk("10.83.0.9").say("again") == "again"
    server.remove()
    away.remove()


def test_a_host_that_refuses_what_came_has_nothing_of_it(
    machine: Machine, there: Machine, mover: Container
) -> None:
    """An address that another has there is known only when the container sleeps."""
    keys = {"rootfs": BUSYBOX, "command": COMMAND}
    network = {"bridge": "mv1", "subnet": "10.84.0.0/24", "address": "10.84.0.9"}
    first = Container(there, f"{mover.name}-first").define(**keys, network=network)
    second = Container(machine, f"{mover.name}-second").define(**keys, network=network)
    for container in (first, second):
        container.start()
    said = refused(second)
    assert "10.84.0.9" in said and "it goes on here" in said, said
    assert nothing_there(second, there)
    assert second.property("StatusText").startswith("restored"), second.journal()
    assert without_gap(all_numbers(second)) and without_gap(all_numbers(first))
    first.remove()
    second.remove()


def test_one_that_cannot_wake_there_is_not_called_awake(
    machine: Machine, there: Machine, mover: Container
) -> None:
    """CRIU refuses an open file of another size; the policy is to start fresh then."""
    for place, text in ((machine, "here"), (there, "and there")):
        place.write(f"{BUSYBOX}/etc/held", text)
    holder = Container(machine, f"{mover.name}-holder")
    holder.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", f"exec 3</etc/held; {COUNTER}"])
    holder.start()
    time.sleep(0.2)
    said = refused(holder, f"--rootfs={BUSYBOX}")
    away = moved(holder, there)
    assert "could not be restored there, and started fresh" in said, said
    aside = f"/var/lib/torpor/{holder.name}/aside"
    assert aside in said and there.run("ls", aside).stdout
    assert holder.state() == "MOVED" and runs(away)
    holder.remove()
    away.remove()


def cut_off(
    container: Container, point: str, there: Machine | None = None, action: str = "kill"
) -> int:
    """Move it, with this process or the other host's killed at a point; the exit status."""
    fault = f"{point}={action}"
    if there:
        there.write(ONCE, f"export TORPOR_FAULT='{fault}'\n")
    env = {} if there else {"TORPOR_FAULT": fault}
    done = container.machine.run("torpor", "migrate", container.name, THERE, check=False, env=env)
    assert done.returncode and "Traceback" not in done.stderr, done.stderr
    return done.returncode


def until_nothing_there(container: Container, there: Machine) -> None:
    """Who was told nothing more notices that the connection is gone."""
    deadline_s = time.monotonic() + 20
    while not nothing_there(container, there):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_one_that_is_killed_before_it_decides_leaves_it_here(
    mover: Container, there: Machine
) -> None:
    cut_off(mover, "before state-LEAVING")
    assert mover.state() == "READY"
    until_nothing_there(mover, there)
    mover.start()
    assert mover.property("StatusText").startswith("restored"), mover.journal()
    assert without_gap(all_numbers(mover))


@pytest.mark.parametrize("point", ["amid state-LEAVING", "after state-LEAVING", "leaving"])
def test_one_that_is_killed_when_it_decided_asks_before_it_goes_on(
    mover: Container, there: Machine, point: str
) -> None:
    cut_off(mover, point)
    if mover.state() == "READY":  # amid: the record of before holds
        mover.start()
    else:
        assert mover.state() == "LEAVING"
        assert mover.systemctl("start", check=False)
        hint = f"torpor migrate --again {mover.name}"
        assert hint in mover.journal() and hint in refused(mover)
        until_nothing_there(mover, there)
        mover.machine.run("torpor", "migrate", "--again", mover.name)
    assert runs(mover)
    assert without_gap(all_numbers(mover))


def test_one_that_is_killed_after_it_arrived_is_there_alone(
    mover: Container, there: Machine
) -> None:
    cut_off(mover, "moved")
    away = moved(mover, there)
    assert mover.state() == "MOVED"
    assert mover.systemctl("start", check=False)
    away.wait_for("active")
    assert without_gap(all_numbers(mover, away))


@pytest.mark.parametrize("point", ["filled", "landed", "before definition", "after definition"])
def test_a_host_that_fails_has_it_or_not(mover: Container, there: Machine, point: str) -> None:
    cut_off(mover, point, there)
    away = moved(mover, there)
    if point == "filled":
        assert runs(mover)
        assert not there.run("torpor", "status", mover.name, check=False).stdout
    else:
        assert mover.state() == "MOVED" and away.state() == "READY"
        away.start()
        assert away.property("StatusText").startswith("restored"), away.journal()
    assert without_gap(all_numbers(mover, away))


def test_a_host_that_says_no_when_it_has_it_is_asked_again(
    mover: Container, there: Machine
) -> None:
    cut_off(mover, "before definition", there, "fail")
    away = moved(mover, there)
    assert mover.state() == "MOVED" and away.state() == "READY"
    away.start()
    assert without_gap(all_numbers(mover, away))


@pytest.mark.parametrize("how", ["--again", "--stay"])
def test_where_nobody_can_be_asked_it_runs_nowhere_until_somebody_decides(
    mover: Container, there: Machine, how: str
) -> None:
    machine = mover.machine
    cut_off(mover, "leaving")
    until_nothing_there(mover, there)
    machine.run("ip", "link", "set", LINK, "down")
    with pytest.raises(CommandFailed) as failed:
        machine.run("torpor", "migrate", "--again", mover.name)
    assert failed.value.returncode == 75 and "nobody knows" in str(failed.value.stderr)
    assert mover.state() == "LEAVING" and mover.systemctl("start", check=False)
    if how == "--again":
        machine.run("ip", "link", "set", LINK, "up")
    machine.run("torpor", "migrate", how, mover.name)
    machine.run("ip", "link", "set", LINK, "up")
    assert runs(mover) and without_gap(all_numbers(mover))


def test_what_is_not_of_a_move_is_refused(machine: Machine, there: Machine) -> None:
    for said in ("", "x\n", "take\n", "take\n{}\n", "outcome\n[]\n", "take\n\0\n", "y" * 100000):
        done = there.run("torpor", "receive", input=said, check=False)
        assert done.returncode == 1 and done.stderr == "", done.stderr
        assert '"say": "no"' in done.stdout
    asked = 'outcome\n{"name": "nobody", "token": "x"}\n'
    assert '"say": "lacks"' in there.run("torpor", "receive", input=asked).stdout
    with pytest.raises(CommandFailed, match="is not leaving"):
        machine.run("torpor", "migrate", "--again", "nobody")
