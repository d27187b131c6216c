"""A move with rounds of copying before it: on a kernel that tracks what is written."""

import re

from containers import REDIS, REDIS_COMMAND, Container, make_redis
from cycle import running

from .vm import Vm

# Another host, as far as directories go: with --asleep nothing runs there.
SSH = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
enter='mount --bind /srv/there/state /var/lib/torpor; mount --bind /srv/there/run /run/torpor
mount --bind /srv/there/etc /etc/torpor; exec "$@"'
exec unshare --mount sh -ec "$enter" sh "$@"
"""
UNTIL = 'until journalctl -u "$1" -o cat | grep -q "Ready to accept"; do sleep 0.1; done'
TAKE_BACK = """
rm -rf "/var/lib/torpor/$1"
mv "/srv/there/state/$1" /var/lib/torpor/
mv "/srv/there/etc/$1.yaml" /etc/torpor/
"""


def sent_mib(said: str) -> float:
    """How much was sent while it stood still."""
    found = re.search(r": moved to there, ([0-9.]+) MiB", said)
    assert found, said
    return float(found[1])


def frozen_s(container: Container) -> float:
    found = re.findall(r"asleep: generation \d+, .*frozen ([0-9.]+) s", container.journal())
    return float(found[-1])


def move(vm: Vm, container: Container, *words: str) -> tuple[float, float]:
    """Move it, and wake it here as it came there."""
    options = ("--asleep", f"--rootfs={REDIS}", *words)  # which both have then
    said = vm.run("torpor", "migrate", *options, container.name, "there", timeout=300)
    vm.run("sh", "-ec", TAKE_BACK, "sh", container.name)
    vm.run("torpor", "inspect", "--verify", container.name, timeout=300)
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    return sent_mib(said.stderr), frozen_s(container)


COMMAND = [*REDIS_COMMAND, "--enable-debug-command", "yes"]


def redis(container: Container, *words: str) -> str:
    enter = ("nsenter", "--net", "--target", container.property("MainPID"))
    return container.machine.run(*enter, "redis-cli", *words, timeout=300).stdout.strip()


def test_less_is_left_to_do_after_rounds_of_copying(vm: Vm) -> None:
    rootfs = make_redis(vm)
    vm.write("/usr/local/bin/ssh", SSH, 0o755)
    vm.run("mkdir", "-p", "/srv/there/state", "/srv/there/run", "/srv/there/etc")
    with running(vm, "mover", rootfs=rootfs, command=COMMAND) as container:
        vm.run("timeout", "60", "sh", "-c", UNTIL, "sh", container.unit)
        redis(container, "DEBUG", "POPULATE", "30000", "key", "3000")
        before = redis(container, "DEBUG", "DIGEST")
        whole_mib, whole_s = move(vm, container)
        ahead_mib, ahead_s = move(vm, container, "--pre-dump", "3")
        assert whole_mib > 90 and ahead_mib < whole_mib / 4
        assert ahead_s < whole_s
        # Cut off, it goes on here, from the same parts.
        redis(container, "SET", "later", "than all that was copied")
        fault = {"TORPOR_FAULT": "before state-LEAVING=kill"}
        words = ("torpor", "migrate", "--pre-dump", "2", container.name, "there")
        assert vm.run(*words, env=fault, check=False, timeout=300).returncode
        assert container.state() == "READY"
        container.start()
        assert container.property("StatusText").startswith("restored"), container.journal()
        assert redis(container, "GETDEL", "later") == "than all that was copied"
        assert redis(container, "DEBUG", "DIGEST") == before
    vm.run("rm", "-rf", rootfs, "/usr/local/bin/ssh", "/srv/there")
