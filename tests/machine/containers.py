"""Containers for the demo and the tests: root file systems, definitions, and how to drive them."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from machine import Machine

Config = dict[str, Any]

BUSYBOX = "/srv/busybox"
REDIS = "/srv/redis"
PYTHON_ROOT = "/srv/with-python"
PYTHON_MOUNTS = ["/usr:/usr:ro"]

# Programs are copied with the libraries that the loader names: no network, no image to fetch.
_MAKE_BUSYBOX = """
mkdir -p "$1/bin" "$1/proc" "$1/dev" "$1/sys" "$1/tmp" "$1/etc" "$1/var/tmp"
cp /usr/bin/busybox "$1/bin/busybox"
for name in sh sleep cat echo head true umount; do ln -sf busybox "$1/bin/$name"; done
"""
_MAKE_REDIS = """
cp /usr/bin/redis-server /usr/bin/redis-cli "$1/bin/"
for file in $(ldd /usr/bin/redis-server /usr/bin/redis-cli | grep -o '/[^ :]*' | sort -u); do
    mkdir -p "$1$(dirname "$file")"
    cp -L "$file" "$1$file"
done
"""

# Redis that keeps nothing on disk. Keys and values follow from the index, so that each can be
# checked for its own value.
REDIS_COMMAND = ["/bin/redis-server", "--save", "", "--appendonly", "no", "--dir", "/tmp"]
REDIS_FILL = """
for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'key:' .. i, redis.sha1hex('value ' .. i)) end
return redis.call('DBSIZE')
"""
REDIS_CHECK = """
local good = 0
for i = 1, tonumber(ARGV[1]) do
  if redis.call('GET', 'key:' .. i) == redis.sha1hex('value ' .. i) then good = good + 1 end
end
return good
"""

_MAKE_PYTHON_ROOT = """
mkdir -p "$1" && cd "$1" && rm -rf tmp srv && mkdir -p usr etc proc dev sys tmp srv
for name in lib lib64 bin sbin; do [ -L "$name" ] || ln -s "usr/$name" "$name"; done
"""
_REMOVE = """
exec 2>/dev/null
systemctl kill -s KILL "$1"
systemctl stop "$1"
systemctl disable "$1"
systemctl reset-failed "$1"
rm -rf "/var/lib/torpor/$2" "/etc/torpor/$2.yaml" "/etc/systemd/system/$1.service.d"
systemctl daemon-reload
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


def make_python_root(machine: Machine, path: str = PYTHON_ROOT) -> str:
    """A root file system for PYTHON_MOUNTS, which bind the machine's own Python there."""
    machine.run("sh", "-ec", _MAKE_PYTHON_ROOT, "sh", path)
    return path


def make_bundle(
    machine: Machine, path: str, rootfs: str, change: Callable[[Config], None] | None = None
) -> str:
    """A bundle as ``runc spec`` makes it, without a terminal, and changed as the caller wants."""
    machine.run("sh", "-ec", 'mkdir -p "$1"; cd "$1"; rm -f config.json; runc spec', "sh", path)
    config = json.loads(machine.read(f"{path}/config.json"))
    config["root"] = {"path": rootfs}
    config["process"]["terminal"] = False
    if change:
        change(config)
    machine.write(f"{path}/config.json", json.dumps(config, indent=1))
    return path


def bind(source: str, destination: str) -> Config:
    """A writable bind mount, in OCI's form."""
    return {"destination": destination, "type": "bind", "source": source, "options": ["bind"]}


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

    def drop_in(self, name: str, text: str) -> str:
        """Give its unit a drop-in for [Service]; returns the path."""
        path = f"/etc/systemd/system/{self.unit}.service.d/{name}.conf"
        self.machine.write(path, f"[Service]\n{text}\n")
        self.machine.run("systemctl", "daemon-reload")
        return path

    def systemctl(self, verb: str, *, check: bool = True) -> int:
        done = self.machine.run("systemctl", verb, self.unit, check=check, timeout=180)
        return done.returncode

    def start(self) -> None:
        self.systemctl("start")

    def stop(self) -> None:
        self.systemctl("stop")

    def sleep_and_wake(self) -> None:
        self.stop()
        self.start()

    def settle(self) -> None:
        """Wait for what a start does once the container runs: it removes images last."""
        self.machine.run("flock", f"/run/torpor/.locks/{self.name}", "true")

    def property(self, name: str) -> str:
        """A property of the unit, as systemctl show prints it."""
        return self.machine.run("systemctl", "show", "-P", name, self.unit).stdout.strip()

    def wait_for(self, active_state: str, timeout_s: int = 10) -> None:
        """Wait until the unit is active, inactive, failed ..."""
        script = 'until [ "$(systemctl show -P ActiveState "$1")" = "$2" ]; do sleep 0.05; done'
        words = ("sh", "-c", script, "sh", self.unit, active_state)
        self.machine.run("timeout", str(timeout_s), *words)

    def status(self) -> dict[str, object]:
        """What torpor status says of it."""
        text = self.machine.run("torpor", "status", "--json", self.name).stdout
        return dict(json.loads(text))

    def state(self) -> str:
        return str(self.status()["state"])

    def journal(self) -> str:
        """Its unit's journal over all boots: the messages alone."""
        script = 'journalctl --sync; journalctl -u "$1" -o cat --no-pager --all'
        return self.machine.run("sh", "-c", script, "sh", self.unit).stdout

    def wait_for_line(self, line: str, timeout_s: int = 20) -> None:
        """Wait until it has said this."""
        script = 'until journalctl -u "$1" -o cat | grep -qxF "$2"; do sleep 0.1; done'
        self.machine.run("timeout", str(timeout_s), "sh", "-c", script, "sh", self.unit, line)

    def numbers(self) -> list[int]:
        """What a COUNTER has printed so far."""
        return [
            int(digits) for digits in re.findall(r"^count (\d+)$", self.journal(), re.MULTILINE)
        ]

    def remove(self) -> None:
        """Stop it for real and forget everything of it."""
        self.machine.run("sh", "-c", _REMOVE, "sh", self.unit, self.name, timeout=180)


def gaps(numbers: list[int]) -> list[tuple[int, int]]:
    """Where a counter did not print the next number: what came before, and what came."""
    pairs = itertools.pairwise([0, *numbers])
    return [(before, after) for before, after in pairs if after != before + 1]


def without_gap(numbers: list[int]) -> bool:
    """Whether a counter printed every number from 1 on exactly once, in order."""
    return numbers == list(range(1, len(numbers) + 1))
