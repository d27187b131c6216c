"""The states that a container went through, as its history tells."""

import dataclasses
from dataclasses import dataclass

from torpor import history, record, state
from torpor.container import Container

# What a state that ends a dump or a restore began with.
_FIRST = {state.READY: state.DUMPING, state.RUNNING: state.RESTORING}


@dataclass(frozen=True)
class Transition:
    """A state that was entered."""

    since_s: float  # UNIX time
    state: str
    generation: int
    boot: str
    attempt: int
    frozen_s: float | None  # where it is asleep: how long its processes stood still before
    size_bytes: int | None  # of the images
    took_s: float | None  # to fall asleep, or to wake
    reason: str


def read(container: Container) -> tuple[list[Transition], list[str]]:
    """What is known, oldest first; and what could not be read, for people."""
    lines, faults = history.lines(container)
    found: list[Transition] = []
    torn = 0
    began: Transition | None = None
    for line in lines:
        try:
            one = parse(line)
        except (KeyError, ValueError):
            torn += bool(line)
            continue
        if one.state in _FIRST.values():
            began = one
        found.append(dataclasses.replace(one, took_s=_took_s(one, began)))
    if torn:
        faults.append(f"{container.history_path}: {torn} lines are not whole, as after a power cut")
    return found, faults


def parse(line: str) -> Transition:
    """A line of a history. Raises KeyError, ValueError."""
    if "\0" in line:
        raise ValueError("it is torn")
    figures, found, reason = line.partition(" reason=")
    pairs = dict(word.split("=", 1) for word in figures.split(" "))
    if not found or pairs["state"] not in state.STATES:
        raise ValueError("it is not of a history")
    asleep = pairs["state"] == state.READY
    return Transition(
        since_s=record.seconds(pairs["since"]),
        state=pairs["state"],
        generation=record.number(pairs["generation"]),
        boot=pairs["boot"],
        attempt=record.number(pairs["attempt"]),
        frozen_s=(record.seconds(pairs["frozen"]) or None) if asleep else None,
        size_bytes=record.number(pairs["size"]) or None,
        took_s=None,
        reason=reason,
    )


def _took_s(one: Transition, began: Transition | None) -> float | None:
    if began is None or _FIRST.get(one.state) != began.state:
        return None
    same = (one.generation, one.boot) == (began.generation, began.boot)
    took_s = one.since_s - began.since_s
    return took_s if same and took_s >= 0 else None  # clocks are set, too
