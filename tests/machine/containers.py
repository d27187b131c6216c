"""Containers for the demo and the tests: root file systems, definitions, and how to drive them."""

import json
import re
from dataclasses import dataclass, field

from machine import Machine

BUSYBOX = "/srv/busybox"
REDIS = "/srv/redis"

# Programs are copied with the libraries that the loader names: no network, no image to fetch.
_MAKE_BUSYBOX = """
mkdir -p "$1/bin" "$1/proc" "$1/dev" "$1/sys" "$1/tmp" "$1/etc" "$1/var/tmp"
cp /usr/bin/busybox "$1/bin/busybox"
for name in sh sleep cat echo usleep true false nc ifconfig id; do ln -sf busybox "$1/bin/$name"; done
"""
_MAKE_REDIS = """
cp /usr/bin/redis-server /usr/bin/redis-cli "$1/bin/"
for file in $(ldd /usr/bin/redis-server /usr/bin/redis-cli | grep -o '/[^ :]*' | sort -u); do
    mkdir -p "$1$(dirname "$file")"
    cp -L "$file" "$1$file"
done
"""

# The number is printed before it is counted up: one that is lost or printed twice shows.
COUNTER = "i=0; while :; do i=$((i+1)); echo count $i; sleep 0.1; done"


def make_busybox(machine: Machine, path: str = BUSYBOX) -> str:
    """A root file system with a static busybox."""
    machine.run("sh", "-ec", _MAKE_BUSYBOX, "sh", path)
    return path


def make_redis(machine: Machine, path: str = REDIS) -> str:
    """A root file system with Redis."""
    machine.run("sh", "-ec", _MAKE_BUSYBOX + _MAKE_REDIS, "sh", path)
    return path


@dataclass
class Container:
    """A container of torpor in a machine."""

    machine: Machine
    name: str
    definition: dict[str, object] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return f"torpor@{self.name}"

    def define(self, **keys: object) -> "Container":
        """Write its definition; JSON is YAML. A key's '_' stands for '-'."""
        self.definition = {key.replace("_", "-"): value for key, value in keys.items()}
        self.machine.write(f"/etc/torpor/{self.name}.yaml", json.dumps(self.definition, indent=1))
        return self

    def systemctl(self, verb: str, *, check: bool = True) -> int:
        done = self.machine.run("systemctl", verb, self.unit, check=check, timeout=180)
        return done.returncode

    def start(self) -> None:
        self.systemctl("start")

    def stop(self) -> None:
        self.systemctl("stop")

    def property(self, name: str) -> str:
        """A property of the unit, as systemctl show prints it."""
        return self.machine.run("systemctl", "show", "-P", name, self.unit).stdout.strip()

    def wait_for(self, active_state: str, timeout_s: int = 10) -> None:
        """Wait until the unit is active, inactive, failed ..."""
        script = 'until [ "$(systemctl show -P ActiveState "$1")" = "$2" ]; do sleep 0.05; done'
        self.machine.run("timeout", str(timeout_s), "sh", "-c", script, "sh", self.unit, active_state)

    def status(self) -> dict[str, object]:
        """What torpor status says of it."""
        text = self.machine.run("torpor", "status", "--json", self.name).stdout
        return dict(json.loads(text))

    def state(self) -> str:
        return str(self.status()["state"])

    def journal(self) -> str:
        """Its unit's journal over all boots: the messages alone."""
        words = ("journalctl", "--sync")
        self.machine.run(*words)
        return self.machine.run(
            "journalctl", "-u", self.unit, "-o", "cat", "--no-pager", "--all"
        ).stdout

    def numbers(self) -> list[int]:
        """What a COUNTER has printed so far."""
        return [int(number) for number in re.findall(r"^count (\d+)$", self.journal(), re.MULTILINE)]

    def remove(self) -> None:
        """Stop it for real and forget everything of it."""
        self.machine.run("systemctl", "kill", "-s", "KILL", self.unit, check=False)
        self.machine.run("systemctl", "stop", self.unit, check=False, timeout=180)
        self.machine.run("systemctl", "reset-failed", self.unit, check=False)
        self.machine.run("torpor", "discard", self.name, check=False)
        drop_ins = f"/etc/systemd/system/{self.unit}.service.d"
        state = f"/var/lib/torpor/{self.name}"
        self.machine.run("rm", "-rf", state, f"/etc/torpor/{self.name}.yaml", drop_ins)


def without_gap(numbers: list[int]) -> bool:
    """Whether a counter printed every number from 1 on exactly once, in order."""
    return numbers == list(range(1, len(numbers) + 1))
