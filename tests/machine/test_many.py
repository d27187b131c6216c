"""Fifty at once, three times; and nothing is left in the machine."""

import json
import time

from containers import BUSYBOX, COUNTER, Container, gaps, make_busybox
from machine import Machine

MANY = 50
# What torpor could leave behind. The journal, and what tests themselves add, is not of interest.
LOOK = r"""
ps -eo comm= | grep -E '^(criu|runc|cat|tar|start|stop|settle)' || true
cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/(run/credentials|run/systemd)' | sort
find /sys/fs/cgroup -type d -path '*torpor@*' 2>/dev/null
for directory in /run/runc /run/torpor /tmp; do
    find $directory -mindepth 1 -maxdepth 1 2>/dev/null | grep -v systemd-private
done
nft list ruleset; iptables-save 2>/dev/null | grep -v '^#'
ip netns list; ip -o link
find /var/lib/torpor -mindepth 1 -maxdepth 1 2>/dev/null || true
"""


def look(machine: Machine) -> list[str]:
    return machine.run("sh", "-c", LOOK).stdout.splitlines()


def why_not(machine: Machine) -> str:
    """What was said of those that did not sleep."""
    machine.run("journalctl", "--sync")
    words = ("journalctl", "-b", "-o", "cat", "-p", "notice", "--no-pager", "-t")
    states = json.loads(machine.run("torpor", "status", "--json").stdout)
    up = [one["name"] for one in states if one["state"] != "READY"]
    return "".join(machine.run(*words, name).stdout for name in up)


def test_fifty_sleep_and_wake_at_once_three_times_and_leave_nothing(machine: Machine) -> None:
    make_busybox(machine)
    before = look(machine)
    containers = [Container(machine, f"many{number}") for number in range(MANY)]
    for container in containers:
        container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
    units = [container.unit for container in containers]
    try:
        machine.run("systemctl", "start", *units, timeout=300)
        for _ in range(3):
            time.sleep(0.5)
            machine.run("systemctl", "stop", *units, timeout=300)
            states = machine.run("torpor", "status").stdout
            assert states.count("asleep") == MANY, why_not(machine)
            machine.run("systemctl", "start", *units, timeout=300)
        time.sleep(0.5)
        for container in containers:
            assert gaps(container.numbers()) == [], container.name
            assert container.status()["generation"] == 3
    finally:
        machine.run("systemctl", "kill", "-s", "KILL", *units, check=False)
        machine.run("systemctl", "stop", *units, check=False, timeout=300)
        for container in containers:
            container.remove()
    # What torpor makes once for all containers, and keeps.
    once = {"/run/torpor/.locks", "/run/torpor/.criu-version", "/run/torpor/.runc-options"}
    assert [line for line in look(machine) if line not in once] == [
        line for line in before if line not in once
    ]
