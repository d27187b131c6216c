"""Cuts snapshots and rollbacks off at each point that they pass, and looks for what is mixed up.

    python3 cut_moments.py NAME...

runs inside a machine, on containers that are defined there (see test_snapshot.py): each counts in
memory and in its files, and writes a journal of its own that is never rolled back, with "torn"
where the two differ. After a rollback that was cut off it goes on from the snapshot or from where
it slept, whichever its records say, and never from one with the files of the other.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from subject import BrokenPromise, systemctl
from torpor import images, snapshots, state
from torpor.container import Container

_ACTIONS = ("kill", "fail")
_TRIALS = Path("/run/trials")  # what a unit's helpers find in their environment
_TURN = "state-REPLACING"
_CALL_MAX_S = 60.0
_WAIT_S = 20.0
_POLL_S = 0.01
# What snapshot and rollback write first, and what a wake has removed in the end.
_GONE = ("rollback",)


class Case(NamedTuple):
    """One verb, cut off once."""

    verb: str
    point: str
    action: str
    finds: str  # "old", "new", or empty where either may be


class Bench:
    """A container and how the two verbs are tried on it."""

    def __init__(self, name: str) -> None:
        self.container = Container(name)
        self.unit = self.container.unit
        self.journal = Path(f"/srv/{name}/own/journal")
        self.rootfs = Path(f"/srv/{name}")
        self._call("snapshot")
        self.snapshot = snapshots.known(self.container)[-1].number
        self._goes_on()
        self.stop()
        self.start()
        # Where it was then: what it says after it went back there for the first time.
        self.stop()
        self._call("rollback", str(self.snapshot))
        self.start()
        self.moment = self._first_after_start

    def _call(self, verb: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        argv = ["torpor", verb, self.container.name, *words]
        env = os.environ | variables
        child = subprocess.Popen(argv, env=env, text=True, stdout=pipe, stderr=pipe)
        self.said = "".join(child.communicate(timeout=_CALL_MAX_S))
        if "Traceback" in self.said or "own fault" in self.said:
            raise BrokenPromise(self.said)
        return child

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def _goes_on(self) -> int:
        """The first number that it counts from now on."""
        before = len(self.lines())
        deadline_s = time.monotonic() + _WAIT_S
        while len(found := self.lines()) <= before:
            if time.monotonic() > deadline_s:
                raise BrokenPromise(f"it does not count: {self.state().name}")
            time.sleep(_POLL_S)
        if torn := [line for line in found if not line.isdigit()]:
            raise BrokenPromise(f"memory and files are not of one moment: {torn[:5]}")
        return int(found[before])

    def state(self) -> state.State:
        return state.read(self.container)

    def start(self) -> None:
        before = len(self.lines())
        if systemctl("start", self.unit).returncode:
            raise BrokenPromise("it does not start")
        self._goes_on()
        self._first_after_start = int(self.lines()[before])

    def stop(self) -> None:
        systemctl("stop", self.unit)
        if self.state().name != state.READY:
            raise BrokenPromise(f"it did not fall asleep: {self.state().name}")
        self.last = int(self.lines()[-1])

    def points(self, verb: str) -> list[str]:
        """What an undisturbed run passes."""
        trace = Path(f"/run/{self.container.name}.trace")
        trace.unlink(missing_ok=True)
        if verb == "rollback":
            self.stop()
            self._call(verb, str(self.snapshot), TORPOR_FAULT_TRACE=str(trace))
            self.start()
        elif verb == "crash":
            self._crash()
            self._start_with(TORPOR_FAULT_TRACE=str(trace))
        else:
            self._call(verb, TORPOR_FAULT_TRACE=str(trace))
        passed = (line.partition(" ")[2] for line in trace.read_text().splitlines())
        return [*dict.fromkeys(passed)]

    def _crash(self) -> None:
        """End it by force; that is answered by its newest snapshot, as often as we want."""
        for one in snapshots.known(self.container)[1:]:
            snapshots.remove(one.snapshot)
        Path(self.container.rollbacks_path).unlink(missing_ok=True)
        systemctl("kill", "--signal=KILL", "--kill-whom=main", self.unit)
        deadline_s = time.monotonic() + _WAIT_S
        while systemctl("is-failed", self.unit).returncode and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        if self.state().name != state.CRASHED:
            raise BrokenPromise(f"{self.state().name}, not crashed")

    def _start_with(self, **variables: str) -> None:
        """What it counts first is where the next one begins, should the start be cut off."""
        before = len(self.lines())
        (_TRIALS / self.container.name).write_text(
            "".join(f"{key}={word}\n" for key, word in variables.items())
        )
        systemctl("reset-failed", self.unit)
        systemctl("start", self.unit)
        (_TRIALS / self.container.name).unlink()
        systemctl("reset-failed", self.unit)
        systemctl("start", self.unit)
        self._goes_on()
        self._first_after_start = int(self.lines()[before])

    def try_out(self, case: Case) -> None:
        fault = f"{case.point}={case.action}"
        if case.verb == "snapshot":
            before = len(self.lines())
            self._call("snapshot", TORPOR_FAULT=fault)
            self._require_next(before)
            if case.action == "kill":  # then half of it may be there for a sleep to meet
                self.stop()
                self.start()
        elif case.verb == "crash":
            self._crash()
            self._start_with(TORPOR_FAULT=fault)
            if self._first_after_start != self.moment:
                raise BrokenPromise(f"it went on with {self._first_after_start}")
        else:
            self.stop()
            self._call("rollback", str(self.snapshot), TORPOR_FAULT=fault)
            self.start()
            found = {self.last + 1: "old", self.moment: "new"}.get(self._first_after_start, "")
            if not found or (case.finds and found != case.finds):
                raise BrokenPromise(
                    f"it went on with {self._first_after_start}, not {case.finds}: it slept at "
                    f"{self.last}, the snapshot's next is {self.moment}: {self.said}"
                )
        self._require_tidy()

    def _require_next(self, before: int) -> None:
        """Since so many lines it has counted on."""
        self._goes_on()
        counted = [int(line) for line in self.lines()[before - 1 :]]
        if counted != [*range(counted[0], counted[0] + len(counted))]:
            raise BrokenPromise(f"it counted {counted}")

    def _require_tidy(self) -> None:
        """It runs, and so there is nothing of before any more, once its helper has ended."""
        deadline_s = time.monotonic() + _WAIT_S
        while left := self._left():
            if time.monotonic() > deadline_s:
                raise BrokenPromise(f"there is {left}: {self.said}")
            time.sleep(_POLL_S)
        if self.snapshot not in images.numbers(self.container.snapshots_dir):
            raise BrokenPromise(f"its snapshot is gone: {self.said}")

    def _left(self) -> list[str]:
        places = (Path(self.container.state_dir), self.rootfs, Path("/var/lib/torpor/.volumes"))
        left = [str(path) for place in places for path in place.glob("**/.torpor-*")]
        left += [str(path) for path in Path(self.container.state_dir).glob("**/*.new")]
        left += [name for name in _GONE if os.path.exists(f"{self.container.state_dir}/{name}")]
        left += [f"generation {number}" for number in images.generations(self.container)]
        for number in images.numbers(self.container.snapshots_dir):
            if not os.path.exists(f"{self.container.snapshot_dir(number)}/manifest"):
                left.append(f"half a snapshot {number}")
        return left


def cases(verb: str, points: list[str]) -> list[Case]:
    """All that is to be tried of a verb."""
    turn = points.index(f"amid {_TURN}") if verb == "rollback" else 0
    found = []
    for at, point in enumerate(points):
        finds = ("old" if at < turn else "new" if at > turn else "") if verb == "rollback" else ""
        if at == turn:
            finds = ""
        # A start that fails in going back is, by default, a fresh one.
        actions = _ACTIONS[:1] if verb == "crash" else _ACTIONS
        found += [Case(verb, point, action, finds) for action in actions]
        if verb == "crash" and point == "after state-READY":
            break  # what follows is a wake
    return found


def work(bench: Bench, left: "queue.SimpleQueue[Case]", report: Callable[[str], None]) -> None:
    while True:
        try:
            case = left.get_nowait()
        except queue.Empty:
            return
        try:
            bench.try_out(case)
        except Exception as error:
            report(f"{bench.container.name}: {case}: {type(error).__name__}: {error}")
            return


def main() -> None:
    _TRIALS.mkdir(exist_ok=True)
    benches = [Bench(name) for name in sys.argv[1:]]
    faults: list[str] = []
    left: queue.SimpleQueue[Case] = queue.SimpleQueue()
    passed: dict[str, list[str]] = {}
    for verb in ("snapshot", "rollback", "crash"):
        passed[verb] = benches[0].points(verb)
        for case in cases(verb, passed[verb]):
            left.put(case)
    count = left.qsize()
    threads = [
        threading.Thread(target=work, args=(bench, left, faults.append)) for bench in benches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"faults": faults, "cases": count, "passed": passed}))


main()
