"""Show what the images of a generation hold, or those of an archive."""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable

from torpor import archive, images, inspection, open_files, state, table
from torpor.container import Container, valid_name
from torpor.criu_images import PAGE_BYTES
from torpor.dumped_mounts import Mount
from torpor.dumped_processes import RUNNING, ZOMBIE, Process
from torpor.errors import HungError, ImageError, RecordError, TorporError
from torpor.images import Generation, Verification
from torpor.inspection import Inspection
from torpor.open_files import OpenFile
from torpor.talk import report, size
from torpor.unpacked import unpacked

_PIDS_SHOWN = 4
_SHOWN_BYTES = 50 << 10  # of what a tmpfs holds: an empty one is an archive too
_SPACE = {
    inspection.PROCESS: "memory of",
    inspection.SHARED: "shared memory",
    inspection.DELETED: "deleted file",
    inspection.CONTENT: "content of",
    inspection.OTHER: "the other",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME|FILE", help="the container, or an archive; '-' for stdin"
    )
    parser.add_argument(
        "--generation", metavar="N", type=int, help="images of this number; default: the newest"
    )
    parser.add_argument("--verify", action="store_true", help="read all, and compare checksums")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")


def run(options: argparse.Namespace) -> int:
    if _is_archive(options.name):
        return _run_on_archive(options)
    container = Container(options.name)
    generation = inspection.find(container, options.generation)
    found = inspection.read(container, generation)
    damage = _damage(container, generation) if options.verify else None
    verified = damage is None if options.verify else None
    sleeps = _sleeps(container, generation)
    if options.json:
        _print_json(container, generation, found, asleep=sleeps, verified=verified)
    else:
        where = f"{generation.number}, {'asleep' if sleeps else 'kept'}, in {generation.path}"
        rows = [("Container", container.name), ("Generation", where), *_summary(found, verified)]
        print("\n".join(_text(rows, found)))
    return 0 if damage is None else report(container.name, damage)


def _is_archive(words: str) -> bool:
    """A container's name has no slash; a file has precedence only over no container."""
    if "/" in words or words == archive.STANDARD:
        return True
    if not os.path.isfile(words):
        return False
    return not valid_name(words) or not os.path.lexists(Container(words).state_dir)


def _run_on_archive(options: argparse.Namespace) -> int:
    if options.generation is not None:
        raise TorporError("an archive has one generation only", "leave out --generation")
    with archive.opened(options.name) as reader, unpacked(reader) as found:
        inspected = inspection.of(found.generation, found.manifest())
        verified = found.is_verified or None  # what podman writes has no checksums
        signer, doubt = found.signer()
        if options.json:
            more = {"archive": reader.where, "signer": signer}
            _print_json(
                found.container,
                found.generation,
                inspected,
                asleep=False,
                verified=verified,
                **more,
            )
            return 0
        rows = [
            ("Archive", reader.where if reader.is_ours else f"{reader.where}, of podman"),
            ("Container", found.container.name),
            ("Signed by", signer or f"- ({doubt})"),
            *_summary(inspected, verified, "it has none"),
        ]
        print("\n".join(_text(rows, inspected)))
    return 0


def _print_json(
    container: Container,
    generation: Generation,
    found: Inspection,
    *,
    asleep: bool,
    verified: bool | None,
    **more: str,
) -> None:
    document = {
        "name": container.name,
        "generation": generation.number,
        "path": more.get("archive", generation.path),
        "asleep": asleep,
        "verified": verified,
        **more,
        **dataclasses.asdict(found),
    }
    json.dump(document, sys.stdout, indent=2)
    print()


def _damage(container: Container, generation: Generation) -> Exception | None:
    """What is not as it was written."""
    try:
        manifest = images.read_manifest(container, generation)
        Verification(generation, manifest).verdict(lambda: None)
    except (ImageError, HungError, OSError) as error:
        return error
    return None


def _sleeps(container: Container, generation: Generation) -> bool:
    """Whether a start wakes it; others are there to be looked at."""
    try:
        known = state.read(container)
    except RecordError:
        return False
    its_place = container.generation_dir(known.generation)
    return known.name in state.RESTORABLE and generation.path == its_place


def _text(rows: list[tuple[str, str]], found: Inspection) -> list[str]:
    width = table.width()
    own, sockets = _open_files(found.processes)
    sections = (
        ("Space", _space(found)),
        ("Processes", _processes(found.processes)),
        ("Shared memory", _shared_memory(found)),
        ("Open files", own),
        ("Sockets", sockets),
        ("Mounts", _mounts(found)),
    )
    lines = [line for label, value in rows for line in table.labelled(label, value, width)]
    return lines + [
        line for title, shown in sections for line in table.section(title, shown, width)
    ]


def _summary(
    found: Inspection, verified: bool | None, unverified: str = "not compared (--verify)"
) -> list[tuple[str, str]]:
    facts = found.facts
    checked = {True: "as they were written", False: "DAMAGED", None: unverified}
    return [
        ("Taken", ", ".join(filter(None, (taken(facts), facts.get("reason"))))),
        ("Made by", f"CRIU {facts.get('criu', '?')} on Linux {facts.get('kernel', '?')}"),
        ("Boot", facts.get("boot", "?")),
        ("Size", f"{size(found.size_bytes)} in {found.files} files"),
        ("Checksums", checked[verified]),
        ("Connections", "kept" if facts.get("tcp-lock") else "closed at a wake"),
        *_times(found),
    ]


def taken(facts: dict[str, str]) -> str:
    if "taken" not in facts:
        return "?"
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(float(facts.get("taken", "0"))))


def _times(found: Inspection) -> list[tuple[str, str]]:
    times = found.times
    if times is None:
        return []
    written = size(times.pages_written * PAGE_BYTES)
    return [
        ("CRIU froze", f"{times.frozen_s:.3f} s, of which {times.freezing_s:.3f} s to freeze"),
        (
            "CRIU dumped",
            f"memory in {times.memory_dump_s:.3f} s: {written} written, in "
            f"{times.memory_write_s:.3f} s",
        ),
    ]


def _space(found: Inspection) -> list[str]:
    whole = max(found.size_bytes, 1)
    rows = [
        (
            size(one.size_bytes),
            f"{100 * one.size_bytes / whole:.0f} %",
            f"{_SPACE[one.kind]} {one.name}",
        )
        for one in found.space
    ]
    return table.lines(("SIZE", "SHARE", "WHAT"), rows, right="SIZE SHARE")


def _processes(processes: list[Process]) -> list[str]:
    depths: dict[int, int] = {}
    rows = []
    for one in processes:
        depths[one.pid] = depth = depths.get(one.ppid, -1) + 1
        rows.append(
            (
                str(one.pid),
                "-" if one.uid is None else str(one.uid),
                str(one.threads),
                size(one.memory_bytes),
                size(one.shared_bytes),
                _branch(depth) + command(one),
            )
        )
    header = ("PID", "UID", "THREADS", "MEMORY", "SHARED", "COMMAND")
    return table.lines(header, rows, right="PID UID THREADS MEMORY SHARED")


def _branch(depth: int) -> str:
    """As ps(1) draws a forest."""
    return "    " * (depth - 1) + " \\_ " if depth else ""


def command(process: Process) -> str:
    """What people know a process by."""
    words = " ".join(process.command) or f"[{process.name}]"
    if process.state == ZOMBIE:
        return f"{words} <defunct>"
    return words if process.state == RUNNING else f"{words} <{process.state}>"


def _shared_memory(found: Inspection) -> list[str]:
    rows = [(size(one.memory_bytes), _pids(one.pids), one.name) for one in found.shared_memory]
    return table.lines(("MEMORY", "PROCESSES", "NAME"), rows, right="MEMORY")


def _open_files(processes: list[Process]) -> tuple[list[str], list[str]]:
    """Files and what else is open, and sockets: once, where processes have them from each other."""
    holders: dict[OpenFile, list[int]] = {}
    for process in processes:
        for one in process.files:
            holders.setdefault(one, []).append(process.pid)
    files, sockets = [], []
    for one, pids in holders.items():
        if one.kind in open_files.SOCKETS:
            sockets.append((_pids(pids), str(one.fd), one.kind, one.state, _ends(one)))
        else:
            files.append((_pids(pids), str(one.fd), one.kind, one.mode, _named(one)))
    return (
        table.lines(("PROCESSES", "FD", "KIND", "MODE", "NAME"), files, right="FD"),
        table.lines(("PROCESSES", "FD", "KIND", "STATE", "ADDRESS"), sockets, right="FD"),
    )


def _ends(socket: OpenFile) -> str:
    return f"{socket.name} - {socket.peer}" if socket.peer else socket.name


def _named(file: OpenFile) -> str:
    return f"{file.name} (deleted)" if file.deleted else file.name


def _pids(pids: Iterable[int]) -> str:
    words = [str(pid) for pid in pids]
    more = len(words) - _PIDS_SHOWN
    return " ".join([*words[:_PIDS_SHOWN], *([f"+{more}"] if more > 0 else [])])


def _mounts(found: Inspection) -> list[str]:
    spaces = {one.namespace for one in found.mounts}
    rows = [_mount(one, len(spaces) > 1) for one in found.mounts]
    return table.lines(("PLACE", "TYPE", "", "FROM"), rows)


def _mount(mount: Mount, several: bool) -> tuple[str, ...]:
    place = f"{mount.place} in {mount.namespace}" if several else mount.place
    kind = mount.type or ("bind" if mount.outside else "-")
    content = mount.content_bytes or 0
    saved = f", with {size(content)} in the images" if content > _SHOWN_BYTES else ""
    return place, kind, "ro" if mount.read_only else "", mount.source + saved
