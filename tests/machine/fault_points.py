"""Cuts a container's helpers off at each point that they pass, and looks for what is lost.

    python3 fault_points.py KIND=NAME,NAME... ...

runs inside a machine, on containers that are defined there (see subject.py), those of one kind
alike. First each verb is run once undisturbed, to learn which points it passes in which order
(see fault.py of torpor). Then it is run once for each point and action, and once for each action
of CRIU's and each victim there. What the next start must find follows from the order: memory is
durable from a record's directory sync on, and used up from another's on.
"""

import functools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from subject import BrokenPromise, Subject, systemctl
from torpor import criu

_DIRECTORY = Path("/run/trials")  # what a unit's helpers find in their environment
# Whose points are not tried again in another verb that has no turn of its own.
_LIKE = {"end": "sleep", "refused": "sleep", "changed": "fresh", "first": "fresh"}
_PRE_RESUME = "pre-resume"  # of CRIU's script: nobody is asked there
# From here on memory is durable, used up or void.
_TURNS = {
    "sleep": "after state-COMMITTED",
    "wake": "after state-CONSUMED",
    "discard": "after state-NONE",
}
_AWAKE = "before state-RUNNING"
_KEPT, _FRESH = "kept", "fresh"
_ACTIONS = ("kill", "fail")
_VICTIMS = ("criu", "runc")
_CALL_MAX_S = 120.0


class Case(NamedTuple):
    """One verb, cut off once."""

    verb: str
    point: str  # or CRIU's action
    action: str  # or the victim
    finds: str  # by the next start; empty: whatever the record says by then


class Bench:
    """A subject and how verbs are tried on it."""

    def __init__(self, name: str) -> None:
        self.subject = Subject(name)
        self.environment = _DIRECTORY / name
        self.victim = _DIRECTORY / f"{name}.criu"
        self.rootfs = self.subject.checksum()

    def recover(self) -> None:
        """Whatever became of it, it can be tried on again."""
        systemctl("kill", "-s", "KILL", self.subject.unit)
        systemctl("stop", self.subject.unit)
        self.environment.unlink(missing_ok=True)
        self.victim.unlink(missing_ok=True)

    def prepare(self, verb: str) -> None:
        """Bring it to where the verb begins."""
        verb_state = _BEGINS[verb]
        active = self.subject.settled() == "active"
        if verb_state == "running" and not active:
            self.subject.start()
        elif verb_state == "asleep":
            if not active and not self.subject.is_asleep():
                self.subject.start()
                active = True
            if active:
                self.subject.stop()
        elif verb_state == "ended":
            if not active:
                self.subject.start()
            self._call("torpor", "stop", "--fresh", self.subject.name)
        if verb in ("fresh", "changed"):
            self._edit(verb)
        elif verb == "first":
            systemctl("clean", "--what=state", self.subject.unit)
        elif verb == "refused":
            self.victim.write_text(f"{criu.POST_DUMP} nobody\n")

    def _edit(self, verb: str) -> None:
        """Have the next start render anew; changed: into another container."""
        path = Path(self.subject.container.definition_path)
        definition = json.loads(path.read_text())
        if verb == "changed":
            definition["hostname"] = f"h{int(definition.get('hostname', 'h0')[1:]) + 1}"
        path.write_text(json.dumps(definition))

    def run(self, verb: str, **variables: str) -> None:
        """Run it with these variables in the environment of whoever does it."""
        self.environment.write_text("".join(f"{key}={word}\n" for key, word in variables.items()))
        name, unit = self.subject.name, self.subject.unit
        if verb == "discard":
            self._call("env", *(f"{k}={v}" for k, v in variables.items()), "torpor", verb, name)
        elif verb == "end":
            self._call("torpor", "stop", "--fresh", name)
        else:
            self._call("systemctl", "stop" if verb in ("sleep", "refused") else "start", unit)
        self.subject.settled()
        self.environment.unlink()
        self.victim.unlink(missing_ok=True)

    def _call(self, *words: str) -> None:
        quiet = subprocess.DEVNULL
        subprocess.run(words, stdout=quiet, stderr=quiet, check=False, timeout=_CALL_MAX_S)

    def points(self, verb: str) -> tuple[list[str], list[str]]:
        """What an undisturbed run passes, and what CRIU calls its script for, in order."""
        self.prepare(verb)
        trace = _DIRECTORY / f"{self.subject.name}.trace"
        trace.write_text("")
        actions = _DIRECTORY / f"{self.subject.name}.actions"
        actions.unlink(missing_ok=True)
        self.run(verb, TORPOR_FAULT_TRACE=str(trace))
        called = actions.read_text().splitlines() if actions.exists() else []
        passed = (line.partition(" ")[2] for line in trace.read_text().splitlines())
        return [*dict.fromkeys(passed)], [*dict.fromkeys(called)]

    def try_out(self, case: Case) -> None:
        """Raise BrokenPromise when a case leaves anything that it must not."""
        self.prepare(case.verb)
        lives = len(self.subject.lives())
        if case.action in _VICTIMS:
            self.victim.write_text(f"{case.point} {case.action}\n")
            self.run(case.verb)
        else:
            self.run(case.verb, TORPOR_FAULT=f"{case.point}={case.action}")
        if self.subject.active_state() != "active":
            self.subject.start(may_forget=case.verb == "changed")
        self.subject.goes_on()
        found = _KEPT if len(self.subject.lives()) == lives else _FRESH
        if case.finds and found != case.finds:
            raise BrokenPromise(f"the next start was {found}, not {case.finds}")
        self.subject.stop()
        if self.subject.checksum() != self.rootfs:
            raise BrokenPromise("its root file system is another")


# Where a verb begins.
_BEGINS = {
    "sleep": "running",
    "end": "running",
    "wake": "asleep",
    "discard": "asleep",
    "changed": "asleep",
    "fresh": "ended",
    "first": "ended",
    "refused": "running",
}


def cases(verb: str, points: list[str]) -> list[Case]:
    """All that is to be tried of a verb."""
    return [
        Case(verb, point, action, _finds(verb, points, at, action))
        for at, point in enumerate(points)
        for action in _ACTIONS
    ]


def _finds(verb: str, points: list[str], at: int, action: str) -> str:
    """What the next start must find when the verb is cut off at its point number at."""
    if points[at].rpartition(" ")[2].startswith("."):
        return ""  # what is written once for all containers and a boot
    if verb not in _TURNS:
        return _FRESH
    turn = points.index(_TURNS[verb])
    if at < turn:
        return _FRESH if verb == "sleep" else _KEPT
    if action == "fail":
        # The record is there, but the sync of its directory is what may have failed.
        return _FRESH if at == turn else ""
    if verb == "sleep":
        return _KEPT
    # Once systemd knows the container's main process it goes on without its helper.
    return _KEPT if verb == "wake" and at >= points.index(_AWAKE) else _FRESH


def criu_cases(verb: str, actions: list[str]) -> list[Case]:
    """CRIU and runc killed before each action of CRIU's script."""
    if verb == "sleep":
        before = actions.index(criu.POST_DUMP) + 1
    elif verb == "wake":
        before = actions.index(_PRE_RESUME)
    else:
        return []
    found = []
    for at, action in enumerate(actions):
        if at >= before:
            finds = dict.fromkeys(_VICTIMS, "")
        elif verb == "wake":
            finds = dict.fromkeys(_VICTIMS, _KEPT)
        else:
            finds = {"criu": _FRESH, "runc": ""}
        found += [Case(verb, action, victim, finds[victim]) for victim in _VICTIMS]
    return found


class Kind:
    """Containers that are alike, and what is left to be tried on them."""

    def __init__(self, names: list[str]) -> None:
        self.benches = [Bench(name) for name in names]
        self.points: dict[str, list[str]] = {}  # of each verb
        self.actions: dict[str, list[str]] = {}  # of CRIU's script
        self.left: queue.SimpleQueue[Case] = queue.SimpleQueue()
        self.count = 0

    def explore(self) -> None:
        """Learn what there is to try."""
        for verb in _BEGINS:
            self.points[verb], self.actions[verb] = self.benches[0].points(verb)

    def plan(self, tried: set[tuple[str, str]]) -> None:
        """Leave out what was tried already: a verb's point, on a container of another kind."""
        for verb in _BEGINS:
            found = cases(verb, self.points[verb])
            if not tried:
                found += criu_cases(verb, self.actions[verb])
            for case in found:
                if not {(case.verb, case.point), (_LIKE.get(case.verb, ""), case.point)} & tried:
                    self.left.put(case)
                    self.count += 1
            tried |= {(verb, point) for point in self.points[verb]}

    def work(self, bench: Bench, report: Callable[[str], None]) -> None:
        while True:
            try:
                case = self.left.get_nowait()
            except queue.Empty:
                return
            try:
                bench.try_out(case)
            except Exception as error:
                what = f"{bench.subject.name}: {case.verb} at {case.point!r}: {case.action}"
                report(f"{what}: {type(error).__name__}: {error}\n{bench.subject.looks()}")
                bench.recover()


def together(calls: Iterable[Callable[[], None]]) -> None:
    """Run all at once, to the end of the last."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    _DIRECTORY.mkdir(exist_ok=True)
    words = [word.partition("=") for word in sys.argv[1:]]
    kinds = {kind: Kind(names.split(",")) for kind, _, names in words}
    together(kind.explore for kind in kinds.values())
    tried: set[tuple[str, str]] = set()
    for kind in kinds.values():
        kind.plan(tried)
    faults: list[str] = []
    together(
        functools.partial(kind.work, bench, faults.append)
        for kind in kinds.values()
        for bench in kind.benches
    )
    found = {
        "faults": faults,
        "cases": {name: kind.count for name, kind in kinds.items()},
        "passed": sorted({point for _, point in tried}),
    }
    print(json.dumps(found))


main()
