"""Print what is known of containers for Prometheus.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/, text-based. What happened is
counted over the last day: a history has an end, and what counts it would seem to start anew.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torpor import record, state, transitions
from torpor.commands import status
from torpor.container import Container
from torpor.errors import TorporError
from torpor.transitions import Transition

_DAY_S = 86400.0
_PUBLIC = 0o644  # whoever collects them is nobody

CHECKPOINT, RESTORE, DAMAGE, CRASH = "checkpoint", "restore", "damage", "crash"
CAUSES = (CHECKPOINT, RESTORE, DAMAGE, CRASH)


@dataclass(frozen=True)
class Metric:
    """One gauge: its name without torpor_, what it is, and its samples."""

    name: str
    help: str
    samples: list[tuple[dict[str, str], float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", help="write them there at once, for a textfile collector"
    )


def run(options: argparse.Namespace) -> int:
    text = exposition(_metrics(time.time()))
    if not options.output:
        sys.stdout.write(text)
        return 0
    path = os.path.abspath(options.output)
    try:
        record.replace(path, text.encode())
        os.chmod(path, _PUBLIC)
    except OSError as error:
        raise TorporError(f"{path}: {error.strerror}", "does its directory exist?") from error
    return 0


def exposition(metrics: Iterable[Metric]) -> str:
    return "".join(line for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    name = f"torpor_{metric.name}"
    yield f"# HELP {name} {metric.help}\n"
    yield f"# TYPE {name} gauge\n"
    for labels, value in metric.samples:
        words = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{{{words}}} {value:.15g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _metrics(now_s: float) -> list[Metric]:
    containers = [Container(name) for name in status.names()]
    rows = [status.describe(container) for container in containers]
    histories = {one.name: transitions.read(one)[0] for one in containers}
    return [*_of_now(rows), *_of_history(histories, now_s)]


def _of_now(rows: list[dict[str, object]]) -> Iterator[Metric]:
    yield Metric(
        "container_state",
        "1 for the state that a container is in, see torpor@.service(8), and for its unit's.",
        [
            ({"name": str(row["name"]), "state": str(row["state"]), "unit": str(row["unit"])}, 1)
            for row in rows
        ],
    )
    for key, name, words in (
        ("generation", "container_generation", "The newest number that its images were given."),
        ("size_bytes", "container_image_bytes", "What its images take while it sleeps."),
        ("memory_bytes", "container_memory_bytes", "What its unit has of memory while it runs."),
    ):
        found = [({"name": str(row["name"])}, row[key]) for row in rows]
        numbers = [(labels, float(value)) for labels, value in found if isinstance(value, int)]
        yield Metric(name, words, numbers)


def _of_history(histories: dict[str, list[Transition]], now_s: float) -> Iterator[Metric]:
    yield from _last(histories)
    counted = {name: _counts(found, now_s) for name, found in histories.items()}
    for key, name, words in (
        (state.READY, "container_sleeps_last_day", "How often it fell asleep in the last 24 h."),
        (state.CONSUMED, "container_wakes_last_day", "How often it woke in the last 24 h."),
    ):
        samples = [({"name": one}, float(counts[key])) for one, counts in counted.items()]
        yield Metric(name, words, samples)
    yield Metric(
        "container_failures_last_day",
        "How often it could not be dumped or restored, its images were damaged, or it crashed.",
        [
            ({"name": one, "cause": cause}, float(counts[cause]))
            for one, counts in counted.items()
            for cause in CAUSES
        ],
    )


def _last(histories: dict[str, list[Transition]]) -> Iterator[Metric]:
    for name, words, which, look in (
        ("container_sleep_seconds", "How long it took to fall asleep.", state.READY, "took_s"),
        ("container_frozen_seconds", "How long it stood still for that.", state.READY, "frozen_s"),
        ("container_wake_seconds", "How long it took to wake.", state.RUNNING, "took_s"),
    ):
        samples = []
        for container, found in histories.items():
            known = [getattr(one, look) for one in found if one.state == which]
            if values := [value for value in known if value is not None]:
                samples.append(({"name": container}, float(values[-1])))
        yield Metric(name, words, samples)


def _counts(found: list[Transition], now_s: float) -> Counter[str]:
    """How often each thing happened in the last day: states by their names, and failures."""
    counts: Counter[str] = Counter()
    for before, one in zip([None, *found], found, strict=False):
        if one.since_s < now_s - _DAY_S:
            continue
        counts[one.state] += _is_new(one, before)
        if cause := _cause(one):
            counts[cause] += 1
    return counts


def _is_new(one: Transition, before: Transition | None) -> bool:
    """Whether it fell asleep, and did not sleep on after a restore that was given up."""
    return one.state != state.READY or before is None or before.state == state.COMMITTED


def _cause(one: Transition) -> str:
    """What failed, when this was entered for that; empty where nothing did."""
    if one.state == state.RUNNING and one.reason == "its checkpoint failed":
        return CHECKPOINT
    if one.state == state.READY and one.reason.startswith("not restored: "):
        return RESTORE
    if one.state == state.CRASHED:
        return CRASH
    was_set_aside = one.state == state.NONE and one.reason.startswith("generation ")
    return DAMAGE if one.state == state.DAMAGED or was_set_aside else ""
