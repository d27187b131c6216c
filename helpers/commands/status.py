"""Show what is known of containers."""

import argparse
import json
import os
import sys
import time

from torpor import container as places
from torpor import images, rollback, snapshots, state, table
from torpor import lease as leases
from torpor.container import Container, valid_name
from torpor.errors import TorporError
from torpor.images import Generation
from torpor.systemd import Unit
from torpor.talk import mebibytes, plain

_TO_THE_MINUTE = len("2026-01-01T00:00")
_UNKNOWN_BYTES = (1 << 64) - 1
_NO_SUCH = 4  # the exit status of systemctl status for a unit that is not there

_WORDS = {
    state.NONE: "never ran",
    state.RUNNING: "running",
    state.EXITED: "ended",
    state.CRASHED: "crashed",
    state.DUMPING: "falling asleep",
    state.COMMITTED: "asleep",
    state.READY: "asleep",
    state.RESTORING: "waking",
    state.CONSUMED: "waking",
    state.DAMAGED: "damaged",
    state.REPLACING: "rolling back",
    state.LEAVING: "leaving",
    state.MOVED: "moved away",
}

_GREEN, _BLUE, _RED = 32, 34, 31  # of ECMA-48's SGR
_COLOURS = {
    **dict.fromkeys((state.RUNNING, state.CONSUMED), _GREEN),
    **dict.fromkeys((state.READY, state.COMMITTED), _BLUE),
    **dict.fromkeys((state.CRASHED, state.DAMAGED, state.LEAVING), _RED),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one container; default: all")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")


def run(options: argparse.Namespace) -> int:
    if options.name:
        container = Container(options.name)
        require_known(container)
        rows = [describe(container)]
    else:
        rows = [describe(Container(name)) for name in names()]
    if options.json:
        json.dump(rows[0] if options.name else rows, sys.stdout, indent=2)
        print()
    elif options.name:
        _print_one(rows[0])
    else:
        _print_table(rows)
    return 0


def require_known(container: Container) -> None:
    """Raise TorporError where nothing is known of a container."""
    if os.path.lexists(container.definition_path) or os.path.isdir(container.state_dir):
        return
    raise TorporError(
        f"no container {container.name!r}: neither {container.definition_path} "
        f"nor {container.state_dir} is there",
        "see them all: torpor status",
        exit_code=_NO_SUCH,
    )


def names() -> list[str]:
    names = set()
    for directory, suffix in ((places.DEFINITION_ROOT, ".yaml"), (places.STATE_ROOT, "")):
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        names |= {entry.removesuffix(suffix) for entry in entries if entry.endswith(suffix)}
    return sorted(name for name in names if valid_name(name))


def describe(container: Container) -> dict[str, object]:
    try:
        known = state.read(container)
    except TorporError as error:
        known = state.State(state.NONE, reason=error.message)
    unit = Unit(container)
    active_state = unit.active_state
    asleep = known.name in state.RESTORABLE
    service = unit.properties(("MemoryCurrent", "Result"))
    row: dict[str, object] = {
        "name": container.name,
        "state": known.name,
        "unit": active_state,
        "slice": unit.slice,
        "result": _text(service.get("Result")),
        "generation": known.generation,
        "since": _iso(known.since_s),
        "reason": known.reason,
        "memory_bytes": _memory_bytes(service.get("MemoryCurrent")),
        "size_bytes": None,
        "taken": None,
        "frozen_s": known.frozen_s if asleep else None,
    }
    if asleep:
        try:
            manifest = images.read_manifest(container, Generation(container, known.generation))
            row["size_bytes"] = manifest.size_bytes
            row["taken"] = _iso(float(manifest.facts.get("taken", "0")))
        except TorporError as error:
            row["reason"] = str(error)
    row["addresses"] = _addresses(container)
    row["snapshots"] = _snapshots(container)
    row["says"] = _words(known, active_state)
    return row


def _text(said: object) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else ""


def _memory_bytes(said: object) -> int | None:
    """What systemd counts; it says the largest number where it counts nothing."""
    return said if isinstance(said, int) and said < _UNKNOWN_BYTES else None


def _snapshots(container: Container) -> list[dict[str, object]]:
    """What it can be rolled back to, oldest first."""
    try:
        known = snapshots.known(container)
    except TorporError:  # of a newer torpor; its state says so
        return []
    return [
        {
            "generation": one.number,
            "taken": _iso(one.taken_s),
            "size_bytes": one.manifest.size_bytes,
            "files_bytes": one.files_bytes,
        }
        for one in known
    ]


def _addresses(container: Container) -> list[str]:
    """What its lease gives it of a network of its own."""
    try:
        lease = leases.read(container)
    except (TorporError, OSError):
        return []
    return [one for one in (lease.address, lease.address6) if one] if lease else []


def _words(known: state.State, unit: str) -> str:
    """One word for people; a record that says it runs is only as good as its unit."""
    if known.name == state.RUNNING and unit not in ("active", "deactivating", "activating"):
        return "ended" if known.boot == state.boot_id() else "crashed"
    if known.name == state.DUMPING and unit == "active":
        return "running"  # a snapshot is being taken
    if known.name == state.NONE and known.since_s:
        return "no memory"
    return _WORDS[known.name]


def _iso(since_s: float) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(since_s)) if since_s else None


def _print_one(row: dict[str, object]) -> None:
    size = row["size_bytes"]
    lines = [
        ("Container", row["name"]),
        ("State", f"{row['says']} ({row['state']})"),
        ("Unit", row["unit"]),
        ("Since", row["since"] or "-"),
        ("Why", row["reason"] or "-"),
        ("Generation", row["generation"] or "-"),
    ]
    if isinstance(size, int):
        lines += [("Image", mebibytes(size)), ("Taken", row["taken"])]
    if row["frozen_s"]:
        lines.append(("Frozen", f"{row['frozen_s']:.2f} s"))
    addresses = row["addresses"]
    if isinstance(addresses, list) and addresses:
        lines.append(("Addresses", ", ".join(addresses)))
    for one in snapshots.known(Container(str(row["name"]))):
        size_text = (
            f"{mebibytes(one.manifest.size_bytes)} and {mebibytes(one.files_bytes)} of files"
        )
        lines.append(("Snapshot", f"{one.number}, {_iso(one.taken_s)}, {size_text}"))
    if kept := rollback.kept(Container(str(row["name"]))):
        lines.append(("Before", f"the files of before the rollback: {', '.join(kept)}"))
    for label, value in lines:
        print(f"{label + ':':<12}{plain(value)}")


def _print_table(rows: list[dict[str, object]]) -> None:
    shown = []
    for row in rows:
        size = row["size_bytes"] or row["memory_bytes"]
        shown.append(
            (
                str(row["name"]),
                str(row["says"]),
                str(row["since"] or "-")[:_TO_THE_MINUTE].replace("T", " "),
                mebibytes(size) if isinstance(size, int) else "-",
                str(row["slice"] or "-"),
                str(row["generation"] or "-"),
                str(row["result"] or "-"),
                str(row["reason"] or "-"),
            )
        )
    header = ("NAME", "STATE", "SINCE", "SIZE", "SLICE", "GEN", "RESULT", "WHY")
    lines = table.lines(header, shown, right="SIZE GEN", width=table.width())
    if _is_coloured():
        place = max(len(row[0]) for row in [header, *shown]) + 2
        lines[1:] = [
            _coloured(line, place, str(row["says"]), str(row["state"]))
            for line, row in zip(lines[1:], rows, strict=True)
        ]
    print("\n".join(lines or ["  ".join(header)]))


def _is_coloured() -> bool:
    """On a terminal only, and not where somebody wants none (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def _coloured(line: str, place: int, word: str, name: str) -> str:
    colour = _RED if word == "crashed" else _COLOURS.get(name)
    if colour is None or line[place : place + len(word)] != word:
        return line
    return f"{line[:place]}\033[{colour}m{word}\033[0m{line[place + len(word) :]}"
