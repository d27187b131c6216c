"""Two machines on one link, each of which may run commands on the other."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from machine import Machine

HERE, THERE = "here", "there"
_ADDRESSES = {HERE: "192.0.2.1", THERE: "192.0.2.2"}  # TEST-NET-1 of RFC 5737
ONCE = "/root/once"
LINK = "to-neighbour"
_PREPARE = """
ip addr replace "$2"/24 dev "$1"; ip link set "$1" up
mkdir -p /root/.ssh /run/sshd; chmod 700 /root/.ssh
[ -e /root/.ssh/id_ed25519 ] || ssh-keygen -qN '' -t ed25519 -f /root/.ssh/id_ed25519
printf 'StrictHostKeyChecking accept-new\\nConnectTimeout 3\\n' >/root/.ssh/config
echo "$3 $4" >>/etc/hosts
echo 'PermitRootLogin yes' >/etc/ssh/sshd_config.d/test.conf
# What ONCE says holds for one connection: bash reads this for a command of ssh, too.
echo '[ -e "$5" ] && . "$5" && rm "$5"' | sed "s,\\$5,$5,g" >/root/.bashrc
systemctl start ssh
cat /root/.ssh/id_ed25519.pub
"""
_JOIN = """
ip link show "$2" >/dev/null 2>&1 || ip link add "$2" type bridge
ip addr del "$3"/24 dev "$1"; ip link set "$1" master "$2"
ip addr add "$3"/24 dev "$2"; ip link set "$2" up
"""
_PART = """
ip link set "$1" nomaster; ip link delete "$2"; ip addr add "$3"/24 dev "$1"
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def neighbours(here: Machine, there: Machine) -> Iterator[None]:
    """They call each other "here" and "there"."""
    ends = (f"nb-{here.leader}", f"nb-{there.leader}")
    _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    machines = ((here, HERE, THERE, ends[0]), (there, THERE, HERE, ends[1]))
    keys = {}
    for machine, name, other, end in machines:
        _ip("link", "set", end, "netns", str(machine.leader), "name", LINK)
        words = (LINK, _ADDRESSES[name], _ADDRESSES[other], other, ONCE)
        keys[other] = machine.run("sh", "-ec", _PREPARE, "sh", *words).stdout
    here.write("/root/.ssh/authorized_keys", keys[HERE], 0o600)
    there.write("/root/.ssh/authorized_keys", keys[THERE], 0o600)
    try:
        yield
    finally:
        here.run("ip", "link", "delete", LINK, check=False)
        for machine, *_ in machines:
            machine.run("systemctl", "stop", "ssh", check=False)


@contextmanager
def bridged(here: Machine, there: Machine, bridge: str) -> Iterator[None]:
    """Their link belongs to a bridge of this name on each of them, with their addresses."""
    machines = ((here, HERE), (there, THERE))
    for machine, name in machines:
        machine.run("sh", "-ec", _JOIN, "sh", LINK, bridge, _ADDRESSES[name])
    try:
        yield
    finally:
        for machine, name in machines:
            machine.run("sh", "-c", _PART, "sh", LINK, bridge, _ADDRESSES[name])
