"""A container that kills and faults are tried on, as seen from inside of its machine.

It writes a journal of its own on disk: BEGIN at a fresh start, then 1, 2, 3 ... What the disk has
is never rolled back, so memory that is restored twice, late or beside a second run shows as a
number that is not the next.
"""

import hashlib
import os
import subprocess
import time
from pathlib import Path

from torpor import state
from torpor.container import Container

BEGIN = "begin"
HELPERS = ("start", "stop", "settle")
_SETTLE_S = 60.0
_POLL_S = 0.02
_GROUPS = Path("/sys/fs/cgroup/torpor.slice")
# What may be in the state directory of a container that sleeps, besides its generation.
_KEPT = {"cni", "config.json", "created", "generations", "inputs", "last-dump.log"}
_KEPT |= {"last-restore.log", "network", "plan", "state", "storage", "volumes", "aside"}
_KEPT |= {"history", "history.1"}


class BrokenPromise(Exception):
    """What must never happen has happened."""


class Subject:
    """One container and what is known of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.container = Container(name)
        self.unit = self.container.unit
        self.journal = Path(f"/srv/{name}/journal")
        self.rootfs = Path(f"/srv/{name}/rootfs")

    def lives(self) -> list[int]:
        """How far each life has counted; its numbers must follow each other."""
        lives: list[int] = []
        for line in self.journal.read_text().splitlines():
            if line == BEGIN:
                lives.append(0)
            elif int(line) != lives[-1] + 1:
                raise BrokenPromise(f"{self.unit}: after {lives[-1]} came {line}")
            else:
                lives[-1] += 1
        return lives

    def is_asleep(self) -> bool:
        return self.state() in state.RESTORABLE

    def state(self) -> str:
        return state.read(self.container).name

    def active_state(self) -> str:
        return systemctl("show", "-P", "ActiveState", self.unit).stdout.strip()

    def settled(self) -> str:
        """Its unit's state once it is not about to become another, and its helpers have ended."""
        deadline_s = time.monotonic() + _SETTLE_S
        while (found := self.active_state()).endswith("ing") or self.helpers(HELPERS):
            if time.monotonic() > deadline_s:
                raise BrokenPromise(f"{self.unit} is still {found} after {_SETTLE_S:.0f} s")
            time.sleep(_POLL_S)
        return found

    def start(self, attempts: int = 1, *, may_forget: bool = False) -> None:
        """Nobody disturbs this one: it must work, and what is durable must come back."""
        before, was_asleep = len(self.lives()), self.is_asleep()
        for _ in range(attempts):
            systemctl("reset-failed", self.unit)
            if systemctl("start", self.unit).returncode == 0:
                break
            was_asleep = self.is_asleep()
        else:
            raise BrokenPromise(f"{self.unit} does not start")
        self.goes_on()
        if was_asleep and not may_forget and len(self.lives()) != before:
            raise BrokenPromise(f"{self.unit}: it slept, and started fresh")

    def stop(self) -> None:
        """An undisturbed stop leaves its memory, and nothing of it in the machine."""
        systemctl("stop", self.unit)
        if self.state() != state.READY:
            raise BrokenPromise(f"{self.unit}: {self.state()} after an undisturbed stop")
        if left := self.left():
            raise BrokenPromise(f"{self.unit} is asleep, but there is {left}")

    def goes_on(self) -> None:
        """It is counting."""
        size = self.journal.stat().st_size
        deadline_s = time.monotonic() + _SETTLE_S
        while self.journal.stat().st_size <= size:
            if time.monotonic() > deadline_s:
                raise BrokenPromise(f"{self.unit} is active, and does nothing")
            time.sleep(_POLL_S)
        self.lives()

    def left(self) -> list[str]:
        """What a sleeper must not have in the machine: mounts, directories, cgroups, files."""
        own = (f"/run/torpor/{self.name}", f"/run/runc/{self.name}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [line for line in mounts if any(f"{place}/" in f"{line} /" for place in own)]
        found += [line for line in mounts if f"/var/lib/torpor/{self.name}/" in line]
        found += [place for place in own if os.path.lexists(place)]
        found += [str(path) for path in _GROUPS.glob(f"**/{self.unit}/payload")]
        if not (cgroup := read(Path("/proc/1/cgroup")).strip()).endswith("/init.scope"):
            found.append(f"PID 1 in {cgroup}")
        directory = Path(self.container.state_dir)
        found += [str(path) for path in directory.iterdir() if path.name not in _KEPT]
        found += [str(path) for path in directory.rglob("*.new")]
        generations = os.listdir(self.container.generations_dir)
        return found + ([f"generations {generations}"] if len(generations) != 1 else [])

    def checksum(self) -> str:
        """Of the names and contents of its root file system."""
        summary = hashlib.sha256()
        for path in sorted(self.rootfs.rglob("*")):
            summary.update(f"{path}\n".encode())
            if path.is_file() and not path.is_symlink():
                summary.update(path.read_bytes())
        return summary.hexdigest()

    def helpers(self, names: tuple[str, ...]) -> list[tuple[str, int]]:
        """Who works on it at this moment, by name: its own processes are not among them."""
        found = []
        for procs in _GROUPS.glob(f"**/{self.unit}/**/cgroup.procs"):
            if "payload" in procs.parts:
                continue
            for pid in read(procs).split():
                name = read(Path(f"/proc/{pid}/comm")).strip()
                if name in names:
                    found.append((name, int(pid)))
        return found

    def looks(self) -> str:
        """What a person would look at first."""
        script = 'systemd-cgls -u "$1" --no-pager; journalctl -u "$1" -n 40 -o short-monotonic'
        events = [
            f"{path}: {read(path)}" for path in _GROUPS.glob(f"**/{self.unit}/*/cgroup.events")
        ]
        done = subprocess.run(
            ["sh", "-c", script, "sh", self.unit], text=True, capture_output=True, check=False
        )
        return "\n".join([*events, done.stdout])


def systemctl(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemctl", *words], text=True, capture_output=True, check=False)


def read(path: Path) -> str:
    """A file of the kernel's; empty where it is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
