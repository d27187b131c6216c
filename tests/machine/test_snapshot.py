"""A moment of a running container, memory and files, that it can go back to."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import Container, make_busybox
from machine import Machine
from subjects import PROGRAM

HERE = Path(__file__).resolve().parent
# Memory and files that always say the same between two rounds; what is written to /own stays.
COUNT = """
i=0
for place in $PLACES; do echo 0 >$place; done
while :; do
    for place in $PLACES; do
        read n <$place || n=none
        [ "$n" = $i ] || echo "torn $place $n $i" >>/own/journal
    done
    i=$((i+1))
    for place in $PLACES; do echo $i >$place; done
    echo $i >>/own/journal
    sleep 0.02
done
"""
WAIT = 'n=$(wc -l <"$1"); until [ $(wc -l <"$1") -gt $n ]; do sleep 0.02; done'


class Subject:
    """A container that counts in memory and in its files."""

    def __init__(
        self, machine: Machine, name: str, kind: str, *, volume: str = "", **keys: object
    ) -> None:
        self.machine = machine
        self.place = f"/srv/{name}"
        self.state_dir = f"/var/lib/torpor/{name}"
        self.rootfs = make_busybox(machine, f"{self.place}/rootfs")
        machine.run("mkdir", "-p", f"{self.rootfs}/kept", f"{self.rootfs}/own", f"{self.place}/own")
        machine.run("chmod", "777", f"{self.place}/own")
        machine.write(f"{self.place}/own/journal", "")
        machine.run("chmod", "666", f"{self.place}/own/journal")
        self.container = Container(machine, name)
        places = "/var/tmp/count /dev/shm/count /kept/count"
        self.keys: dict[str, object] = {
            kind: self.rootfs,
            "command": ["/bin/sh", "-c", COUNT],
            "env": {"PLACES": places},
            "mounts": [f"{self.place}/own:/own", *([volume] if volume else [])],
            **keys,
        }
        self.define()
        self.container.start()
        self.goes_on()

    def define(self, **keys: object) -> None:
        self.container.define(**self.keys | keys)

    def goes_on(self) -> None:
        words = ("sh", "-c", WAIT, "sh", f"{self.place}/own/journal")
        self.machine.run("timeout", "10", *words)

    def journal(self) -> list[str]:
        return self.machine.read(f"{self.place}/own/journal").splitlines()

    def last(self) -> int:
        return int(self.journal()[-1])

    def torpor(self, verb: str, *words: str, check: bool = True) -> str:
        done = self.machine.run("torpor", verb, self.container.name, *words, check=check)
        assert check or done.returncode, done.stdout
        return done.stdout + done.stderr

    def snapshot(self) -> int:
        """Take one; its number."""
        found = re.search(
            r": snapshot (\d+): .* frozen (\d+\.\d+) s", said := self.torpor("snapshot")
        )
        assert found, said
        print(said)
        return int(found[1])

    def first_after_start(self) -> int:
        before = len(self.journal())
        self.container.start()
        self.goes_on()
        return int(self.journal()[before])

    def remove(self) -> None:
        self.container.remove()
        self.machine.run("rm", "-rf", self.place, "/var/lib/torpor/.volumes")


@pytest.fixture
def subject(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """What request.param says, (kind, keys), and is removed afterwards."""
    kind, keys = getattr(request, "param", ("image", {}))
    made = Subject(machine, "moment", kind, **keys)
    yield made
    made.remove()


KINDS = {
    "overlay": ("image", {"volumes": ["/kept"]}),
    "directory": ("rootfs", {"volume": "kept-count:/kept"}),
    "mapped": ("rootfs", {"idmap": "0:100000:65536", "volumes": ["/kept"]}),
}


def test_whatever_is_cut_off_memory_and_files_are_of_one_moment(machine: Machine) -> None:
    for part in ("subject.py", "cut_moments.py"):
        machine.write(f"{PROGRAM}/{part}", (HERE / part).read_text())
    made = [
        Subject(
            machine,
            f"cut{number}",
            "image",
            volumes=["/kept"],
            checkpoint={"snapshots": {"keep": 99}},
        )
        for number in range(3)
    ]
    try:
        names = [one.container.name for one in made]
        done = machine.run("python3", f"{PROGRAM}/cut_moments.py", *names, timeout=600)
        found = json.loads(done.stdout)
        print(found["cases"], found["passed"])
        assert found["faults"] == [], "\n".join(found["faults"])
    finally:
        for one in made:
            one.remove()


@pytest.mark.parametrize("subject", KINDS.values(), ids=KINDS, indirect=True)
def test_a_container_goes_back_as_often_as_one_wants(subject: Subject) -> None:
    number = subject.snapshot()
    assert subject.container.state() == "RUNNING"
    at = subject.last()
    subject.goes_on()
    subject.container.sleep_and_wake()
    subject.goes_on()
    firsts = []
    for _ in range(2):
        subject.torpor("rollback", "--stop", str(number))
        firsts.append(subject.first_after_start())
        assert subject.container.property("StatusText").startswith("restored")
    assert firsts[0] == firsts[1] <= at + 1
    journal = subject.journal()
    assert all(line.isdigit() for line in journal), journal
    assert journal.count("1") == 1, "it started fresh"
    found = subject.container.status()["snapshots"]
    assert isinstance(found, list)
    assert [one["generation"] for one in found] == [number]


def test_what_a_container_deleted_and_made_anew_over_its_image_comes_back_so(
    machine: Machine,
) -> None:
    script = "until [ -e /own/do ]; do sleep 0.05; done; rm /bin/head; rm -r /old; mkdir /old; "
    script += "echo new >/old/new; touch /own/done; until [ -e /own/again ]; do sleep 0.05; done; "
    script += "echo x >/bin/head; rm -r /old; touch /own/undone; "
    script += (
        "until [ -e /own/look ]; do sleep 0.05; done; ls /bin/head /old >/own/said 2>&1; sleep 1000"
    )
    subject = Subject(machine, "layers", "image", volumes=["/kept"])
    try:
        subject.torpor("stop", "--fresh")
        machine.run(
            "sh", "-ec", f"cd {subject.rootfs}; mkdir old; touch old/file; ln -s busybox bin/rm"
        )
        machine.run(
            "sh",
            "-ec",
            f"cd {subject.rootfs}/bin; for n in mkdir touch ls; do ln -s busybox $n; done",
        )
        subject.define(command=["/bin/sh", "-c", script])
        subject.container.start()
        own = f"{subject.place}/own"
        wait = 'touch "$1/$2"; until [ -e "$1/$3" ]; do sleep 0.02; done'
        machine.run("timeout", "10", "sh", "-c", wait, "sh", own, "do", "done")
        subject.snapshot()
        machine.run("timeout", "10", "sh", "-c", wait, "sh", own, "again", "undone")
        machine.run("rm", f"{own}/again", f"{own}/undone")
        subject.torpor("rollback", "--stop")
        subject.container.start()
        machine.run("timeout", "10", "sh", "-c", wait, "sh", own, "look", "look")
        merged = f"/run/torpor/{subject.container.name}/rootfs"
        assert machine.run("ls", f"{merged}/old").stdout.split() == ["new"]
        assert machine.run("ls", f"{merged}/bin/head", check=False).returncode
    finally:
        subject.remove()
