"""The systemd hook in containers that runc, crun and podman run, of images that may be hostile.

Each row of the table in torpor-hooks(7), "COMPARED WITH oci-systemd-hook", names the test here that
shows it.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import guest
from containers import make_busybox
from machine import Machine
from torpor import systemd_mode

HOOK = "/usr/libexec/torpor/hooks/systemd"
KEY = "io.torpor.systemd"
IMAGE = "localhost/guest:1"
RUNTIMES = ("runc", "crun")
ID = "hooked"
BUNDLE = f"/srv/{ID}"
ROOTFS = f"{BUNDLE}/rootfs"
CANARY = "/srv/canary"
RECORDED = "0123456789abcdef0123456789abcdef"
HOST_ID = 100000
MAPPING = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]
PLACES = ("/run", "/run/lock", "/tmp", "/var/log/journal", "/sys/fs/cgroup")

SETTLED = """
for _ in $(seq 200); do
    state=$(systemctl is-system-running 2>/dev/null)
    case $state in running|degraded) break;; esac
    sleep 0.1
done
echo $state; systemctl --failed --no-legend
"""
# All of the host that a container could have changed; podman's own storage is not looked at.
SEEN = """
find /etc /srv/canary /tmp /var/tmp /run/lock /var/log/journal \\
    -xdev -printf '%p %U:%G %m %s %l\\n' |
    grep -v -e /etc/containers -e /intermediate-mountpoint -e '/journal/.*journal' \\
        -e /systemd-private- | sort
find /etc /srv/canary -xdev -type f -exec sha256sum {} + | sort
findmnt -rno TARGET,FSTYPE,FS-OPTIONS |
    grep -v -e /run/credentials -e binfmt_misc -e ^/dev/ -e ^/var/lib/containers/ | sort
"""
PREPARE = f"""
mkdir -p /etc/containers
printf '[containers]\\npids_limit = 0\\n' >/etc/containers/containers.conf
# libsubid, with which newer ones are built, looks for the user too.
id -u containers >/dev/null 2>&1 || useradd --system containers
for file in /etc/subuid /etc/subgid; do
    grep -q ^containers: $file || echo containers:100000:1000000 >>$file
done
podman image exists {IMAGE} ||
    tar -C {guest.PLACE} --exclude='./dev/*' -c . | podman import - {IMAGE}
"""
# What a runtime's process finds on a host with version 1 controllers; $1: beside them v2.
LEGACY = """
umount --lazy /sys/fs/cgroup
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for kind in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir /sys/fs/cgroup/$kind; mount -t cgroup -o $kind cgroup /sys/fs/cgroup/$kind || exit 77
done
mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd || exit 77
[ "$1" = legacy ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
own=/sys/fs/cgroup/systemd/torpor-hook-test
mkdir $own; echo $$ >$own/cgroup.procs
shift; "$@"; status=$?
echo $$ >$own/../cgroup.procs; rmdir $own; exit $status
"""
# conmon, which podman leaves behind, must outlive the call, and keeps what it was given open.
CALL = """
systemd-run --quiet --scope --collect "$@" </dev/null >/run/podman.log 2>&1
status=$?; cat /run/podman.log; exit $status
"""
LABELS = """
import os, sys
for path in sys.argv[1:]:
    for name in os.listxattr(path, follow_symlinks=False):
        print(path, name, os.getxattr(path, name, follow_symlinks=False))
"""
SWAP = """
cd "$1"; ln -s /etc link
while :; do mv tmp real; mv link tmp; mv tmp link; mv real tmp; done
"""

Change = Callable[[dict[str, Any]], None]


def seen(machine: Machine) -> list[str]:
    return machine.run("sh", "-c", SEEN).stdout.splitlines()


@pytest.fixture
def host(machine: Machine) -> Iterator[Machine]:
    """A machine on which, in the end, nothing has changed."""
    machine.run("sh", "-ec", f"mkdir -p {CANARY}/dir; echo secret >{CANARY}/file")
    before = seen(machine)
    yield machine
    assert seen(machine) == before
    machine.run("rm", "-rf", CANARY)


def in_journal(machine: Machine, began: str) -> str:
    """What torpor wrote there since: crun shows nothing of what a hook says."""
    script = f"journalctl --sync; journalctl --identifier=torpor --since=@{began} --output=cat"
    return machine.run("sh", "-c", script).stdout


class Podman:
    """Podman's containers of the guest's image, one at a time, with either runtime."""

    def __init__(self, machine: Machine, runtime: str) -> None:
        self.machine = machine
        self.runtime = runtime

    def start(self, *options: str, annotation: str = "true") -> str:
        """What it says against running the container; nothing when it runs."""
        asked = ("--annotation", f"{KEY}={annotation}") if annotation else ()
        words = ("--detach", f"--name={ID}", "--network=none", "--stop-signal=37", *asked, *options)
        command = ("podman", "--runtime", self.runtime, "run", *words, IMAGE, "/sbin/init")
        done = self.machine.run("sh", "-c", CALL, "sh", *command, check=False)
        return done.stdout if done.returncode else ""

    def refusal(self, *options: str) -> str:
        """What it and the hook have against the container; they must have something."""
        began = self.machine.run("date", "+%s.%N").stdout.strip()
        said = self.start(*options)
        assert said
        return said if self.runtime == "runc" else said + in_journal(self.machine, began)

    def shell(self, script: str, *, check: bool = True) -> str:
        return self.machine.run(
            "podman", "exec", ID, "/bin/sh", "-c", script, check=check
        ).stdout.strip()

    def mounts(self) -> dict[str, list[str]]:
        """Place → the fields of the topmost mount there (proc_pid_mountinfo(5))."""
        lines = self.shell("cat /proc/1/mountinfo").splitlines()
        return {line.split()[4]: line.split() for line in lines}

    def remove(self) -> None:
        self.machine.run("podman", "rm", "--force", "--time=5", ID, check=False)


@pytest.fixture(params=RUNTIMES)
def podman(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Podman]:
    machine.run("sh", "-ec", PREPARE, timeout=300)
    machine.run("mkdir", "-p", CANARY)
    # So that what podman mounts for itself, once, is there before.
    machine.run("podman", "run", "--rm", "--network=none", IMAGE, "true")
    before = seen(machine)
    made = Podman(machine, request.param)
    yield made
    made.remove()
    assert seen(machine) == before
    machine.run("rm", "-rf", CANARY)


WITHOUT_PODMANS = "--systemd=false"  # podman then mounts nothing for systemd


def test_it_boots_and_ends(podman: Podman) -> None:
    assert podman.start(WITHOUT_PODMANS) == ""
    assert podman.shell(SETTLED) == "running"
    assert podman.shell("systemctl show -P DefaultMemoryPressureWatch") == "no"
    podman.machine.run("podman", "stop", "--time=20", ID)
    end = ("podman", "inspect", "--format={{.State.ExitCode}}", ID)
    assert podman.machine.run(*end).stdout.strip() == "0"


def test_without_the_hook_it_does_not(podman: Podman) -> None:
    podman.start(WITHOUT_PODMANS, annotation="false")
    assert podman.shell(SETTLED, check=False) not in ("running", "degraded")


def test_cgroup_v2(podman: Podman) -> None:
    """Its own cgroup alone is mounted, writable, and nothing of the host's."""
    assert podman.start(WITHOUT_PODMANS) == ""
    fields = podman.mounts()["/sys/fs/cgroup"]
    assert fields[fields.index("-") + 1] == "cgroup2" and fields[3] == "/"
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(fields[5].split(","))
    assert podman.shell(SETTLED) == "running"
    assert "init.scope" in podman.shell("ls /sys/fs/cgroup")
    assert "torpor.slice" not in podman.shell("ls /sys/fs/cgroup")


def test_without_a_cgroup_of_its_own_it_is_refused(podman: Podman) -> None:
    refusal = podman.refusal(WITHOUT_PODMANS, "--cgroupns=host")
    assert "it has no cgroup namespace of its own: systemd would be given" in refusal
    if podman.runtime == "crun":  # podman has no other runtime do without cgroups
        podman.remove()
        alone = ("--cgroups=disabled", "--cgroupns=private")
        assert "it has no cgroup of its own, but is in /" in podman.refusal(WITHOUT_PODMANS, *alone)


def test_user_namespace(podman: Podman) -> None:
    """Its root owns what was mounted and the cgroup, and has none of the host's rights to it."""
    assert podman.start(WITHOUT_PODMANS, "--userns=auto:size=65536") == ""
    assert podman.shell(SETTLED) == "running"
    owners = podman.shell("stat -c %u /run /run/lock /tmp /var/log/journal /sys/fs/cgroup")
    assert set(owners.split()) == {"0"}
    pid = podman.machine.run("podman", "inspect", "--format={{.State.Pid}}", ID).stdout.strip()
    assert podman.machine.read(f"/proc/{pid}/uid_map").split()[1] != "0"


def test_read_only(podman: Podman) -> None:
    """A read-only root file system: systemd finds an id, and where to write."""
    assert podman.start(WITHOUT_PODMANS, "--read-only", "--read-only-tmpfs=false") == ""
    assert podman.shell(SETTLED) == "running"
    assert "ro" in podman.mounts()["/"][5].split(",")
    assert re.fullmatch("[0-9a-f]{32}", podman.shell("cat /etc/machine-id"))
    mounts = podman.mounts()
    assert mounts["/etc/machine-id"][5].startswith("ro,")
    state = mounts["/var/lib/systemd"]
    assert state[state.index("-") + 1] == "tmpfs" and "rw" in state[5].split(",")
    assert "new" in podman.shell("touch /var/lib/systemd/new; ls /var/lib/systemd").split()


def test_mounts_of_the_user(podman: Podman) -> None:
    """In the places, below and above them, and as read-only as was asked for."""
    podman.machine.run("sh", "-c", f"mkdir -p {CANARY}/lib; echo kept >{CANARY}/file")
    where = ("/run/below:ro", "/tmp/below/deep", "/var/log", "/runner")
    volumes = [word for place in where for word in ("--volume", f"{CANARY}:{place}")]
    before = seen(podman.machine)
    assert podman.start(WITHOUT_PODMANS, "--tmpfs=/tmp:size=7m", *volumes) == ""
    for place in ("/run/below", "/tmp/below/deep", "/var/log", "/runner"):
        assert podman.shell(f"cat {place}/file") == "kept"
    assert "size=7168k" in podman.mounts()["/tmp"][-1]
    assert podman.shell("touch /run/below/new 2>&1; echo $?").endswith("1")
    assert podman.shell("test -s /run/.containerenv || test -e /run/.containerenv; echo $?") == "0"
    mounts = podman.mounts()
    assert "/var/log/journal" not in mounts and "/run/lock" in mounts
    podman.remove()
    podman.machine.run("sh", "-c", f"find {CANARY} -mindepth 1 ! -name file ! -name lib -delete")
    assert [line for line in seen(podman.machine) if CANARY not in line] == [
        line for line in before if CANARY not in line
    ]
    podman.machine.run("rm", "-rf", f"{CANARY}/lib", f"{CANARY}/file")


def test_what_the_engine_did(podman: Podman) -> None:
    """podman --systemd=always does all of it by itself: nothing is added."""
    assert podman.start("--systemd=always", annotation="") == ""
    alone = {place: fields[5:] for place, fields in podman.mounts().items()}
    podman.remove()
    assert podman.start("--systemd=always") == ""
    assert podman.shell(SETTLED) == "running"
    both = {place: fields[5:] for place, fields in podman.mounts().items()}
    assert set(both) == set(alone)
    assert all(both[place][0] == alone[place][0] for place in PLACES)
    assert podman.shell("ls /run/systemd/system/service.d 2>/dev/null; true") == ""


def test_by_command(podman: Podman) -> None:
    """The file that is disabled, enabled as torpor-hooks(7) says."""
    file = "oci/hooks.d/50-torpor-systemd-command.json"
    enable = "mkdir -p $(dirname $2); grep -v '\"always\"' $1 >$2"
    places = (f"/usr/share/containers/{file}", f"/etc/containers/{file}")
    podman.start(WITHOUT_PODMANS, annotation="")
    assert podman.shell(SETTLED, check=False) not in ("running", "degraded")
    podman.remove()
    podman.machine.run("sh", "-ec", enable, "sh", *places)
    directories = [place.rpartition("/")[0] for place in places]
    conf = "/etc/containers/containers.conf.d/hooks.conf"
    podman.machine.write(conf, f"[engine]\nhooks_dir = {json.dumps(directories)}\n")
    try:
        assert podman.start(WITHOUT_PODMANS, annotation="") == ""
        assert podman.shell(SETTLED) == "running"
    finally:
        podman.machine.run("rm", "-r", "/etc/containers/oci", conf)


def test_a_place_in_a_shared_volume_is_refused(podman: Podman) -> None:
    """What is mounted there would be mounted on the host too."""
    podman.machine.run("mkdir", "-p", f"{CANARY}/shared/lock")
    volume = f"{CANARY}/shared:/run:rshared"
    assert "is in a shared mount" in podman.refusal(WITHOUT_PODMANS, "--volume", volume)
    podman.remove()
    podman.machine.run("rm", "-rf", f"{CANARY}/shared")


class Bundle:
    """A bundle of a busybox, and the one container that a runtime makes of it."""

    def __init__(self, machine: Machine, runtime: str = "runc") -> None:
        self.machine = machine
        self.runtime = runtime
        make_busybox(machine, ROOTFS)
        machine.run("runc", "spec", "--bundle", BUNDLE)
        self.change(self._make_plain)
        machine.run("torpor", "hooks", "add", "--systemd", BUNDLE)
        self.change(self._without_records)

    @staticmethod
    def _make_plain(config: dict[str, Any]) -> None:
        config["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", "true"]}
        config["root"]["readonly"] = False
        config["linux"]["cgroupsPath"] = f"/{ID}"

    @staticmethod
    def _without_records(config: dict[str, Any]) -> None:
        hooks = config["hooks"]
        del hooks["poststop"]
        entries = hooks["createRuntime"]
        hooks["createRuntime"] = [entry for entry in entries if entry["path"] == HOOK]

    def change(self, change: Change) -> None:
        config = json.loads(self.machine.read(f"{BUNDLE}/config.json"))
        change(config)
        self.machine.write(f"{BUNDLE}/config.json", json.dumps(config))

    def within(self, script: str) -> None:
        """Let a shell of the host change the root file system."""
        self.machine.run("sh", "-ec", f'cd "$1"; {script}', "sh", ROOTFS)

    def command(self, script: str) -> list[str]:
        def change(config: dict[str, Any]) -> None:
            config["process"]["args"] = ["/bin/busybox", "sh", "-c", script]

        self.change(change)
        return self.run_command

    @property
    def run_command(self) -> list[str]:
        return [self.runtime, "run", "--bundle", BUNDLE, ID]

    def run(self, script: str) -> str:
        """What a shell says as the container's program. Raises CommandFailed."""
        return self.machine.run(*self.command(script)).stdout

    def refusal(self) -> str:
        """What the runtime and the hook have against the container; it must have something."""
        began = self.machine.run("date", "+%s.%N").stdout.strip()
        done = self.machine.run(*self.command("echo ran"), check=False)
        assert done.returncode and "ran" not in done.stdout
        said = done.stderr + done.stdout
        return said if self.runtime == "runc" else said + in_journal(self.machine, began)

    def remove(self) -> None:
        self.machine.run(self.runtime, "delete", "--force", ID, check=False)
        self.machine.run("rm", "-rf", BUNDLE)


@pytest.fixture(params=RUNTIMES)
def bundle(host: Machine, request: pytest.FixtureRequest) -> Iterator[Bundle]:
    made = Bundle(host, request.param)
    yield made
    made.remove()


def read_only(config: dict[str, Any]) -> None:
    config["root"]["readonly"] = True


def without_sys(config: dict[str, Any]) -> None:
    """The container's cgroups then lie on its own root file system."""
    config["mounts"] = [
        one for one in config["mounts"] if not one["destination"].startswith("/sys")
    ]
    config["linux"].pop("maskedPaths")
    config["linux"].pop("readonlyPaths")


def mount_options(listing: str) -> dict[str, set[str]]:
    return {line.split()[4]: set(line.split()[5].split(",")) for line in listing.splitlines()}


def test_places_are_mounted_as_systemd_itself_would(bundle: Bundle) -> None:
    options = mount_options(bundle.run("cat /proc/self/mountinfo"))
    assert {"rw", "nosuid", "nodev"} <= options["/run"] and "noexec" not in options["/run"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= options["/run/lock"]
    assert {"rw", "nosuid", "nodev"} <= options["/tmp"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= options["/var/log/journal"]
    assert "rw" in options["/sys/fs/cgroup"]
    assert "/etc/machine-id" not in options  # systemd writes its own


def test_a_cgroup_tree_of_the_user_is_kept(bundle: Bundle) -> None:
    """Read-only as it is: systemd does not boot in it, and nothing is mounted over it."""

    def bind(config: dict[str, Any]) -> None:
        for mount in config["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                options = ["rbind", "ro"]
                mount |= {"type": "bind", "source": "/sys/fs/cgroup", "options": options}

    bundle.change(bind)
    lines = bundle.run("cat /proc/self/mountinfo").splitlines()
    (line,) = (line for line in lines if line.split()[4] == "/sys/fs/cgroup")
    assert "ro" in line.split()[5].split(",")


def test_opting_out(bundle: Bundle) -> None:
    """The annotation alone, for one container, whatever its command."""

    def mounted(annotation: str) -> dict[str, set[str]]:
        def change(config: dict[str, Any]) -> None:
            # systemd by its name, and not there.
            look = "/opt/systemd 2>/dev/null || cat /proc/self/mountinfo"
            config["process"]["args"] = ["/bin/sh", "-c", look]
            config["annotations"] = {KEY: annotation} if annotation else {}

        bundle.change(change)
        return mount_options(bundle.machine.run(*bundle.run_command).stdout)

    assert set(PLACES) <= set(mounted(""))
    options = mounted("false")
    assert set(PLACES) & set(options) == {"/sys/fs/cgroup"}
    assert "ro" in options["/sys/fs/cgroup"]


def test_copied(bundle: Bundle) -> None:
    """What the image has in the places is there, with owner, mode and kind."""
    bundle.within("""
        mkdir -p run/dir run/lock tmp/dir var/log/journal; echo run >run/dir/file
        echo lock >run/lock/file; echo tmp >tmp/dir/file; echo journal >var/log/journal/file
        ln -s /etc/shadow tmp/link; mkfifo tmp/fifo; chmod 777 tmp/dir
        chown 5:6 tmp/dir tmp/dir/file; chmod 4715 tmp/dir/file
    """)
    said = bundle.run(
        "cat /run/dir/file /run/lock/file /tmp/dir/file /var/log/journal/file;"
        "busybox stat -c %u:%g:%a /tmp/dir/file; busybox readlink /tmp/link; test -p /tmp/fifo && "
        "echo new >/tmp/dir/new"
    )
    assert said.split() == ["run", "lock", "tmp", "journal", "5:6:4715", "/etc/shadow"]
    assert bundle.machine.run("ls", f"{ROOTFS}/tmp/dir").stdout == "file\n"


@pytest.mark.parametrize("is_read_only", [True, False])
def test_machine_id(bundle: Bundle, is_read_only: bool) -> None:
    """Never clobbered."""
    bundle.within(f"echo {RECORDED} >etc/machine-id")
    if is_read_only:
        bundle.change(read_only)
    assert bundle.run("cat /etc/machine-id") == f"{RECORDED}\n"
    assert bundle.machine.read(f"{ROOTFS}/etc/machine-id") == f"{RECORDED}\n"


@pytest.mark.parametrize("before", ["", "uninitialized\n", None])
def test_a_missing_machine_id_is_given_where_it_cannot_be_written(
    bundle: Bundle, before: str | None
) -> None:
    bundle.change(read_only)
    bundle.within("mkdir run; echo stale >run/machine-id")
    if before is not None:
        bundle.machine.write(f"{ROOTFS}/etc/machine-id", before)
    first = bundle.run("cat /etc/machine-id").strip()
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert bundle.run("cat /etc/machine-id").strip() == first
    assert bundle.machine.read(f"{ROOTFS}/etc/machine-id") == (before or "")

    def tell(config: dict[str, Any]) -> None:
        config["process"]["env"].append("container_uuid=01234567-89ab-cdef-0123-456789abcdef")

    bundle.change(tell)
    assert bundle.run("cat /etc/machine-id").strip() == RECORDED


def test_a_root_file_system_that_is_read_only_on_the_disk(bundle: Bundle) -> None:
    bundle.within("mkdir -p run tmp; : >etc/machine-id; rm -rf var")  # and so no /var/log/journal
    machine = bundle.machine
    copy = f"mv {ROOTFS} {ROOTFS}.copy; mkdir {ROOTFS}; mount -t tmpfs tmpfs {ROOTFS}"
    seal = f"cp -a {ROOTFS}.copy/. {ROOTFS}; mount -o remount,ro {ROOTFS}"
    machine.run("sh", "-ec", f"{copy}; {seal}")
    try:
        said = bundle.run("cat /proc/self/mountinfo; cat /etc/machine-id")
    finally:
        machine.run("umount", ROOTFS)
    assert " /var/log/journal " not in said and " /tmp " in said
    assert re.fullmatch("[0-9a-f]{32}", said.splitlines()[-1])


def map_root(config: dict[str, Any]) -> None:
    linux = config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux |= {"uidMappings": MAPPING, "gidMappings": MAPPING}


def test_a_root_that_is_an_ordinary_user_of_the_host_makes_cgroups(bundle: Bundle) -> None:
    machine = bundle.machine
    machine.run("chown", "-hR", f"{HOST_ID}:{HOST_ID}", ROOTFS)
    machine.run("chmod", "711", "/srv", BUNDLE)
    bundle.change(map_root)
    bundle.change(read_only)
    script = (
        "busybox mkdir /sys/fs/cgroup/inner && echo >/run/new && cat /etc/machine-id && ls -n /"
    )
    assert re.match("[0-9a-f]{32}\n", bundle.run(script))


@contextmanager
def swapping(machine: Machine) -> Iterator[None]:
    """/tmp of the root file system is a link to the host's /etc every other moment."""
    unit = "hook-race"
    process = machine.popen("sh", "-c", SWAP, "sh", ROOTFS, unit=unit)
    try:
        yield
    finally:
        machine.run("systemctl", "kill", "--signal=KILL", unit)
        process.communicate()


def test_a_directory_that_becomes_a_link_at_any_moment_leads_nowhere(bundle: Bundle) -> None:
    before = seen(bundle.machine)
    with swapping(bundle.machine):
        for _ in range(12):
            done = bundle.machine.run(*bundle.command("echo ran"), check=False)
            assert seen(bundle.machine) == before, done.stderr


TRAPS = {
    "link": 'rm -rf ".$1"; ln -s /etc ".$1"',
    "link-to-canary": f'rm -rf ".$1"; ln -s {CANARY}/dir ".$1"',
    "link-upwards": f'rm -rf ".$1"; ln -s ../../../../../../../..{CANARY}/dir ".$1"',
    "link-to-nothing": f'rm -rf ".$1"; ln -s {CANARY}/new ".$1"',
    "link-to-itself": 'rm -rf ".$1"; ln -s "$1" ".$1"',
    "file": 'rm -rf ".$1"; echo x >".$1"',
    "fifo": 'rm -rf ".$1"; mkfifo ".$1"',
}


def spring(bundle: Bundle, trap: str, place: str) -> None:
    script = f'cd "$2"; mkdir -p ".$(dirname "$1")" etc; {trap}'
    bundle.machine.run("sh", "-ec", script, "sh", place, ROOTFS)


WITH_TRAPS = pytest.mark.parametrize(
    ("bundle", "trap"),
    [*(("runc", trap) for trap in TRAPS), ("crun", "link-to-canary")],
    indirect=["bundle"],
)


@pytest.mark.parametrize("place", ["/run", "/tmp", "/var/log/journal", "/sys/fs/cgroup"])
@WITH_TRAPS
def test_links(bundle: Bundle, trap: str, place: str) -> None:
    """Nothing leads anywhere that is no directory: it is refused. The fixture compares the host."""
    bundle.change(without_sys)
    spring(bundle, TRAPS[trap], place)
    refusal = bundle.refusal()
    assert f"{place} in the container: " in refusal
    assert ("Make it a directory." in refusal) == (bundle.runtime == "runc")
    assert "Traceback" not in refusal


@pytest.mark.parametrize("place", ["/run", "/tmp", "/var/log/journal", "/sys/fs/cgroup"])
def test_what_is_missing_is_made(bundle: Bundle, place: str) -> None:
    bundle.change(without_sys)
    spring(bundle, 'rm -rf ".$1"', place)
    assert place in mount_options(bundle.run("cat /proc/self/mountinfo"))


def test_a_link_above_a_place_is_one_inside(bundle: Bundle) -> None:
    bundle.within(f"rm -rf var; ln -s {CANARY} var")
    assert "/var/log/journal in the container: No such file" in bundle.refusal()
    bundle.within(f"mkdir -p .{CANARY}")
    options = mount_options(bundle.run("cat /proc/self/mountinfo"))
    assert f"{CANARY}/log/journal" in options


@WITH_TRAPS
def test_a_machine_id_that_is_none_is_refused(bundle: Bundle, trap: str) -> None:
    bundle.change(read_only)
    spring(bundle, TRAPS[trap].replace(" /etc ", " /etc/shadow "), "/etc/machine-id")
    assert "/etc/machine-id in the container" in bundle.refusal()


def test_a_failure_in_the_middle_leaves_nothing(bundle: Bundle) -> None:
    bundle.within("mkdir -p var/log; echo x >var/log/journal")  # behind /run and /tmp
    assert "/var/log/journal in the container: it is not a directory" in bundle.refusal()
    listing = bundle.machine.run("sh", "-c", "ls -d /sys/fs/cgroup/*; cat /proc/mounts").stdout
    assert ID not in listing


def test_more_than_a_tmpfs_takes_is_refused(bundle: Bundle) -> None:
    bundle.within("mkdir -p run; truncate -s 1T run/sparse")
    assert "/run of the image holds more than the tmpfs takes" in bundle.refusal()


def listing(machine: Machine, words: str) -> str:
    return machine.run("sh", "-c", f"find {ROOTFS} {words} | sort").stdout


def test_left_behind(bundle: Bundle) -> None:
    """Of what is missing, empty places to mount on, as a runtime makes them. The fixture compares
    the host.
    """
    machine = bundle.machine
    bundle.within("rm -rf run tmp var")
    bundle.change(read_only)  # so that an id is mounted too
    before = listing(machine, "-printf '%p %y %U:%G %m\\n'").splitlines()
    bundle.run("echo 1 >/run/a; echo 2 >/tmp/b; echo 3 >/var/log/journal/c; cat /etc/machine-id")
    after = listing(machine, "-printf '%p %y %U:%G %m\\n'").splitlines()
    assert set(before) <= set(after)
    directories = ["run", "tmp", "var", "var/log", "var/log/journal"]
    directories += ["var/lib", "var/lib/systemd"]
    made = [f"{ROOTFS}/{place} d 0:0 755" for place in directories]
    made.append(f"{ROOTFS}/etc/machine-id f 0:0 644")
    assert set(after) - set(before) == set(made)
    assert listing(machine, "-name machine-id -empty") == f"{ROOTFS}/etc/machine-id\n"
    bundle.run("echo 1 >/run/a")
    assert listing(machine, "-printf '%p %y %U:%G %m\\n'").splitlines() == after


def test_labels(bundle: Bundle) -> None:
    """Owners, modes and extended attributes of the image stay, which hold SELinux's labels too."""
    machine = bundle.machine
    bundle.within("mkdir -p run tmp var/log/journal; chown 5:6 tmp; chmod 1770 tmp")
    mark = "import os, sys; os.setxattr(sys.argv[1], 'trusted.mark', b'of its author')"
    for place in ("run", "tmp", "var/log/journal"):
        machine.run("python3", "-c", mark, f"{ROOTFS}/{place}")
    labels = f"-printf '%p %U:%G %m\\n' -exec python3 -c '{LABELS}' {{}} +"
    before = listing(machine, labels)
    assert before.count("of its author") == 3
    bundle.run("echo 1 >/run/a; echo 2 >/tmp/b; echo 3 >/var/log/journal/c")
    assert listing(machine, labels) == before


@pytest.mark.parametrize("kind", ["legacy", "hybrid"])
def test_cgroup_v1(bundle: Bundle, kind: str) -> None:
    """Its own directory of name=systemd is writable. No systemd that boots so was tried."""
    script = (
        "cat /sys/fs/cgroup/systemd/cgroup.procs >/dev/null;"
        "busybox mkdir /sys/fs/cgroup/systemd/inner && busybox rmdir /sys/fs/cgroup/systemd/inner;"
        "cat /proc/self/mountinfo"
    )
    command = shlex.join(bundle.command(script))
    words = ("unshare", "--mount", "--propagation=private", "sh", "-c", LEGACY, "sh", kind)
    done = bundle.machine.run(*words, "sh", "-c", command, check=False)
    if done.returncode == 77:
        pytest.skip("this host has no cgroup v1")
    assert not done.returncode, done.stderr
    options = mount_options("\n".join(done.stdout.splitlines()))
    assert {"rw", "nosuid", "nodev", "noexec"} <= options["/sys/fs/cgroup/systemd"]


def test_a_restored_container_keeps_what_it_had(host: Machine) -> None:
    bundle = Bundle(host)
    bundle.change(read_only)
    try:
        script = "busybox cat /etc/machine-id >/run/seen; while :; do busybox usleep 50000; done"
        command = bundle.command(script)
        quiet = "</dev/null >/dev/null 2>&1"
        bundle.machine.run("sh", "-c", f"{shlex.join([*command[:2], '-d', *command[2:]])} {quiet}")
        image = f"--image-path {BUNDLE}/image --work-path {BUNDLE}/work"
        host.run("sh", "-ec", f"sleep 0.3; runc checkpoint {image} {ID} {quiet}")
        host.run("sh", "-ec", f"runc restore -d {image} --bundle {BUNDLE} {ID} {quiet}")
        execute = ("runc", "exec", ID, "/bin/busybox")
        assert host.run(*execute, "cmp", "/run/seen", "/etc/machine-id").stdout == ""
        listing = host.run(*execute, "cat", "/proc/self/mountinfo").stdout
        assert listing.count(" /run ") == 1
    finally:
        bundle.remove()


def told(**keys: object) -> str:
    state = {"ociVersion": "1.0", "id": ID, "status": "creating", "pid": 1, "bundle": BUNDLE}
    return json.dumps(state | {"annotations": {KEY: "true"}} | keys)


BAD_STATES = {
    "cut-short": (told()[:-9], "it is not whole JSON"),
    "empty": ("", "it is not whole JSON"),
    "pid-of-the-hosts-init": (told(), "is in the host's mount namespace"),
    "pid-of-nobody": (told(pid=4194303), "there is no process 4194303"),
    "no-pid": (told(pid=0), "the container has no process"),
    "bundle-is-gone": (told(bundle="/srv/gone"), "/srv/gone/config.json: cannot read"),
    "bundle-is-a-file": (told(bundle="/etc/passwd"), "cannot read the bundle: Not a directory"),
    "neither-true-nor-false": (told(annotations={KEY: "yes"}), "must be true or false"),
}


def call(machine: Machine, state: str) -> str:
    """What the hook says against a state."""
    done = machine.run(HOOK, input=state, check=False)
    first, *hints = done.stderr.splitlines()
    assert done.returncode and all(hint.startswith("  ") for hint in hints)
    return str(first)


@pytest.mark.parametrize("bad", BAD_STATES)
def test_a_bad_state_is_one_message(host: Machine, bad: str) -> None:
    bundle = Bundle(host)
    try:
        assert BAD_STATES[bad][1] in call(host, BAD_STATES[bad][0])
    finally:
        bundle.remove()


def test_a_process_that_is_no_container_is_left_alone(host: Machine) -> None:
    """One in mount and pid namespaces of its own, that sees the bundle too."""
    bundle = Bundle(host)
    unit = "hook-bystander"
    words = ("unshare", "--mount", "--fork", "--kill-child", "sleep", "600")
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sleep", "600")
    try:
        for number, (command, why) in enumerate(
            [(words, "is not PID 1 of a pid namespace"), (alone, "does not have")]
        ):
            name = f"{unit}-{number}"
            host.run("systemd-run", "--quiet", f"--unit={name}", *command)
            script = (
                f"until pgrep -P $(systemctl show -P MainPID {name}) -x sleep; do sleep .1; done"
            )
            pid = int(host.run("timeout", "10", "sh", "-c", script).stdout)
            before = host.read(f"/proc/{pid}/mountinfo")
            assert why in call(host, told(pid=pid))
            assert host.read(f"/proc/{pid}/mountinfo") == before
            host.run("systemctl", "kill", "--signal=KILL", name)
    finally:
        bundle.remove()


BAD_CONFIGS = {
    "50 MB of JSON": ("head -c 50000000 /dev/zero | tr '\\0' ' ' >>", "larger than"),
    "cut short": ("printf '{' >", "is not JSON"),
}


@pytest.mark.parametrize("bad", BAD_CONFIGS)
def test_a_config_that_is_none_is_one_message(host: Machine, bad: str) -> None:
    script, why = BAD_CONFIGS[bad]
    bundle = Bundle(host)
    try:
        host.run("sh", "-c", f"{script} {BUNDLE}/config.json")
        said = call(host, told())
        assert f"{BUNDLE}/config.json: " in said and why in said
    finally:
        bundle.remove()


SYSTEM = "/srv/system"
EXAMPLE = Path(__file__).parents[2] / "packaging/man/torpor-hooks.7.md"
PLAIN_RUNC = {**dict(systemd_mode.NO_WATCHES), "container": "runc"}
RIGHTS = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETPCAP", "SETUID")


@pytest.fixture
def system(host: Machine) -> Iterator[Machine]:
    """A bundle as `runc spec` makes it, of a Debian whose command is init."""
    make = f"""
        mkdir -p {SYSTEM}/upper {SYSTEM}/work {SYSTEM}/rootfs; cd {SYSTEM}; runc spec
        mount -t overlay -o lowerdir={guest.PLACE},upperdir=upper,workdir=work overlay rootfs
    """
    host.run("sh", "-ec", make)
    config = json.loads(host.read(f"{SYSTEM}/config.json"))
    rights = [f"CAP_{name}" for name in RIGHTS]
    config["process"] |= {"terminal": False, "args": ["/sbin/init"]}
    config["process"]["env"] += [f"{name}={value}" for name, value in PLAIN_RUNC.items()]
    config["process"]["capabilities"] |= {
        kind: rights for kind in ("bounding", "effective", "permitted")
    }
    config["process"]["capabilities"].pop("ambient", None)
    config["root"]["readonly"] = False
    host.write(f"{SYSTEM}/config.json", json.dumps(config))
    yield host
    clean = f"runc delete --force system; umount {SYSTEM}/rootfs; rm -rf {SYSTEM}"
    host.run("sh", "-c", clean, check=False)


def example(command: str) -> str:
    """The line of the manual page that begins so, of the example with /srv/system."""
    text = EXAMPLE.read_text().partition("systemd in a container, with runc and")[2]
    (line,) = (line.strip() for line in text.splitlines() if line.strip().startswith(command))
    return line


def typed(machine: Machine, line: str) -> None:
    """What a container is left with must not be a pipe of the test."""
    machine.run("sh", "-c", 'sh -c "$1" </dev/null >/run/typed.log 2>&1', "sh", line)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_plain_runc_boots_and_ends_as_the_manual_says(system: Machine, is_read_only: bool) -> None:
    if is_read_only:
        config = json.loads(system.read(f"{SYSTEM}/config.json"))
        read_only(config)
        system.write(f"{SYSTEM}/config.json", json.dumps(config))
    typed(system, example("torpor hooks add"))
    typed(system, example("runc run"))
    assert system.run("runc", "exec", "system", "/bin/sh", "-c", SETTLED).stdout == "running\n"
    listing = system.run("runc", "exec", "system", "cat", "/proc/1/mountinfo").stdout
    assert set(PLACES) <= set(mount_options(listing))
    assert ("/etc/machine-id" in mount_options(listing)) == is_read_only
    typed(system, example("runc kill"))
    ended = "until runc list | grep -q '^system .* stopped '; do sleep 0.1; done"
    system.run("timeout", "20", "sh", "-c", ended)
