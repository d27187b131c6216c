"""A moment of a running container, memory and files, that it can go back to."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import faults
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
    unit = "/etc/systemd/system/torpor@.service.d/fault.conf"
    machine.write(unit, "[Service]\nEnvironmentFile=-/run/trials/%i\n")
    machine.run("systemctl", "daemon-reload")
    made = [
        Subject(
            machine,
            f"cut{number}",
            "image",
            volumes=["/kept"],
            checkpoint={"on-crash": "rollback", "snapshots": {"keep": 99}},
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
        machine.run("rm", "-rf", unit, "/run/trials")
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


# Removes a file and replaces a directory of its image; later the other way round.
CHANGE = """
wait_for() { until [ -e /own/$1 ]; do sleep 0.05; done; }
rm /bin/head; rm -r /old; mkdir /old; echo new >/old/new; touch /own/changed
wait_for back; echo again >/bin/head; rm -r /old; touch /own/undone
while :; do sleep 1; done
"""
WAIT_FOR = 'until [ -e "$1" ]; do sleep 0.02; done'


def test_what_a_container_removed_and_replaced_over_its_image_comes_back_so(
    machine: Machine,
) -> None:
    rootfs = make_busybox(machine, "/srv/layers/rootfs")
    more = 'mkdir "$1/old" "$1/own"; touch "$1/old/file"'
    links = 'for name in rm mkdir touch; do ln -s busybox "$1/bin/$name"; done'
    machine.run("sh", "-ec", f"{more}; {links}", "sh", rootfs)
    machine.run("mkdir", "/srv/layers/own")
    container = Container(machine, "layers")
    command = ["/bin/sh", "-c", CHANGE]
    container.define(image=rootfs, command=command, mounts=["/srv/layers/own:/own"])
    try:
        container.start()
        machine.run("timeout", "10", "sh", "-c", WAIT_FOR, "sh", "/srv/layers/own/changed")
        machine.run("torpor", "snapshot", "layers")
        machine.run("touch", "/srv/layers/own/back")
        machine.run("timeout", "10", "sh", "-c", WAIT_FOR, "sh", "/srv/layers/own/undone")
        machine.run("rm", "/srv/layers/own/back")
        machine.run("torpor", "rollback", "--stop", "layers")
        container.start()
        merged = "/run/torpor/layers/rootfs"
        assert machine.run("ls", f"{merged}/old").stdout == "new\n"
        assert "head" not in machine.run("ls", f"{merged}/bin").stdout.split()
    finally:
        container.remove()
        machine.run("rm", "-rf", "/srv/layers")


def crash(subject: Subject) -> None:
    subject.machine.run(
        "systemctl", "kill", "-s", "KILL", "--kill-whom=main", subject.container.unit
    )
    subject.container.wait_for("failed")
    assert subject.container.state() == "CRASHED"
    subject.container.systemctl("reset-failed")  # or systemd would soon refuse to start it again


ON_CRASH = {"checkpoint": {"on-crash": "rollback"}, "volumes": ["/kept"]}


@pytest.mark.parametrize("subject", [("image", ON_CRASH)], indirect=True)
def test_a_crash_is_answered_by_the_newest_snapshot_three_times_an_hour(subject: Subject) -> None:
    crash(subject)
    assert subject.first_after_start() == 1
    assert "there is no snapshot to go back to" in subject.container.journal()
    subject.snapshot()
    subject.goes_on()
    number = subject.snapshot()
    at = subject.last()
    for _ in range(3):
        subject.goes_on()
        crash(subject)
        assert at - 2 <= subject.first_after_start() <= at + 1
        assert f"back to snapshot {number}" in str(subject.container.journal())
    crash(subject)
    assert subject.first_after_start() == 1
    assert "not once more" in subject.container.journal()
    subject.container.sleep_and_wake()  # no crash
    subject.goes_on()
    assert all(line.isdigit() for line in subject.journal())


def test_a_crash_means_a_fresh_start_where_nothing_else_is_said(subject: Subject) -> None:
    subject.snapshot()
    crash(subject)
    assert subject.first_after_start() == 1


def test_what_is_refused_says_why_and_changes_nothing(subject: Subject) -> None:
    container, machine = subject.container, subject.machine
    assert "has no snapshot" in subject.torpor("rollback", check=False)
    number = subject.snapshot()
    assert "is active: its files cannot be replaced" in subject.torpor("rollback", check=False)
    container.stop()
    assert "is not running" in subject.torpor("snapshot", check=False)
    assert "has no snapshot 99" in subject.torpor("rollback", "99", check=False)
    subject.torpor("rollback", "-1", check=False)
    subject.torpor("rollback", "newest", check=False)
    subject.define(env={"PLACES": "/var/tmp/count", "MORE": "1"})
    said = subject.torpor("rollback", check=False)
    assert f"the definition changed after snapshot {number}" in said
    subject.define()
    pages = f"{subject.state_dir}/snapshots/{number}/checkpoint/pages-1.img"
    script = 'printf X | dd of="$1" bs=1 seek=5000 conv=notrunc'
    machine.run("sh", "-c", script, "sh", pages)
    assert "is damaged" in subject.torpor("rollback", check=False)
    assert container.state() == "READY"
    last = subject.last()
    assert subject.first_after_start() == last + 1
    left = f"ls -a {subject.state_dir} | grep -e rollback -e .torpor-"
    assert machine.run("sh", "-c", left, check=False).stdout == ""


def test_a_root_file_system_that_others_have_too_is_refused(machine: Machine) -> None:
    subject = Subject(machine, "moment", "rootfs")
    other = Container(machine, "other").define(
        rootfs=subject.rootfs, command=["/bin/sleep", "1000"]
    )
    try:
        other.start()
        said = subject.torpor("snapshot", check=False)
        assert f"{subject.rootfs} is the root file system of other too" in said
        assert f"image: {subject.rootfs}" in said
        subject.goes_on()
        assert subject.container.state() == "RUNNING"
    finally:
        other.remove()
        subject.remove()


def test_a_volume_that_others_have_too_goes_on(machine: Machine) -> None:
    subject = Subject(machine, "moment", "image", volume="common:/kept")
    other = Container(machine, "other").define(
        image=subject.rootfs, command=["/bin/sleep", "1000"], mounts=["common:/kept"]
    )
    try:
        subject.snapshot()
        other.start()
        assert "not in it: volume common, which other has too" in subject.torpor("snapshot")
        subject.container.stop()
        said = subject.torpor("rollback", "1", check=False)
        assert "the volume common is that of other too by now" in said
        assert subject.container.state() == "READY"
        subject.torpor("rollback", "2")
        place = machine.run("ls", "-a", "/var/lib/torpor/.volumes").stdout
        assert place.split() == [".", "..", "common"]
    finally:
        other.remove()
        subject.remove()


def test_links_are_copied_not_followed_and_what_is_mounted_is_left_out(machine: Machine) -> None:
    script = "cd {}; ln -s /etc/shadow evil; ln -s /root dir; ln -s ../../../.. up; mkfifo pipe"
    subject = Subject(machine, "moment", "rootfs")
    try:
        machine.run("sh", "-ec", script.format(f"{subject.rootfs}/var"))
        machine.run("sh", "-ec", f"echo secret >{subject.place}/own/secret")
        number = subject.snapshot()
        files = f"{subject.state_dir}/snapshots/{number}/files/0"
        kinds = machine.run(
            "stat", "-c", "%F %N", *(f"{files}/var/{name}" for name in ("evil", "dir", "up"))
        )
        assert kinds.stdout.count("symbolic link") == 3
        assert machine.run("stat", "-c", "%F", f"{files}/var/pipe").stdout == "fifo\n"
        assert machine.run("ls", f"{files}/own").stdout == ""
    finally:
        subject.remove()


def test_a_full_disk_leaves_the_container_running_and_no_half_snapshot(machine: Machine) -> None:
    state_dir = "/var/lib/torpor/moment"
    with faults.small_disk(machine, state_dir, "96M"):
        subject = Subject(machine, "moment", "image")
        try:
            pid = subject.container.property("MainPID")
            fill = f"dd if=/dev/urandom of=/proc/{pid}/root/var/tmp/big bs=1M count=50 status=none"
            machine.run("sh", "-c", fill)
            said = subject.torpor("snapshot", check=False)
            assert "No space left on device" in said
            subject.goes_on()
            # DUMPING where the disk had no room for the record: whoever comes next settles that.
            assert subject.container.state() in ("RUNNING", "DUMPING")
            assert machine.run("ls", f"{state_dir}/snapshots").stdout == ""
            machine.run("rm", f"/proc/{pid}/root/var/tmp/big")
            subject.snapshot()
            last = subject.last()
            subject.container.sleep_and_wake()
            subject.goes_on()
            assert str(last + 1) in subject.journal()
        finally:
            subject.machine.run("systemctl", "stop", subject.container.unit)
    subject.remove()


SLOW = "/usr/local/slow"
SLOW_CP = '#!/bin/sh\n/usr/bin/sleep 30\nexec /usr/bin/cp "$@"\n'


def begin_slow_snapshot(subject: Subject) -> None:
    """Begin one that does not come to an end; returns when its files are being copied."""
    machine = subject.machine
    machine.write(f"{SLOW}/cp", SLOW_CP, 0o755)
    path = f"--setenv=PATH={SLOW}:/usr/sbin:/usr/bin:/sbin:/bin"
    words = ("systemd-run", "--collect", "--property=KillMode=process", path)
    machine.run(*words, "torpor", "snapshot", subject.container.name)
    wait = f"until ls {subject.state_dir}/snapshots/*/files/0/upper; do sleep 0.05; done; sleep 0.1"
    machine.run("timeout", "10", "sh", "-c", wait)


def test_a_stop_does_not_wait_for_a_snapshot(subject: Subject) -> None:
    machine = subject.machine
    begin_slow_snapshot(subject)
    began_s = time.monotonic()
    subject.container.stop()
    assert time.monotonic() - began_s < 8
    assert subject.container.state() == "READY"
    last = subject.last()
    assert subject.first_after_start() == last + 1
    script = f'while [ "$(ls {subject.state_dir}/snapshots)" ]; do sleep 0.05; done'
    machine.run("timeout", "10", "sh", "-c", script)
    machine.run("rm", "-r", SLOW)


# The one that works, which alone has a parent of the same name; both.
VICTIMS = {
    "worker": "pgrep -P $(pgrep -of '[t]orpor snapshot')",
    "both": "pgrep -f '[t]orpor snapshot'",
}


@pytest.mark.parametrize("who", VICTIMS)
def test_who_takes_a_snapshot_can_be_killed_and_the_container_goes_on(
    subject: Subject, who: str
) -> None:
    machine, name = subject.machine, subject.container.name
    begin_slow_snapshot(subject)
    machine.run("sh", "-c", f"kill -9 $({VICTIMS[who]})")
    if who == "worker":
        subject.goes_on()
        assert subject.container.state() == "RUNNING"
        assert machine.run("ls", f"{subject.state_dir}/snapshots").stdout == ""
    last = subject.last()
    subject.container.sleep_and_wake()
    subject.goes_on()
    assert str(last + 1) in subject.journal()
    assert subject.journal().count("1") == 1
    machine.run("rm", "-r", SLOW)
    assert subject.snapshot(), name


def test_a_container_whose_criu_was_killed_is_not_trusted(subject: Subject) -> None:
    begin_slow_snapshot(subject)
    subject.machine.run("sh", "-c", "kill -9 $(pgrep -x criu) $(pgrep -fx '/usr/bin/sleep 30')")
    subject.container.wait_for("failed")
    assert subject.container.state() == "CRASHED"
    subject.machine.run("rm", "-r", SLOW)
    assert subject.first_after_start() == 1
    assert subject.machine.run("ls", f"{subject.state_dir}/snapshots").stdout == ""


@pytest.mark.parametrize(
    "subject", [("image", {"checkpoint": {"snapshots": {"keep": 1}}})], indirect=True
)
def test_a_timer_takes_snapshots_of_who_runs_and_so_many_stay(subject: Subject) -> None:
    machine, unit = subject.machine, f"torpor-snapshot@{subject.container.name}"
    machine.run("systemd-analyze", "verify", "--man=no", f"{unit}.timer", f"{unit}.service")
    machine.run("systemctl", "start", f"{unit}.timer")
    due = machine.run("systemctl", "show", "-P", "NextElapseUSecRealtime", f"{unit}.timer")
    assert due.stdout.strip()
    for number in (1, 2):
        machine.run("systemctl", "start", f"{unit}.service")
        snapshots = subject.container.status()["snapshots"]
        assert isinstance(snapshots, list)
        assert [one["generation"] for one in snapshots] == [number]
    subject.container.stop()
    assert subject.container.status()["generation"] == 3
    machine.run("systemctl", "start", f"{unit}.service")
    machine.run("systemctl", "stop", f"{unit}.timer")
    assert machine.run("systemctl", "is-failed", f"{unit}.service", check=False).returncode
    assert "snapshot 2 is forgotten" in subject.torpor("discard", "--generation", "2")
    assert subject.container.state() == "READY"
    assert "has no snapshot" in subject.torpor("rollback", check=False)
