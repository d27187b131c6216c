"""Who may read what a container leaves on the host, and what its unit and helpers may do."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import BUSYBOX, Container, make_bundle, make_busybox
from cycle import running, within
from machine import Machine

MANUAL = Path(__file__).resolve().parents[2] / "packaging/man/torpor@.service.8.md"
MARK = "/run/fault"
FIRST_ID = 100000
HELD_STOPS = ["frozen", "post-dump", "sealed", "ready"]
HELD_STARTS = ["restoring", "setup-namespaces", "post-restore", "restored", "awake"]
# While these hold a container with mapped ids, its root reads its images.
ADMITTED = ["setup-namespaces", "post-restore", "restored"]
# CRIU measured its time, with the mask with which runc makes mount points.
WITH_STATISTICS = ["restored"]

# All that is said of a container. What CRIU measures is no text.
SAY = r"""
journalctl --sync; journalctl --boot --all --output=json --unit="torpor@$1"
cat "/var/lib/torpor/$1"/last-*.log "/run/torpor/$1/runc.log"
cat "/var/lib/torpor/$1"/generations/*/work/* | tr -cd '[:print:]\n'
torpor status "$1"; torpor status --json "$1"; systemctl show "torpor@$1"; systemctl cat "torpor@$1"
systemctl status --full "torpor@$1"; runc state "$1"; runc list --format json
"""
# What is only in the container's environment, memory and /dev/shm. The halves are joined there.
TOKENS = {"env": "env-7f3a9c51", "memory": "memory-7f3a9c51", "shm": "shm-7f3a9c51"}
HOLDER = """
half=7f3a9c51; kept=memory-$half; echo shm-$half >/dev/shm/secret
while :; do sleep 0.1; : $kept; done
"""

WAIT = "until [ -s /run/fault ]; do sleep 0.02; done"
GO_ON = """
read point helper </run/fault; kill -CONT "$helper"
while systemctl is-active "$1" | grep -q ing; do sleep 0.05; done
"""
# Kind, mode, owner, group and path of all that root finds in the durable state, but for the places
# where CRIU mounts the host's cgroups and measures its time.
LIST = r"""
find /var/lib/torpor/"$1" -name '.criu.cgyard.*' -prune -o -printf '%y %m %U %G %p\n'
"""
# What somebody else can list or read: the state directory's parent, and nothing in it.
READABLE = """
cd /; exec setpriv --reuid "$1" --regid "$1" --clear-groups \\
    find /run/torpor /run/runc /var/lib/torpor -readable -print 2>/dev/null
"""
# Looks at everything all the time until a file is there, and says what was ever open to others.
WATCHER = """
import json, os, stat, sys

def entries(path):
    try:
        with os.scandir(path) as found:
            for entry in found:
                if entry.name.startswith(".criu.cgyard."):
                    continue  # CRIU mounts the host's cgroups there
                yield entry.path, entry.stat(follow_symlinks=False).st_mode
                if entry.is_dir(follow_symlinks=False):
                    yield from entries(entry.path)
    except OSError:
        pass  # it is gone again

place, end = sys.argv[1:]
seen = {}
print("watching", flush=True)
while not os.path.exists(end):
    seen |= {path: f"{mode:o}" for path, mode in entries(place) if mode & 0o077}
print(json.dumps(seen))
"""
# In front of a program: what it can do besides its work. Its last argument is where it writes.
TRAITOR = """#!/bin/sh
for last; do :; done
while read -r line; do case $line in CapEff:* | CapBnd:* | NoNewPrivs:*) echo $line ;; esac; done \\
    </proc/self/status >"${last%/rootfs}/report"
{
    cat /etc/shadow && echo READ
    ls /root && echo LISTED
    echo evil >/srv/evil && echo WRITTEN
    mount -t tmpfs evil /mnt && echo MOUNTED
} >>"${last%/rootfs}/report" 2>/dev/null
exec /usr/bin/PROGRAM "$@"
"""
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP: numbers of capabilities(7)
ABOUT_FILES = sum(1 << number for number in (0, 1, 3, 4, 21, 27, 31))
# A caller's environment and directory with modules and programs that leave a trace.
LURE = """
mkdir -p /srv/lure/torpor/commands /srv/lure/torpor/hooks && cd /srv/lure
for name in os gc json sitecustomize usercustomize torpor/__init__ torpor/commands/start; do
    echo 'open("/run/lured", "a").write(__name__ + chr(10))' >$name.py
done
for name in runc criu tar systemctl; do
    printf '#!/bin/sh\\necho %s >>/run/lured\\n' $name >$name; chmod 755 $name
done
export PYTHONPATH=/srv/lure PYTHONSTARTUP=/srv/lure/os.py PATH=.:lure:$PATH
export PYTHONUSERBASE=/srv/lure PYTHONINSPECT= PYTHONBREAKPOINT=os.open
for program in /usr/libexec/torpor/start /usr/libexec/torpor/stop /usr/libexec/torpor/settle \\
    /usr/libexec/torpor/network /usr/libexec/torpor/hooks/*; do
    echo '{}' | "$program" no/name >/dev/null 2>&1
done
torpor status >/dev/null; torpor doctor >/dev/null; torpor hooks list /srv/lure >/dev/null 2>&1
cat /run/lured 2>/dev/null
"""


@pytest.fixture(scope="module", autouse=True)
def busybox(machine: Machine) -> str:
    return make_busybox(machine)


@pytest.fixture(params=["plain", "mapped"])
def holder(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Container]:
    """A running container with secrets; ids are mapped, or not."""
    name = f"rights-{request.param}"
    keys: dict[str, object] = {"rootfs": BUSYBOX}
    if request.param == "mapped":
        bundle = make_bundle(machine, "/srv/rights-bundle", BUSYBOX)
        keys = {"bundle": bundle, "idmap": f"0:{FIRST_ID}:65536"}
    with running(
        machine,
        name,
        command=["/bin/sh", "-c", HOLDER],
        env={"SECRET": TOKENS["env"]},
        checkpoint={"keep": "2", "keep-logs": "yes"},
        **keys,
    ) as container:
        time.sleep(0.3)
        yield container


def is_mapped(container: Container) -> bool:
    return container.name.endswith("mapped")


def hold(container: Container, verb: str, moment: str) -> None:
    """Run a verb of systemctl until its helper stops itself at that moment."""
    machine = container.machine
    machine.run("rm", "-f", MARK)
    environment = f'"TORPOR_FAULT={moment}=stop" "TORPOR_FAULT_FILE={MARK}"'
    drop_in = container.drop_in("fault", f"Environment={environment}")
    machine.run("systemctl", verb, "--no-block", container.unit)
    machine.run("timeout", "20", "sh", "-c", WAIT)
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")


def go_on(container: Container) -> None:
    container.machine.run("timeout", "60", "sh", "-c", GO_ON, "sh", container.unit)


def open_to_others(container: Container) -> dict[str, str]:
    """Mode and group of what is not root's alone."""
    listed = container.machine.run("sh", "-c", LIST, "sh", container.name).stdout
    found = {}
    for line in listed.splitlines():
        kind, mode, uid, gid, path = line.split(" ", 4)
        if (kind, mode, uid, gid) not in (("d", "700", "0", "0"), ("f", "600", "0", "0")):
            found[path.removeprefix(f"/var/lib/torpor/{container.name}/")] = f"{mode} {uid}:{gid}"
    return found


def readable(machine: Machine, uid: int) -> list[str]:
    return machine.run("sh", "-c", READABLE, "sh", str(uid), check=False).stdout.split()


def assert_closed(container: Container, moment: str) -> None:
    found = open_to_others(container)
    if moment in WITH_STATISTICS:
        found.pop(next((path for path in found if path.endswith("/stats-restore")), ""), "")
    if moment in ADMITTED and is_mapped(container):
        assert found
        for path, how in found.items():
            assert re.search("/(checkpoint|work)(/|$)", path), (moment, path)
            assert how in (f"750 0:{FIRST_ID}", f"640 0:{FIRST_ID}"), (moment, path, how)
    else:
        assert found == {}, moment
    # Through a directory of mode 0700 not even the container's own root gets to them.
    for uid in (65534, FIRST_ID):
        read = readable(container.machine, uid)
        mine = [path for path in read if path.startswith(f"/run/torpor/{container.name}/")]
        if uid == FIRST_ID and is_mapped(container):
            # What the container has mounted: its own /dev/shm, names, and bind sources.
            assert all(re.search("/(shm|files|sources|rootfs|pid|runc)", path) for path in mine)
            read = [path for path in read if path not in mine]
        # systemd makes that with the unit's state directory, or we with the first record in it.
        assert read in ([], ["/var/lib/torpor"]), (moment, uid)


def test_nobody_else_reads_any_of_it_at_any_moment(holder: Container) -> None:
    for moment in HELD_STOPS:
        hold(holder, "stop", moment)
        assert_closed(holder, moment)
        go_on(holder)
        assert holder.state() == "READY", holder.journal()
        holder.start()
    assert_closed(holder, "running")
    for moment in HELD_STARTS:
        holder.stop()
        assert_closed(holder, "asleep")
        hold(holder, "start", moment)
        assert_closed(holder, moment)
        go_on(holder)
        assert holder.property("StatusText").startswith("restored"), holder.journal()
        assert open_to_others(holder) == {}


def test_nothing_in_the_state_directory_is_open_to_others_for_a_moment(holder: Container) -> None:
    machine = holder.machine
    machine.run("rm", "-f", "/run/seen-enough")
    place = f"/var/lib/torpor/{holder.name}"
    watcher = machine.popen("python3", "-c", WATCHER, place, "/run/seen-enough")
    assert watcher.stdout and watcher.stdout.readline() == "watching\n"
    for _ in range(3):
        holder.stop()
        holder.start()
    holder.stop()
    machine.run("touch", "/run/seen-enough")
    said, complaints = watcher.communicate(timeout=20)
    assert not complaints
    seen = json.loads(said)
    for path, mode in seen.items():
        is_image = re.search("/(checkpoint|work)(/|$)", path) is not None
        admitted = is_mapped(holder) and is_image and mode in ("40750", "100640")
        assert admitted or path.endswith("/work/stats-restore"), (path, mode)
    assert open_to_others(holder) == {}


def test_images_that_a_killed_restore_left_open_are_shut(machine: Machine) -> None:
    bundle = make_bundle(machine, "/srv/rights-bundle", BUSYBOX)
    with running(machine, "shut-mapped", bundle=bundle, idmap=f"0:{FIRST_ID}:65536") as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        container.stop()
        hold(container, "start", "setup-namespaces")
        assert open_to_others(container)
        machine.run("sh", "-c", 'read point helper </run/fault; kill -9 "$helper"')
        machine.run("timeout", "60", "sh", "-c", GO_ON, "sh", container.unit, check=False)
        assert container.state() in ("READY", "RESTORING")
        assert open_to_others(container) == {}


def test_secrets_stay_out_of_logs_and_records(holder: Container) -> None:
    machine = holder.machine
    drop_in = holder.drop_in("fault", "Environment=TORPOR_FAULT=sealed=fail")
    holder.stop()  # the dump is rolled back, and its log is kept
    logs = machine.run("cat", f"/var/lib/torpor/{holder.name}/last-dump.log").stdout
    assert "Dumping FAILED" in logs
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")
    holder.start()
    time.sleep(0.3)
    for _ in range(2):
        holder.stop()
        holder.start()
    said = logs + machine.run("sh", "-c", SAY, "sh", holder.name).stdout
    assert "Restore finished successfully" in said
    assert f'"name": "{holder.name}"' in said
    for where, token in TOKENS.items():
        assert token not in said, where
        # It is where it must be: in what root alone can read.
        kept = f"/var/lib/torpor/{holder.name}/generations"
        assert machine.run("grep", "-rlaF", "-e", token, kept).stdout, where


def test_what_a_container_sees_is_made_for_everybody_whatever_the_mask(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/masked")
    machine.run("mkdir", "-p", "/srv/masked-source")
    seen = "stat -c '%a %n' /mnt /mnt/deep /etc/hostname /etc/hosts; umask"
    with running(
        machine, "masked", rootfs=rootfs, mounts=["/srv/masked-source:/mnt/deep/place"]
    ) as container:
        for _ in range(2):
            said = within(container, seen)
            assert said.split()[:4] == ["755", "/mnt", "755", "/mnt/deep"], said
            assert "644 /etc/hostname" in said
            assert within(container, "grep Umask /proc/1/status").split()[-1] == "0022"
            container.stop()
            machine.run("rm", "-r", f"{rootfs}/mnt")  # so that the wake makes it again
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
    machine.run("rm", "-r", rootfs, "/srv/masked-source")


def report_of(said: str) -> tuple[set[int], str]:
    """The capabilities in it, and all that is said besides."""
    lines = said.splitlines()
    capabilities = {int(line.split()[1], 16) for line in lines if line.startswith("Cap")}
    return capabilities, " ".join(line for line in lines if not line.startswith("Cap"))


@pytest.fixture
def traitor(machine: Machine) -> Iterator[None]:
    for program in ("cp", "umoci"):
        script = TRAITOR.replace("PROGRAM", program)
        machine.write(f"/usr/local/sbin/{program}", script, mode=0o755)
    yield
    machine.run("sh", "-c", "rm -f /usr/local/sbin/cp /usr/local/sbin/umoci /srv/evil")


def test_what_copies_out_of_a_rootfs_reaches_nothing_else(machine: Machine, traitor: None) -> None:
    rootfs = make_busybox(machine, "/srv/copied")
    machine.run("sh", "-c", f"mkdir {rootfs}/data && echo seed >{rootfs}/data/file")
    with running(machine, "copied", rootfs=rootfs, volumes=["/data"]) as container:
        assert within(container, "cat /data/file") == "seed\n"
        assert report_of(within(container, "cat /data/report")) == ({ABOUT_FILES}, "NoNewPrivs: 1")
    machine.run("rm", "-r", rootfs)


def test_what_unpacks_an_image_reaches_nothing_else(machine: Machine, traitor: None) -> None:
    real = "/usr/bin/umoci"
    machine.run(
        "sh", "-ec", f"{real} init --layout /srv/unpacked; {real} new --image /srv/unpacked:v1"
    )
    machine.run(real, "unpack", "--image", "/srv/unpacked:v1", "/srv/unpacked-bundle")
    machine.run("sh", "-c", "cp -a /srv/busybox/. /srv/unpacked-bundle/rootfs/")
    machine.run(real, "repack", "--image", "/srv/unpacked:v1", "/srv/unpacked-bundle")
    with running(machine, "unpacked", image="oci:/srv/unpacked:v1") as container:
        # Of the directories that no layer names, too.
        assert within(container, "stat -c %a /bin /etc").split() == ["755", "755"]
        said = machine.run("sh", "-c", "cat /var/lib/torpor/.images/*/report").stdout
        assert report_of(said) == ({ABOUT_FILES}, "NoNewPrivs: 1")
    machine.run("sh", "-c", "rm -rf /srv/unpacked* /var/lib/torpor/.images")


def test_nothing_is_loaded_or_run_because_of_the_callers_environment(machine: Machine) -> None:
    machine.run("rm", "-f", "/run/lured")
    assert machine.run("sh", "-c", LURE, check=False).stdout == ""
    machine.run("sh", "-c", "rm -rf /srv/lure /run/lured")


def test_the_unit_is_as_hardened_as_its_manual_says_and_says_why_not_more(
    machine: Machine,
) -> None:
    manual = MANUAL.read_text()
    said = machine.run("systemd-analyze", "security", "--no-pager", "torpor@x.service").stdout
    score = re.search(r"Overall exposure level for torpor@x.service: ([0-9]+\.[0-9])", said)
    promised = re.search(r"exposure level of ([0-9]+\.[0-9])", manual)
    assert score and promised
    assert score[1] == promised[1]
    asked = ("systemd-analyze", "security", "--no-pager", "--json=short", "torpor@x.service")
    rows = json.loads(machine.run(*asked).stdout)
    open_ones = {row["name"].partition("=")[0] for row in rows if row["set"] is False}
    assert open_ones
    table = [line.split("|")[1] for line in manual.splitlines() if line.startswith("| `")]
    assert {name for name in open_ones if not any(f"`{name}=`" in row for row in table)} == set()


def test_what_the_manual_lets_people_choose_holds(machine: Machine) -> None:
    _, _, chosen = MANUAL.read_text().partition("      [Service]\n")
    lines = chosen.partition("\n\n")[0].splitlines()
    assert len(lines) > 3
    with running(machine, "chosen", rootfs=BUSYBOX) as container:
        container.drop_in("chosen", "\n".join(line.strip() for line in lines))
        container.stop()
        container.start()
        assert container.property("StatusText").startswith("restored"), container.journal()
        assert container.property("NoNewPrivileges") == "yes"
