"""A root file system that would lead systemd's mounts astray is refused, and the host untouched."""

from collections.abc import Iterator

import pytest

from containers import Container, make_busybox
from cycle import left
from machine import Machine

TREE = "/srv/astray"
# What a mount or a file that went astray would change.
_HOST = """
cut -d' ' -f5- /proc/self/mountinfo | grep -v '/run/credentials/\\|/proc/sys/fs/binfmt' | sort
find /etc /run/lock /var/log/journal /srv -xdev ! -name '*.journal' ! -path '/etc/torpor*' \\
    -printf '%p %y %m %U %G %l\\n' | sort
find /etc -xdev -type f ! -path '/etc/torpor/*' -exec sha256sum {} + | sort
"""
PLACES = ("/run", "/run/lock", "/tmp", "/var/log/journal", "/sys/fs/cgroup")
MAKE = {
    "a link to the host": 'ln -s /etc "$1"',
    "a link that climbs": 'ln -s ../../../../../../../etc "$1"',
    "a link to nowhere": 'ln -s /nowhere "$1"',
    "a file": 'echo x >"$1"',
    "a FIFO": 'mkfifo "$1"',
    "a device": 'mknod "$1" b 7 0',
}


@pytest.fixture
def astray(machine: Machine) -> Iterator[Container]:
    """A container of a tree that is yet to be led astray."""
    make_busybox(machine, TREE)
    machine.run("sh", "-ec", f"cd {TREE}; mkdir -p sbin run var/log; ln -s ../bin/sh sbin/init")
    container = Container(machine, "astray").define(rootfs=TREE, command=["/sbin/init"])
    yield container
    container.remove()
    assert left(container) == ""
    machine.run("rm", "-rf", TREE)


def host(machine: Machine) -> str:
    return machine.run("sh", "-c", _HOST).stdout


def refusal(container: Container) -> str:
    """What it says instead of starting: one line, and a hint below it."""
    before = len(_said(container))
    assert container.systemctl("start", check=False) != 0
    (line,) = _said(container)[before:]
    return line


def _said(container: Container) -> list[str]:
    lines = container.journal().splitlines()
    return [line for line in lines if line.startswith(f"{container.name}: ")]


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_no_directory_is_refused(astray: Container, place: str, kind: str) -> None:
    machine, path = astray.machine, f"{TREE}{place}"
    script = f'rm -rf "$1"; mkdir -p "$(dirname "$1")"; {MAKE[kind]}'
    machine.run("sh", "-ec", script, "sh", path)
    before = host(machine)
    said = refusal(astray)
    assert f"key 'rootfs': systemd is to boot in it, but {place} in it is" in said
    assert astray.property("ExecMainStatus") == "78"
    assert host(machine) == before


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory", "no id", "a huge file"])
def test_a_machine_id_that_is_none_is_refused(astray: Container, kind: str) -> None:
    make = MAKE | {
        "a directory": 'mkdir "$1"',
        "no id": 'echo none >"$1"',
        "a huge file": 'truncate -s 1T "$1"',
    }
    machine = astray.machine
    machine.run("sh", "-ec", make[kind], "sh", f"{TREE}/etc/machine-id")
    before = host(machine)
    assert "but /etc/machine-id in it" in refusal(astray)
    assert host(machine) == before


def test_a_machine_id_is_not_read_through_a_link_out_of_it(astray: Container) -> None:
    machine = astray.machine
    machine.write("/srv/outside", "0123456789abcdef0123456789abcdef\n")
    for link in ("/srv/outside", "../../../../../../../srv/outside"):
        machine.run("ln", "-sfn", link, f"{TREE}/etc/machine-id")
        config = machine.run("torpor", "render", "astray").stdout
        assert "container_uuid=" in config
        assert "container_uuid=01234567-89ab" not in config
    machine.run("rm", "/srv/outside")


def test_who_says_never_gets_nothing(astray: Container) -> None:
    machine = astray.machine
    machine.run("sh", "-ec", f"rm -r {TREE}/run; ln -s /etc {TREE}/run")
    astray.define(rootfs=TREE, command=["/sbin/init"], systemd="never")
    config = machine.run("torpor", "render", "astray").stdout
    assert '"/run"' not in config
    assert "container_uuid" not in config


def test_a_configuration_of_50_megabytes_is_one_message(astray: Container) -> None:
    machine = astray.machine
    bundle = "/srv/astray-bundle"
    fill = "head -c 50000000 /dev/zero | tr '\\0' ' ' >>config.json"
    machine.run("sh", "-ec", f"mkdir {bundle}; cd {bundle}; runc spec; {fill}")
    before = host(machine)
    astray.define(bundle=bundle, systemd="always")
    assert "config.json" in refusal(astray)
    assert host(machine) == before
    machine.run("rm", "-r", bundle)
