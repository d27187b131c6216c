"""What a container's root file system holds leads nowhere out of it, whatever it is."""

import time
from collections.abc import Iterator

import pytest

from containers import Container, make_busybox
from cycle import LOOP, cycle, left, within
from machine import Machine

ROOTFS = "/srv/hostile"
CANARY = "/srv/canary"
NAME = "hostile"
ROOT = "echo root:x:0:0::/:/bin/sh >etc/passwd"

MAKE = """
rm -rf "$1"; mkdir -p "$1/shm" "$1/dir"; echo secret >"$1/passwd"; echo secret >"$1/hostname"
echo secret >"$1/dir/file"; chown -R 5:6 "$1/dir"
mkdir -p /srv/harmless; echo harmless >/srv/harmless/file
"""
# All that a start could have changed: names, owners, modes, sizes, times and content.
SEEN = """
find /etc "$1" \\( -path /etc/torpor -o -path /etc/systemd \\) -prune -o \\
    -printf '%p %i %U:%G %m %s %T@ %C@ %l\\n' | sort
find /dev /run -xdev -path /run/torpor -prune -o \\( -type l -o -type f -o -type d -o -type p \\) \\
    \\( -path '/dev/*' -o -name 'canary*' -o -name evil \\) -printf '%p %i %m\\n' | sort
find "$1" -type f -exec sha256sum {} +
findmnt -rno TARGET | grep -v -e ^/run/torpor -e ^/proc/sys/fs/binfmt_misc | sort
"""

# What is put into the root file system, in which the shell is; $1 is the canary.
HARMLESS = {
    "links": """
        ln -s "$1/passwd" etc/passwd; ln -s "$1/shadow" etc/group
        ln -s "$1/hostname" etc/hostname; ln -s "$1" run; ln -s "$1/shm" dev/shm
        ln -s "$1/dir" data; ln -s "$1/dir" mounted; rmdir var/tmp; ln -s "$1" var/tmp
    """,
    "links-upwards": """
        ln -s ../../../../etc/passwd etc/passwd; ln -s ../../../../etc/shadow etc/group
        ln -s "../../../../../..$1/dir" data; ln -s "../../../../..$1/dir" mounted
    """,
    "links-to-nothing": """
        ln -s "$1/new" etc/passwd; ln -s "$1/new" etc/group; ln -s "$1/new" etc/hostname
        ln -s "$1/data" data; ln -s "$1/mounted" mounted
    """,
    "etc-is-a-link": 'rmdir etc; ln -s "$1" etc',
    "tmp-is-a-link": 'rmdir tmp; ln -s "$1" tmp',
    "what-blocks": """
        mkfifo etc/hostname; mkdir data; ln -s "$1" data/link; ln -s "$1/passwd" data/file
        mkfifo data/pipe; mknod data/device c 1 5
    """,
}
REFUSED = {
    "accounts-are-links": ('ln -s "$1/passwd" etc/passwd', "user 'root' is not in"),
    "accounts-are-pipes": ("mkfifo etc/passwd", "etc/passwd: it is not a regular file"),
    "accounts-are-endless": ("mknod etc/passwd c 1 5", "etc/passwd: it is not a regular file"),
    "accounts-are-directories": ("mkdir etc/passwd", "etc/passwd: it is a directory"),
    "accounts-are-large": ("truncate -s 1T etc/passwd", "etc/passwd is larger than 1048576"),
    "etc-leads-to-itself": ("rmdir etc; ln -s ../../etc etc", "Too many levels of symbolic links"),
    "hostname-is-a-directory": (f"{ROOT}; mkdir etc/hostname", "/etc/hostname"),
    "dev-is-a-link": (f'{ROOT}; rmdir dev; ln -s "$1" dev', "dev is a link"),
    "dev-leads-to-nothing": (f'{ROOT}; rmdir dev; ln -s "$1/new" dev', "dev is a link"),
    "proc-is-a-link": (f'{ROOT}; rmdir proc; ln -s "$1" proc', "ordinary directory"),
    "volume-is-a-file": (f"{ROOT}; echo x >data", "a volume's place must be a directory"),
}


@pytest.fixture
def hostile(machine: Machine) -> Iterator[Container]:
    machine.run("sh", "-ec", MAKE, "sh", CANARY)
    make_busybox(machine, ROOTFS)
    container = Container(machine, NAME)
    yield container
    container.remove()
    machine.run("rm", "-rf", ROOTFS, CANARY, "/srv/harmless")


def seen(machine: Machine) -> list[str]:
    return machine.run("sh", "-c", SEEN, "sh", CANARY).stdout.splitlines()


def define(hostile: Container, trap: str, **keys: object) -> list[str]:
    """Set the trap; returns what is seen of the host before the start."""
    hostile.machine.run("sh", "-ec", f'cd "$2"; {trap}', "sh", CANARY, ROOTFS)
    mounts = ["/srv/harmless:/mounted"]
    hostile.define(command=LOOP, volumes=["/data"], mounts=mounts, **keys)
    return seen(hostile.machine)


@pytest.mark.parametrize("kind", ["rootfs", "image"])
@pytest.mark.parametrize("trap", HARMLESS)
def test_links_lead_nowhere_out_of_it(hostile: Container, trap: str, kind: str) -> None:
    before = define(hostile, HARMLESS[trap], **{kind: ROOTFS})
    hostile.start()
    assert within(hostile, "cat /mounted/file") == "harmless\n"
    assert "secret" not in within(hostile, "cat /data/file /data/link/* /etc/passwd 2>&1; true")
    assert seen(hostile.machine) == before
    cycle(hostile)
    assert seen(hostile.machine) == before
    hostile.remove()
    assert left(hostile) == ""
    assert seen(hostile.machine) == before


@pytest.mark.parametrize("trap", REFUSED)
def test_what_cannot_be_used_is_refused_with_one_message(hostile: Container, trap: str) -> None:
    script, words = REFUSED[trap]
    before = define(hostile, script, rootfs=ROOTFS, user="root")
    assert hostile.systemctl("start", check=False) != 0
    said = hostile.journal()
    assert words in said
    assert "Traceback" not in said
    assert "secret" not in said
    assert left(hostile) == ""
    assert seen(hostile.machine) == before


def test_runc_is_not_left_waiting_for_a_pipe_among_the_accounts(hostile: Container) -> None:
    define(hostile, "mkfifo etc/group", rootfs=ROOTFS)
    began = time.monotonic()
    assert hostile.systemctl("start", check=False) != 0
    assert time.monotonic() - began < 10
    assert f"{ROOTFS}/etc/group: it is not a regular file" in hostile.journal()
