"""What the images of a sleeping container hold, against what the kernel said before it slept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox
from machine import Machine

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
PAGE = 4096
KEPT = 3
ROOTFS = "/srv/looked"
# Its processes, files and memory are known, and change as told when /tmp/go is there.
PROGRAM = """
import mmap, os, signal, socket, time
plain = open("/tmp/plain", "w+")
plain.write("x" * 100)
plain.flush()
gone = open("/tmp/gone", "w+")
gone.write("y" * 70000)
gone.flush()
os.unlink("/tmp/gone")
listener = socket.create_server(("127.0.0.1", 4711))
unix = socket.socket(socket.AF_UNIX)
unix.bind("/tmp/socket")
unix.listen()
abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
abstract.bind("\\0known")
memfd = os.memfd_create("named")
os.write(memfd, b"m" * 300000)
shared = mmap.mmap(-1, 8 << 20)
shared[: 6 << 20] = os.urandom(6 << 20)
own = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own[:] = os.urandom(24 << 20)
with open("/dev/shm/segment", "wb") as segment:
    segment.write(os.urandom(2 << 20))
with open("/scratch/file", "wb") as file:
    file.write(os.urandom(3 << 20))
def child(size):
    pid = os.fork()
    if not pid:
        kept = bytearray(os.urandom(size))
        while True:
            signal.pause()
    return pid
def ended():
    if not os.fork():
        os._exit(0)
reader = child(4 << 20)
stopped = child(4096)
os.kill(stopped, signal.SIGSTOP)
ended()
open("/tmp/up", "w").close()
while not os.path.exists("/tmp/go"):
    time.sleep(0.05)
for page in range(100):
    own[page * 4096] = (own[page * 4096] + 1) % 256
more = mmap.mmap(-1, 10 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
more[:] = os.urandom(10 << 20)
for page in range(7):
    shared[page * 4096] = (shared[page * 4096] + 1) % 256
late = open("/tmp/late", "w+")
unix.close()
os.kill(reader, signal.SIGKILL)
os.waitpid(reader, 0)
child(1 << 20)
open("/tmp/changed", "w").close()
while True:
    time.sleep(1)
"""
# What the kernel says of a container's init and of all that descends from it: the processes of a
# cgroup are without those that have ended.
FACTS = r"""
import json, os, sys
def status(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
left = [open(f"/run/torpor/{sys.argv[1]}/pid").read().strip()]
found = {}
while left:
    pid = left.pop()
    said = status(pid)
    left += open(f"/proc/{pid}/task/{pid}/children").read().split()
    ended = said["State"][0] == "Z"
    fds = [] if ended else os.listdir(f"/proc/{pid}/fd")
    found[said["NSpid"][-1]] = {
        "anon_bytes": int(said.get("RssAnon", ["0"])[0]) << 10,
        "state": said["State"][0],
        "name": said["Name"][0],
        "threads": int(said["Threads"][0]),
        "fds": {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in fds},
        "command": open(f"/proc/{pid}/cmdline").read().split("\0")[:-1],
    }
json.dump(found, sys.stdout)
"""
FLIP = "f=open({path!r},'r+b'); f.seek({at}); b=f.read(1)[0]; f.seek({at}); f.write(bytes([b^1]))"

Facts = dict[str, dict[str, Any]]


def until(machine: Machine, path: str) -> None:
    script = 'until [ -e "$1" ]; do sleep 0.05; done'
    machine.run("timeout", "20", "sh", "-c", script, "sh", path)


def torpor(machine: Machine, *words: str) -> dict[str, Any]:
    return dict(json.loads(machine.run("torpor", *words, "--json").stdout))


@pytest.fixture(scope="module")
def looked(machine: Machine) -> Iterator[tuple[Container, list[Facts]]]:
    """Two generations of a container, and what the kernel said before each."""
    make_busybox(machine, ROOTFS)
    links = 'cd "$1"; mkdir usr; ln -s usr/lib lib; ln -s usr/lib64 lib64'
    machine.run("sh", "-ec", links, "sh", ROOTFS)
    machine.write(f"{ROOTFS}/program.py", PROGRAM)
    container = Container(machine, "looked").define(
        rootfs=ROOTFS,
        command=["/usr/bin/python3", "/program.py"],
        mounts=["/usr:/usr:ro", "tmpfs:/scratch"],
        checkpoint={"keep": KEPT},
    )
    facts = []
    try:
        container.start()
        for path in ("up", "changed"):
            until(machine, f"{ROOTFS}/tmp/{path}")
            facts.append(json.loads(machine.run("python3", "-c", FACTS, "looked").stdout))
            container.stop()
            machine.write(f"{ROOTFS}/tmp/go", "")
            if path == "up":
                container.start()
        yield container, facts
    finally:
        container.remove()
        machine.run("rm", "-rf", ROOTFS)


def test_processes_are_those_that_the_kernel_saw(looked: tuple[Container, list[Facts]]) -> None:
    container, facts = looked
    for number, said in enumerate(facts, 1):
        found = torpor(container.machine, "inspect", "looked", f"--generation={number}")
        processes = {str(one["pid"]): one for one in found["processes"]}
        assert processes.keys() == said.keys()
        for pid, one in processes.items():
            expected = said[pid]
            assert one["name"] == expected["name"]
            assert one["threads"] == expected["threads"]
            assert one["command"] == expected["command"]
            states = {"Z": "zombie", "T": "stopped"}
            assert one["state"] == states.get(expected["state"], "running")
            assert {str(file["fd"]) for file in one["files"]} == expected["fds"].keys()
            # CRIU leaves out what is as it is in a file, and the kernel counts late.
            assert abs(one["memory_bytes"] - expected["anon_bytes"]) < MIB, pid
        assert processes["1"]["memory_bytes"] > 24 * MIB
        assert processes["1"]["shared_bytes"] == 6 * MIB
        assert sorted(one["state"] for one in found["processes"])[-2:] == ["stopped", "zombie"]


def test_what_was_open_has_its_name(looked: tuple[Container, list[Facts]]) -> None:
    container, facts = looked
    found = torpor(container.machine, "inspect", "looked", "--generation=1")
    files = {file["name"]: file for file in found["processes"][0]["files"]}
    assert files["/tmp/plain"]["size_bytes"] == files["/tmp/plain"]["position_bytes"] == 100
    assert files["/tmp/gone"]["deleted"] and not files["/tmp/plain"]["deleted"]
    assert files["127.0.0.1:4711"]["state"] == "listening"
    assert files["/tmp/socket"]["kind"] == "unix" and files["@known"]["kind"] == "unix"
    assert files["named"]["size_bytes"] == 300000
    by_fd = facts[0]["1"]["fds"]
    for file in files.values():
        if file["kind"] == "file" and not file["deleted"]:
            assert by_fd[str(file["fd"])] == file["name"]


def test_what_takes_the_space_is_all_of_it(looked: tuple[Container, list[Facts]]) -> None:
    container, _ = looked
    found = torpor(container.machine, "inspect", "looked", "--generation=1", "--verify")
    assert found["verified"] is True
    assert sum(one["size_bytes"] for one in found["space"]) == found["size_bytes"]
    size = container.machine.run(
        *("sh", "-c", 'cd "$1"; cat checkpoint/* shm.tar config.json plan mounts | wc -c', "sh"),
        found["path"],
    ).stdout
    assert found["size_bytes"] == int(size)
    space = {(one["kind"], one["name"]): one["size_bytes"] for one in found["space"]}
    assert space["process", "1 python3"] > 24 * MIB
    assert space["content", "/dev/shm"] > 2 * MIB and space["content", "/scratch"] > 3 * MIB
    assert 70000 <= space["deleted", "/tmp/gone"] < 80000
    assert space["shared", "/dev/zero"] == 6 * MIB and space["shared", "named"] >= 300000
    mounts = {one["place"]: one for one in found["mounts"]}
    assert mounts["/scratch"]["type"] == "tmpfs" and mounts["/scratch"]["content_bytes"] > 3 * MIB
    assert mounts["/usr"]["read_only"] and mounts["/usr"]["outside"]


def test_criu_says_how_long_it_took(looked: tuple[Container, list[Facts]]) -> None:
    container, _ = looked
    found = torpor(container.machine, "inspect", "looked")
    assert found["generation"] == 2 and found["asleep"] is True
    assert not torpor(container.machine, "inspect", "looked", "--generation=1")["asleep"]
    status = container.status()
    frozen_s = status["frozen_s"]
    assert isinstance(frozen_s, float)
    assert 0 < found["times"]["memory_dump_s"] < frozen_s
    assert found["times"]["pages_written"] * PAGE > 34 * MIB
    assert found["facts"]["reason"] == "systemctl stop"
    kernel = container.machine.run("uname", "-r").stdout.strip()
    assert found["facts"]["kernel"] == kernel and found["facts"]["criu"]


def test_people_see_it_on_80_columns(looked: tuple[Container, list[Facts]]) -> None:
    machine = looked[0].machine
    for verb in (("inspect",), ("diff",), ("history",)):
        shown = machine.run(
            *("script", "-qec", f"stty cols 80; exec torpor {' '.join(verb)} looked", "/dev/null")
        ).stdout.splitlines()
        assert len(shown) > 5 and max(map(len, shown)) <= 80
    text = machine.run("torpor", "inspect", "looked").stdout
    assert " \\_ /usr/bin/python3 /program.py" in text
    assert "[python3] <defunct>" in text and "/program.py <stopped>" in text


def test_a_difference_is_what_the_program_did(looked: tuple[Container, list[Facts]]) -> None:
    machine = looked[0].machine
    found = torpor(machine, "diff", "looked", "1", "2")
    assert found == torpor(machine, "diff", "looked")
    one = next(process for process in found["processes"] if process["pid"] == 1)
    # The interpreter's own pages change beside those that were told to.
    assert 100 <= one["pages"]["changed"] < 100 + 2000
    assert one["pages"]["same"] >= 24 * MIB // PAGE - 100
    assert one["pages"]["new"] >= 10 * MIB // PAGE
    growth = one["memory_after_bytes"] - one["memory_before_bytes"]
    assert growth == (one["pages"]["new"] - one["pages"]["gone"]) * PAGE
    seen = [said["1"]["anon_bytes"] for said in looked[1]]
    assert abs(growth - (seen[1] - seen[0])) < MIB
    assert {"/tmp/late"} == {file["name"] for file in one["opened"]} - {""}
    assert {"/tmp/socket"} == {file["name"] for file in one["closed"]}
    changes = sorted(process["change"] for process in found["processes"])
    assert changes.count("came") == 1 and changes.count("went") == 1
    shared = next(each for each in found["shared_memory"] if each["name"] == "/dev/zero")
    assert shared["pages"] == {"same": 6 * MIB // PAGE - 7, "changed": 7, "new": 0, "gone": 0}
    assert found["mounted"] == [] and found["unmounted"] == []


# Makes the memory of a process one of a gigabyte, each page on its own; and makes it what it was.
ENLARGE = r"""
import os
from pycriu import images
for number in (1, 2):
    os.chdir(f"/var/lib/torpor/looked/generations/{number}/checkpoint")
    os.rename("pagemap-1.img", "kept")
    with open("kept", "rb") as file:
        head = images.load(file)["entries"][0]
    os.rename(f"pages-{head['pages_id']}.img", "kept-pages")
    one = {"compat_nr_pages": 0, "nr_pages": 1, "flags": 4}
    runs = [{"vaddr": at << 13, **one} for at in range(1 << 18)]
    with open("pagemap-1.img", "wb") as file:
        images.dump({"magic": "PAGEMAP", "entries": [head, *runs]}, file)
    with open(f"pages-{head['pages_id']}.img", "wb") as file:
        file.truncate(1 << 30)
"""
RESTORE = r"""
import os
from pycriu import images
for number in (1, 2):
    os.chdir(f"/var/lib/torpor/looked/generations/{number}/checkpoint")
    os.rename("kept", "pagemap-1.img")
    with open("pagemap-1.img", "rb") as file:
        os.rename("kept-pages", f"pages-{images.load(file)['entries'][0]['pages_id']}.img")
"""
PEAK = r"""
import resource, subprocess
subprocess.run(["torpor", "diff", "looked"], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_large_images_take_little_memory(looked: tuple[Container, list[Facts]]) -> None:
    machine = looked[0].machine
    machine.run("python3", "-c", ENLARGE, timeout=120)
    try:
        peak_kib = machine.run("python3", "-c", PEAK, timeout=120).stdout
    finally:
        machine.run("python3", "-c", RESTORE)
    assert int(peak_kib) < 100 << 10


def test_a_history_tells_what_became_of_it(looked: tuple[Container, list[Facts]]) -> None:
    container, _ = looked
    machine = container.machine
    found = json.loads(machine.run("torpor", "history", "--json", "looked").stdout)
    sleep = ["DUMPING", "COMMITTED", "READY"]
    assert [one["state"] for one in found] == [
        *("RUNNING", *sleep, "RESTORING", "CONSUMED", "RUNNING", *sleep)
    ]
    ready = found[3]
    assert ready["reason"] == "systemctl stop" and ready["generation"] == 1
    assert 0 < ready["frozen_s"] < ready["took_s"] + 1 and ready["size_bytes"] > 24 * MIB
    assert found[6]["took_s"] > 0 and found[6]["size_bytes"] == ready["size_bytes"]
    machine.run("sh", "-c", "printf 'since=1 state=REA' >>/var/lib/torpor/looked/history")
    done = machine.run("torpor", "history", "looked")
    assert "lines are not whole" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(found)


def test_what_is_not_there_is_said_in_a_line(looked: tuple[Container, list[Facts]]) -> None:
    machine = looked[0].machine
    for words, status in (
        (("inspect", "nobody"), 4),
        (("inspect", "looked", "--generation=7"), 4),
        (("diff", "looked", "1", "7"), 4),
        (("diff", "nobody"), 4),
        (("history", "nobody"), 4),
    ):
        done = machine.run("torpor", *words, check=False)
        assert done.returncode == status and not done.stdout
        assert len(done.stderr.splitlines()) == 2, done.stderr
    there = machine.run("python3", "-c", "import pycriu; print(pycriu.__path__[0])").stdout.strip()
    machine.run("mv", there, f"{there}.away")
    try:
        done = machine.run("torpor", "inspect", "looked", check=False)
    finally:
        machine.run("mv", f"{there}.away", there)
    assert done.returncode == 1 and "apt install python3-pycriu" in done.stderr


def test_damage_is_found_and_the_rest_is_shown(looked: tuple[Container, list[Facts]]) -> None:
    container, _ = looked
    machine = container.machine
    found = torpor(machine, "inspect", "looked")
    path = f"{found['path']}/checkpoint/pages-1.img"
    machine.run("python3", "-c", FLIP.format(path=path, at=5000))
    done = machine.run("torpor", "inspect", "--verify", "looked", check=False)
    machine.run("python3", "-c", FLIP.format(path=path, at=5000))
    assert done.returncode == 1 and "DAMAGED" in done.stdout
    assert "pages-1.img is damaged" in done.stderr and "Traceback" not in done.stderr


def test_no_damage_is_a_fault_of_ours(machine: Machine) -> None:
    """Each image of a small container, cut off, flipped, empty, missing or no file at all."""
    make_busybox(machine)
    container = Container(machine, "small")
    script = f"exec 5>/tmp/open; busybox nc -l -p 99 & {COUNTER}"
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script])
    try:
        container.start()
        container.stop()
        machine.write("/srv/look_damage.py", (HERE / "look_damage.py").read_text())
        directory = "/var/lib/torpor/small/generations/1"
        done = machine.run("python3", "/srv/look_damage.py", directory, timeout=120)
        found = json.loads(done.stdout)
        assert found["faults"] == []
        assert found["refused"] > 100 and found["read"] > 100
    finally:
        container.remove()


def test_a_cleaned_container_has_no_past(looked: tuple[Container, list[Facts]]) -> None:
    """Comes last: nothing is left of what the others look at."""
    container, _ = looked
    machine = container.machine
    machine.run("systemctl", "clean", "--what=state", container.unit)
    assert machine.run("torpor", "history", "looked").stdout == "looked: nothing is recorded yet\n"
