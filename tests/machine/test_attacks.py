"""Attacks by name: whatever a container is made of, holds or leaves, the host stays as it is.

Of the attacks in other files, those of test_hostile_rootfs.py lead links out of a root file system,
those of test_guest_hostile.py and test_systemd_hook.py those that systemd boots in, those of
test_damage.py change images, and those of tests/unit/test_hostile_input.py what is read and said.
"""

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from containers import Container, make_busybox
from cycle import LOOP, cycle, left, running, within
from machine import Machine

NAME = "attack"
ROOTFS = "/srv/attack"
CANARY = "/srv/canary"
HOOKS = "/usr/libexec/torpor/hooks"
LAYOUT = "/srv/attack-layout"
NETWORK = {"bridge": "attack0", "subnet": "10.94.0.0/24"}

MAKE = """
rm -rf "$1"; mkdir -p "$1/dir" "$1/bundle" /srv/harmless
for name in passwd hostname dir/file bundle/config.json; do echo secret >"$1/$name"; done
echo harmless >/srv/harmless/file
"""
# All that could have been changed: names, owners, modes, sizes, times, content, mounts, rules.
SEEN = """
find /etc "$1" \\( -path /etc/torpor -o -path /etc/systemd -o -path /etc/cni \\) -prune -o \\
    -printf '%p %i %n %U:%G %m %s %T@ %l\\n' | sort
find /etc "$1" \\( -path /etc/torpor -o -path /etc/systemd \\) -prune -o -type f -print0 |
    sort -z | xargs -0 sha256sum | sha256sum
find / -xdev -maxdepth 2 \\( -path /run/torpor -o -path '/proc/*' -o -path '/tmp/*' \\) -prune -o \\
    -printf '%p %y %m\\n' | grep -v -e ' /srv/attack' -e '^/srv/attack' | sort
find /dev -xdev -printf '%p %y %m %U:%G %l\\n' | grep -v -e '/dev/pts/' -e '/dev/fd/' | sort
cut -d' ' -f5 /proc/self/mountinfo |
    grep -v -e ^/run/torpor/ -e ^/run/credentials -e ^/proc/sys/fs/binfmt_misc | sort
ls /run/netns /var/lib/torpor 2>/dev/null | grep -v -e '^attack$' -e '^$'
nft list tables; find /sys/fs/cgroup -name '*attack*'
"""
ESCAPE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def seen(machine: Machine) -> list[str]:
    return machine.run("sh", "-c", SEEN, "sh", CANARY).stdout.splitlines()


@pytest.fixture(scope="module")
def host(machine: Machine) -> Iterator[list[str]]:
    """What is seen of the host; with a canary, of which torpor is told nothing."""
    machine.run("sh", "-ec", MAKE, "sh", CANARY)
    make_busybox(machine, ROOTFS)
    # What the first of all containers makes stays: /run/netns, what CRIU knows of the kernel.
    with running(machine, NAME, rootfs=ROOTFS, network=NETWORK) as first:
        cycle(first)
    machine.run("rm", "-rf", ROOTFS)
    yield seen(machine)
    machine.run("rm", "-rf", CANARY, "/srv/harmless")


@dataclass
class Attacked(Container):
    """A container with a root file system that is to be spoilt."""

    host: list[str] = field(default_factory=list)  # as it was before
    skipped: int = 0  # characters of its journal, from other tests

    def journal(self) -> str:
        return super().journal()[self.skipped :]

    def forget(self) -> None:
        self.remove()
        places = (ROOTFS, LAYOUT, "/var/lib/torpor/.images", "/var/lib/torpor/.volumes")
        self.machine.run("rm", "-rf", "--one-file-system", *places)

    def assert_untouched(self) -> None:
        """Nothing of it is left, and nothing else has changed."""
        self.forget()
        assert left(self) == ""
        assert seen(self.machine) == self.host


@pytest.fixture
def attacked(machine: Machine, host: list[str]) -> Iterator[Attacked]:
    make_busybox(machine, ROOTFS)
    container = Attacked(machine, NAME, host=host)
    container.skipped = len(container.journal())
    yield container
    container.forget()


def spring(container: Container, trap: str) -> None:
    """Run a script in the root file system; $1 is the canary."""
    container.machine.run("sh", "-ec", f'cd "$2"; {trap}', "sh", CANARY, ROOTFS)


def said(container: Container) -> str:
    """What torpor said since the last start: no line is forged, no sign moves a cursor."""
    text = container.journal()
    assert "Traceback" not in text and "own fault" not in text, text
    lines = [line for line in text.splitlines() if line.startswith((f"{NAME}: ", "  "))]
    assert not any(map(ESCAPE.search, lines)), lines
    return "\n".join(lines)


def attempt(container: Container) -> bool:
    """Start it and end it; whether it started."""
    started = container.systemctl("start", check=False) == 0
    if not started:
        assert said(container), "it failed without a word"
        assert left(container) == ""
    return started


HARMLESS = {
    "resolv-conf-and-hosts-are-links":
        'ln -s "$1/passwd" etc/resolv.conf; ln -s "$1/hostname" etc/hosts',
    "resolv-conf-and-hosts-climb":
        'ln -s ../../../../../..$1/new etc/resolv.conf; ln -s ../../../../..$1/hostname etc/hosts',
    "resolv-conf-and-hosts-are-hard-links":
        'ln "$1/passwd" etc/resolv.conf; ln "$1/hostname" etc/hosts; ln "$1/passwd" etc/hostname',
    "resolv-conf-is-a-pipe-and-hosts-a-device":
        "mkfifo etc/resolv.conf; mknod etc/hosts c 1 5; mkfifo etc/hostname",
    "resolv-conf-is-a-socket":
        "python3 -c \"import socket; socket.socket(1).bind('etc/resolv.conf')\"",
    "devices-in-dev":
        "mknod dev/null b 254 0; mkfifo dev/zero; mknod dev/tty c 1 1; ln -s /etc dev/shm",
    "links-in-dev": 'for n in fd stdin ptmx pts shm mqueue; do ln -s "$1" dev/$n; done',
    "a-mount-place-behind-a-link": 'ln -s "$1" mounted; ln -s ../../../../../../etc data',
    "a-mount-place-behind-two-links": 'ln -s data mounted; ln -s "$1" data',
    "names-that-are-options":
        "mkdir -p data/--help; touch -- data/-rf 'data/--reference=x' 'data/-t' data/--",
    "names-that-move-a-cursor":
        "mkdir data; touch \"data/$(printf 'a\\033[2Jb\\nc\\td\\377')\"",
    "setuid-files-and-devices-in-a-volume":
        'mkdir data; mknod data/kmem c 1 2; mknod data/disk b 254 0; cp /bin/sh data/sh; '
        'chmod 6755 data/sh; ln -s /etc/shadow data/shadow; ln "$1/passwd" data/hard',
    "a-volume-too-deep-to-walk":
        "mkdir data; cd data; for n in $(seq 900); do mkdir d; cd d; done",
}  # fmt: skip


@pytest.mark.parametrize("attack", HARMLESS)
def test_a_root_file_system_changes_nothing_of_the_host(attacked: Attacked, attack: str) -> None:
    spring(attacked, HARMLESS[attack])
    attacked.define(
        rootfs=ROOTFS, command=LOOP, volumes=["/data"], mounts=["/srv/harmless:/mounted"],
        network=NETWORK,
    )  # fmt: skip
    assert attempt(attacked), attacked.journal()
    assert within(attacked, "cat /mounted/file") == "harmless\n"
    attacked.assert_untouched()


REFUSED = {
    "sys-is-a-link": 'rmdir sys; ln -s "$1" sys',
    "proc-climbs": "rmdir proc; ln -s ../../../../../..$1 proc",
    "the-program-is-a-pipe": "rm bin/sh; mkfifo bin/sh",
    "the-program-is-a-device": "rm bin/sh; mknod bin/sh c 1 5",
    "the-program-is-outside": "ln -sf /usr/bin/busybox bin/sh",
    "passwd-is-a-hard-link": 'ln "$1/passwd" etc/passwd',
    "passwd-is-a-socket": "python3 -c \"import socket; socket.socket(1).bind('etc/passwd')\"",
    "resolv-conf-is-a-directory": "echo root:x:0:0::/:/bin/sh >etc/passwd; mkdir etc/resolv.conf",
    "a-volume-is-a-device": "echo root:x:0:0::/:/bin/sh >etc/passwd; mknod data c 1 5",
    "a-volume-is-a-pipe": "echo root:x:0:0::/:/bin/sh >etc/passwd; mkfifo data",
    "a-mount-place-is-a-file": "echo root:x:0:0::/:/bin/sh >etc/passwd; echo x >mounted",
}


@pytest.mark.parametrize("attack", REFUSED)
def test_what_cannot_be_used_is_refused(attacked: Attacked, attack: str) -> None:
    spring(attacked, REFUSED[attack])
    attacked.define(
        rootfs=ROOTFS, command=LOOP, user="root", volumes=["/data"], network=NETWORK,
        mounts=["/srv/harmless:/mounted"],
    )  # fmt: skip
    began_s = time.monotonic()
    assert not attempt(attacked)
    assert time.monotonic() - began_s < 20
    assert "secret" not in attacked.journal()
    attacked.assert_untouched()


KEYS: dict[str, dict[str, object]] = {
    "a-directory-of-runc-as-its-own": {"cwd": "/proc/self/fd/7"},
    "another-directory-of-runc": {"cwd": "/proc/self/fd/8"},
    "the-top-of-the-host-by-runc": {"cwd": "/proc/self/fd/3"},
    "a-mount-over-the-labels-in-proc": {"mounts": ["/srv/harmless:/proc/self/attr"]},
    "a-mount-over-proc": {"mounts": ["/srv/harmless:/proc"]},
    "a-mount-through-the-root-of-another": {"mounts": ["/srv/harmless:/proc/1/root/etc"]},
    "options-for-runc-as-a-program": {"command": ["--version"]},
    "nothing-as-a-program": {"command": [""]},
    "everything-as-a-program": {"command": ["/bin/\x1b[2J\u202e%n -rf"]},
    "a-directory-as-a-program": {"command": ["/"]},
    "a-namespace-that-is-a-file": {"namespaces": {"net": "/etc/passwd"}},
    "a-namespace-of-another-kind": {"namespaces": {"net": "/proc/1/ns/mnt"}},
    "a-bridge-that-is-another-link": {"network": {"bridge": "lo", "subnet": "10.94.0.0/24"}},
}


@pytest.mark.parametrize("attack", KEYS)
def test_a_value_that_would_lead_outside_does_not(attacked: Attacked, attack: str) -> None:
    attacked.define(**{"rootfs": ROOTFS, "command": LOOP, **KEYS[attack]})
    attempt(attacked)  # what leads to the container's own files may be run
    attacked.assert_untouched()


# Blanks, quotes, options, specifiers, separators of mount options and of mountinfo, escapes.
STRANGE = "-o ro,x=%n:\u00a0\u2028\\040'\" $(reboot);\x1b[2J\x85"
KINDS: dict[str, dict[str, object]] = {
    "rootfs": {},
    "rootfs-mapped": {"idmap": "0:100000:65536"},
    "image": {},
    "image-mapped": {"idmap": "0:100000:65536"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_with_everything_in_it_is_a_path(attacked: Attacked, kind: str) -> None:
    machine = attacked.machine
    place = f"{ROOTFS}/{STRANGE}"
    make_busybox(machine, place)
    machine.run("sh", "-ec", 'mkdir -p "$1/data"; echo strange >"$1/data/file"', "sh", place)
    mount = {"source": f"{place}/data", "destination": f"/{STRANGE}"}
    keys: dict[str, object] = {kind.partition("-")[0]: place, **KINDS[kind]}
    attacked.define(command=LOOP, volumes=["/data"], mounts=[mount], **keys)
    assert attempt(attacked), attacked.journal()
    assert within(attacked, "cat /data/file") == "strange\n"
    attacked.stop()
    assert attacked.state() == "READY", said(attacked)
    assert left(attacked) == ""
    attacked.start()
    assert within(attacked, "cat /data/file") == "strange\n"
    attacked.assert_untouched()


def test_a_path_that_criu_cannot_read_costs_its_own_container_a_sleep(attacked: Attacked) -> None:
    """CRIU takes a form feed for the end of a path. What is mounted is found by torpor."""
    place = f"{ROOTFS}/a\fb"
    make_busybox(attacked.machine, place)
    attacked.define(rootfs=place, command=LOOP, idmap="0:100000:65536", mounts=[f"{place}:/mnt"])
    attacked.start()
    attacked.stop()
    assert "cannot checkpoint: CRIU: " in said(attacked)
    assert attacked.property("Result") == "success"
    attacked.assert_untouched()


# Writes an OCI image layout whose layers hold what umoci is to unpack: KIND NAME WHERE, by layer.
LAYERS = """
import hashlib, io, json, os, sys, tarfile
top, said = sys.argv[1], json.loads(sys.argv[2])
os.makedirs(f"{top}/blobs/sha256")
def blob(content, kind):
    digest = hashlib.sha256(content).hexdigest()
    open(f"{top}/blobs/sha256/{digest}", "wb").write(content)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}",
            "size": len(content)}
def layer(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind, name, where in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = getattr(tarfile, kind), 0o6755
            content = b""
            if kind == "REGTYPE":
                content = open(where, "rb").read() if where else b"evil"
                info.size = len(content)
            elif kind in ("CHRTYPE", "BLKTYPE"):
                info.devmajor, info.devminor = map(int, where.split(":"))
            else:
                info.linkname = where
            tar.addfile(info, io.BytesIO(content))
    return blob(buffer.getvalue(), "layer.v1.tar"), hashlib.sha256(buffer.getvalue()).hexdigest()
shell = [["DIRTYPE", name, ""] for name in ("bin", "proc", "sys", "dev", "tmp", "etc")]
shell += [["REGTYPE", "bin/busybox", "/usr/bin/busybox"], ["SYMTYPE", "bin/sh", "busybox"],
          ["SYMTYPE", "bin/sleep", "busybox"]]
layers = [layer(entries) for entries in [shell, *said["layers"]]]
config = {"os": "linux", "architecture": "amd64", "config": said["config"], "rootfs":
          {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in layers]}}
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(json.dumps(config).encode(), "config.v1+json"),
            "layers": [one for one, _ in layers], "annotations": said["annotations"]}
one = blob(json.dumps(manifest).encode(), "manifest.v1+json")
one["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
open(f"{top}/index.json", "w").write(json.dumps({"schemaVersion": 2, "manifests": [one]}))
open(f"{top}/oci-layout", "w").write('{"imageLayoutVersion": "1.0.0"}')
"""
Entry = tuple[str, str, str]
IMAGES: dict[str, list[list[Entry]]] = {
    "an-absolute-path": [[("REGTYPE", f"{CANARY}/evil", "")]],
    "a-path-that-climbs": [[("REGTYPE", f"../../../../../../../..{CANARY}/evil", "")]],
    "a-path-that-climbs-late": [[("REGTYPE", f"bin/../../../../../../../..{CANARY}/evil", "")]],
    "a-file-behind-a-link": [[("SYMTYPE", "a", CANARY), ("REGTYPE", "a/evil", "")]],
    "a-file-behind-a-link-of-another-layer": [
        [("SYMTYPE", "a", f"../../../../../../..{CANARY}")],
        [("REGTYPE", "a/passwd", "")],
    ],
    "a-directory-that-becomes-a-link": [
        [("DIRTYPE", "a", ""), ("REGTYPE", "a/x", "")],
        [("SYMTYPE", "a", CANARY), ("REGTYPE", "a/passwd", "")],
    ],
    "a-hard-link-to-a-file-of-the-host": [[("LNKTYPE", "a", f"{CANARY}/passwd")]],
    "a-hard-link-that-climbs": [[("LNKTYPE", "a", f"../../../../../../..{CANARY}/passwd")]],
    "a-hard-link-behind-a-link": [
        [("SYMTYPE", "l", CANARY), ("LNKTYPE", "a", "l/passwd"), ("REGTYPE", "a", "")]
    ],
    "a-removal-of-what-is-above": [[("REGTYPE", ".wh...", "")]],
    "a-removal-of-what-is-above-a-directory": [[("REGTYPE", "bin/.wh...", "")]],
    "a-removal-behind-a-link": [[("SYMTYPE", "a", CANARY)], [("REGTYPE", "a/.wh.passwd", "")]],
    "an-emptying-behind-a-link": [[("SYMTYPE", "a", CANARY)], [("REGTYPE", "a/.wh..wh..opq", "")]],
    "a-disk-and-a-pipe": [[("BLKTYPE", "disk", "254:0"), ("FIFOTYPE", "etc/passwd", "")]],
    "links-where-torpor-mounts": [
        [("SYMTYPE", f"etc/{name}", f"{CANARY}/passwd") for name in ("resolv.conf", "hosts")],
        [("SYMTYPE", "data", CANARY), ("SYMTYPE", "run", "/etc")],
    ],
    "names-that-move-a-cursor": [[("REGTYPE", "\x1b[2J\nb", ""), ("REGTYPE", "--help", "")]],
}  # fmt: skip


def make_layout(
    container: Container,
    layers: list[list[Entry]],
    annotations: dict[str, str] | None = None,
    **config: object,
) -> None:
    words = {"layers": layers, "annotations": annotations or {}, "config": config}
    script = ("python3", "-c", LAYERS, LAYOUT, json.dumps(words))
    container.machine.run("rm", "-rf", LAYOUT)
    container.machine.run(*script)


@pytest.mark.parametrize("attack", IMAGES)
def test_a_layer_reaches_nothing_outside_of_its_image(attacked: Attacked, attack: str) -> None:
    make_layout(attacked, IMAGES[attack])
    attacked.define(image=f"oci:{LAYOUT}:v1", command=LOOP, volumes=["/data"])
    attempt(attacked)
    attacked.assert_untouched()


def test_what_a_layer_brings_is_for_root_alone(attacked: Attacked) -> None:
    machine = attacked.machine
    make_layout(attacked, [[("REGTYPE", "sh", "/bin/sh"), ("CHRTYPE", "mem", "1:1")]])
    attacked.define(image=f"oci:{LAYOUT}:v1", command=LOOP)
    attacked.start()
    look = ("setpriv", "--reuid=65534", "--clear-groups", "find", "/var/lib/torpor", "/run/torpor")
    listing = machine.run(*look, check=False)
    assert listing.returncode and "mem" not in listing.stdout
    attacked.assert_untouched()


def test_an_image_has_criu_run_nothing(attacked: Attacked) -> None:
    """An annotation of runc's names a configuration of CRIU's, which can name a script."""
    machine = attacked.machine
    machine.write("/srv/harmless/evil", f"#!/bin/sh\ntouch {CANARY}/ran\n", 0o755)
    machine.write("/srv/harmless/criu.conf", "action-script /srv/harmless/evil\n")
    make_layout(attacked, [], {"org.criu.config": "/srv/harmless/criu.conf", "from": "image"})
    attacked.define(image=f"oci:{LAYOUT}:v1", command=LOOP)
    attacked.start()
    attacked.stop()
    assert attacked.state() == "READY", said(attacked)
    attacked.start()
    config = json.loads(machine.read(f"/run/torpor/{NAME}/bundle/config.json"))
    assert config["annotations"]["from"] == "image"
    attacked.assert_untouched()


SHM = """
cd /dev/shm; busybox ln -s /etc/passwd link; busybox mkfifo pipe; busybox mknod mem c 1 1
busybox mkdir -p -- --help ../shm/deep/er; echo x >"$(busybox printf 'a\\033[2Jb\\nc\\\\d')"
echo x >'--checkpoint-action=exec=busybox touch evil'; echo x >--checkpoint=1; echo x >-I
busybox cp /bin/busybox su; busybox chmod 6755 su; busybox ln su hard
busybox truncate -s 1T sparse; busybox ln -s ../../../../etc up; busybox touch ..x
busybox mkdir -p data/etc; busybox chmod 0 data
"""
LIST = "cd /dev/shm && busybox find . -exec busybox stat -c '%n %f %s %u:%g %h' {} + | busybox sort"


def test_what_is_in_dev_shm_comes_back_and_goes_nowhere_else(attacked: Attacked) -> None:
    machine = attacked.machine
    attacked.define(rootfs=ROOTFS, command=LOOP)
    attacked.start()
    within(attacked, SHM)
    listing = within(attacked, LIST)
    assert listing.count("\n") > 15
    attacked.stop()
    assert attacked.state() == "READY", said(attacked)
    size = machine.run("stat", "-c", "%b", f"/var/lib/torpor/{NAME}/generations/1/shm.tar").stdout
    assert int(size) < 20_000  # blocks of 512 bytes
    attacked.start()
    assert within(attacked, LIST) == listing
    attacked.assert_untouched()


def test_cgroups_in_cgroups_in_cgroups_end_in_order(attacked: Attacked) -> None:
    """More than Python recurses. Whether CRIU can save them or not, nothing is left of them."""
    nested = "/".join("a" * 1010)
    script = f"busybox mkdir -p /sys/fs/cgroup/{nested} && echo nested; {LOOP[-1]}"
    command = ["/bin/sh", "-c", script]
    attacked.machine.run("mkdir", "-p", f"{ROOTFS}/run", f"{ROOTFS}/var/log")
    attacked.define(rootfs=ROOTFS, command=command, systemd="always")
    attacked.start()
    _until(attacked, "nested")
    attacked.stop()
    words = said(attacked)
    assert "asleep: generation 1" in words or "will start fresh" in words
    assert attacked.property("Result") == "success"
    attacked.assert_untouched()


def _until(container: Container, words: str, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while words not in container.journal():
        assert time.monotonic() < deadline_s, container.journal()
        time.sleep(0.1)


def test_a_name_that_criu_complains_of_forges_no_line(attacked: Attacked) -> None:
    """It is the container's, of a file whose mount is gone."""
    machine = attacked.machine
    name = "x\\033[2J\\033]0;owned\\007\\n(9.9) Error (a): b\\nattack: restored"
    script = f"exec 5>\"/out/$(busybox printf '{name}')\"; {LOOP[-1]}"
    command = ["/bin/sh", "-c", script]
    machine.run("mkdir", "-p", "/srv/harmless/out")
    attacked.define(rootfs=ROOTFS, command=command, mounts=["/srv/harmless/out:/out"])
    attacked.start()
    time.sleep(0.5)
    pid = attacked.property("MainPID")
    machine.run("nsenter", "-t", pid, "-m", "/bin/busybox", "umount", "-l", "/out")
    attacked.stop()
    words = said(attacked)
    assert "cannot checkpoint: CRIU: " in words and "path=/x\\x1b[2J" in words, words
    assert "attack: restored" not in attacked.journal().splitlines()
    assert not ESCAPE.search(machine.run("torpor", "status", NAME).stdout)
    machine.run("rm", "-r", "/srv/harmless/out")
    attacked.assert_untouched()


STATES: dict[str, str] = {
    "cut-short": '{"id": "attack", "status": "crea',
    "nothing": "",
    "deep": "[" * 100_000,
    "a-name-that-climbs":
        '{"id":"../../../srv/canary/evil","status":"creating","pid":PID,"bundle":"BUNDLE"}',
    "a-name-that-forges":
        '{"id":"a\\n<0>b\\u001b[2J","status":"creating","pid":PID,"bundle":"BUNDLE"}',
    "a-long-name": '{"id":"' + "x" * 5000 + '","status":"creating","pid":PID,"bundle":"BUNDLE"}',
    "the-hosts-init": '{"id":"attack","status":"stopped","pid":1,"bundle":"BUNDLE"}',
    "a-process-that-is-gone": '{"id":"attack","status":"stopped","pid":4194303,"bundle":"BUNDLE"}',
    "a-bundle-that-is-gone": '{"id":"attack","status":"creating","pid":PID,"bundle":"/srv/gone"}',
    "a-bundle-with-a-nul": '{"id":"attack","status":"creating","pid":PID,"bundle":"/srv/\\u0000"}',
    "a-bundle-of-half-a-pair": '{"id":"attack","status":"creating","pid":PID,"bundle":"/\\ud800"}',
}  # fmt: skip
ANNOTATIONS = {
    "io.torpor.slice": "../../evil.slice",
    "io.torpor.systemd": "true",
    "io.torpor.network": "{bridge: '-x', subnet: 10.94.0.0/24}",
}
CALL = """
sleep 60 & pid=$!
for hook in create-runtime cgroup network systemd poststop; do
    sed "s/PID/$pid/; s,BUNDLE,/srv/canary/bundle," "$1" | timeout 20 "$0/$hook"; echo "$hook $?"
done
kill $pid
"""


@pytest.mark.parametrize("attack", STATES)
def test_a_state_that_no_runtime_gave_has_no_effect(attacked: Attacked, attack: str) -> None:
    machine = attacked.machine
    state = STATES[attack]
    if state.endswith("}"):
        state = f'{state[:-1]},"annotations":{json.dumps(ANNOTATIONS)}}}'
    machine.write("/srv/harmless/state", state)
    done = machine.run("sh", "-c", CALL, HOOKS, "/srv/harmless/state")
    ended = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    # Who is not called for what it does lets others go on; the poststop hook always does.
    assert ended["poststop"] == "0" and {*ended.values()} <= {"0", "1"}, done.stdout
    assert "1" in ended.values()
    assert "Traceback" not in done.stderr and "own fault" not in done.stderr, done.stderr
    assert not ESCAPE.search(done.stderr) and "\n<0>" not in done.stderr
    machine.run("rm", "-rf", f"/var/lib/torpor/{NAME}")
    attacked.assert_untouched()


PLANTED = {
    "a-link-where-a-record-is-made": 'ln -s "$1/passwd" state.new',
    "a-hard-link-where-a-record-is-made": 'ln "$1/passwd" state.new',
    "a-pipe-where-a-record-is-made": "mkfifo state.new",
    "a-generation-of-no-number": 'mkdir "generations/$(printf "\\302\\262")" generations/1_0',
    "a-generation-that-is-a-link": 'ln -s "$1" generations/0; ln -s "$1" generations/99',
    "a-link-aside": 'ln -s "$1" aside',
    "names-that-move-a-cursor":
        "touch \"$(printf '\\033[2J\\n')\" \"generations/$(printf '\\377')\"",
    "a-link-for-a-run-directory": 'ln -s "$1" /run/torpor/attack',
    "links-in-the-run-directory":
        'mkdir /run/torpor/attack; cd /run/torpor/attack; ln -s "$1/bundle" bundle; '
        'for n in files sources ns notify shm rootfs image; do ln -s "$1/dir" $n; done',
    "files-in-the-run-directory":
        'mkdir /run/torpor/attack; cd /run/torpor/attack; ln -s "$1/passwd" plan; mkfifo pump; '
        'ln -s "$1/passwd" runc.log; ln -s "$1/passwd" pid; ln -s "$1/passwd" criu.conf',
    "a-pipe-for-the-last-rendering": "rm inputs; mkfifo inputs",
    "a-link-for-the-last-rendering": 'rm inputs; ln -s "$1/passwd" inputs',
    "a-log-that-is-a-link": 'ln -sf "$1/passwd" last-restore.log; ln -sf "$1/passwd" last-dump.log',
}  # fmt: skip


@pytest.mark.parametrize("attack", PLANTED)
def test_what_is_planted_where_records_are_costs_nothing(attacked: Attacked, attack: str) -> None:
    """It wakes or starts fresh, sleeps again, and is forgotten."""
    machine = attacked.machine
    attacked.define(rootfs=ROOTFS, command=LOOP, checkpoint={"keep-logs": "yes"})
    attacked.start()
    attacked.stop()
    script = f"cd /var/lib/torpor/{NAME}; {PLANTED[attack]}"
    machine.run("sh", "-ec", script, "sh", CANARY)
    attacked.start()
    assert attacked.property("StatusText").startswith(("restored", "started fresh"))
    attacked.stop()
    assert attacked.state() == "READY", said(attacked)
    machine.run("torpor", "discard", NAME)
    said(attacked)
    machine.run("rm", "-rf", f"/var/lib/torpor/{NAME}")  # with the hard link
    attacked.assert_untouched()


SWAP = """
cd "$1"
while :; do
    for name in $2; do
        mv -T $name .$name; ln -s /srv/canary $name; sleep 0.001; rm $name; mv -T .$name $name
    done
done 2>/dev/null
"""


@contextmanager
def swapping(machine: Machine, names: str) -> Iterator[None]:
    """Each of these directories of the root file system is a link every other moment."""
    unit = "race-for-links"
    racer = machine.popen("sh", "-c", SWAP, "sh", ROOTFS, names, unit=unit)
    try:
        yield
    finally:
        machine.run("systemctl", "kill", "--signal=KILL", unit)
        racer.communicate()


@pytest.mark.parametrize("kind", ["rootfs", "image"])
def test_a_directory_that_becomes_a_link_at_any_moment(attacked: Attacked, kind: str) -> None:
    """As another container with the same files could do. Whether it starts is a matter of luck."""
    machine = attacked.machine
    spring(attacked, "mkdir data mounted; echo x >data/x; echo root:x:0:0::/:/bin/sh >etc/passwd")
    attacked.define(
        command=LOOP, user="root", volumes=["/data"], mounts=["/srv/harmless:/mounted/a"],
        **{kind: ROOTFS},
    )  # fmt: skip
    with swapping(machine, "etc data mounted tmp"):
        for _ in range(12):
            attacked.systemctl("start", check=False)
            attacked.systemctl("stop", check=False)
            machine.run("rm", "-rf", f"/var/lib/torpor/{NAME}")
            assert seen(machine) == attacked.host
    assert "secret" not in said(attacked)
    attacked.assert_untouched()


def test_a_configuration_of_50_megabytes_is_refused(attacked: Attacked) -> None:
    machine = attacked.machine
    make = "cd $1; runc spec; head -c 50000000 /dev/zero | tr '\\0' ' ' >>config.json"
    machine.run("sh", "-ec", f"mkdir {ROOTFS}/b; {make.replace('$1', ROOTFS + '/b')}")
    for keys in (
        {"bundle": f"{ROOTFS}/b"},
        {"rootfs": ROOTFS, "seccomp": f"{ROOTFS}/b/config.json"},
    ):
        attacked.define(command=LOOP, **keys)
        assert not attempt(attacked)
        assert "config.json" in said(attacked)
    words = f"cd {ROOTFS}/b; torpor hooks list . 2>&1 | head -c 2000"
    assert "larger than" in machine.run("sh", "-c", words).stdout


def test_a_definition_of_50_megabytes_costs_no_other_its_limits(attacked: Attacked) -> None:
    machine = attacked.machine
    attacked.define(rootfs=ROOTFS, command=LOOP, resources={"cpu-weight": 77})
    machine.run("sh", "-c", "head -c 50000000 /dev/zero >/etc/torpor/attack-large.yaml")
    machine.run("mkfifo", "/etc/torpor/attack-pipe.yaml")
    machine.run("ln", "-s", "/dev/zero", "/etc/torpor/attack-endless.yaml")
    strange = shlex.quote("attack\n[Service]\nExecStartPre=%n.yaml")
    machine.run("sh", "-c", f"touch /etc/torpor/{strange}")
    try:
        machine.run("systemctl", "daemon-reload", timeout=30)
        assert attacked.property("CPUWeight") == "77"
        units = machine.run("ls", "/run/systemd/generator").stdout
        assert "attack-large" not in units and "ExecStartPre" not in units
    finally:
        machine.run("sh", "-c", "rm -f /etc/torpor/attack-* /etc/torpor/attack?*Service*")
