"""Show what became of a container between two of its generations."""

import argparse
import dataclasses
import json
import sys

from torpor import comparison, images, inspection, table
from torpor.commands.inspect import taken
from torpor.comparison import CAME, STAYED, WENT, Difference, ProcessDifference, Side
from torpor.container import Container
from torpor.criu_images import PAGE_BYTES
from torpor.dumped_mounts import Mount
from torpor.errors import ImageError, TorporError
from torpor.images import Generation
from torpor.open_files import OpenFile
from torpor.page_difference import Pages
from torpor.talk import size

_SIGNS = {CAME: "+", WENT: "-", STAYED: ""}
_NO_SUCH = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    newest = "a generation; default: the newest"
    parser.add_argument("before", metavar="A", type=int, nargs="?", help=f"{newest} but one")
    parser.add_argument("after", metavar="B", type=int, nargs="?", help=newest)
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    before, after = _chosen(container, options.before, options.after)
    sides = [Side(one.images, inspection.read(container, one)) for one in (before, after)]
    try:
        found = comparison.between(*sides)
    except (ImageError, OSError) as error:
        gone = next((one for one in (before, after) if inspection.is_gone(one)), after)
        raise inspection.unreadable(gone, error) from error
    if options.json:
        json.dump(_document(container, before, after, found), sys.stdout, indent=2)
        print()
    else:
        print("\n".join(_text(container, (before, after), sides, found)))
    return 0


def _chosen(
    container: Container, before: int | None, after: int | None
) -> tuple[Generation, Generation]:
    newest = inspection.find(container, after)
    if before is not None:
        return inspection.find(container, before), newest
    earlier = [number for number in images.generations(container) if number < newest.number]
    if not earlier:
        raise TorporError(
            f"{container.name}: there is only generation {newest.number}",
            "'keep: 2' in its definition keeps the one before, too",
            exit_code=_NO_SUCH,
        )
    return Generation(container, earlier[-1]), newest


def _document(
    container: Container, before: Generation, after: Generation, found: Difference
) -> dict[str, object]:
    return {
        "name": container.name,
        "before": before.number,
        "after": after.number,
        "page_bytes": PAGE_BYTES,
        **dataclasses.asdict(found),
    }


def _text(
    container: Container,
    generations: tuple[Generation, Generation],
    sides: list[Side],
    found: Difference,
) -> list[str]:
    width = table.width()
    before, after = generations
    was, now = (taken(side.found.facts) for side in sides)
    grown = found.size_after_bytes - found.size_before_bytes
    sizes = (size(found.size_before_bytes), size(found.size_after_bytes))
    lines = [
        *table.labelled("Container", container.name, width),
        *table.labelled("Generations", f"{before.number} -> {after.number}", width),
        *table.labelled("Taken", f"{was} -> {now}", width),
        *table.labelled("Size", f"{' -> '.join(sizes)} ({_signed(grown)})", width),
    ]
    lines += table.section("Processes", _processes(found.processes), width)
    lines += table.section("Shared memory", _shared_memory(found), width)
    lines += table.section("Opened (+) and closed (-)", _files(found.processes), width)
    lines += table.section("Mounted (+) and unmounted (-)", _mounts(found), width)
    return lines


def _signed(size_bytes: int) -> str:
    return f"+{size(size_bytes)}" if size_bytes > 0 else size(size_bytes)


def _processes(processes: list[ProcessDifference]) -> list[str]:
    changed = [one for one in processes if one.change != STAYED or _touched(one.pages)]
    rows = [
        (
            _SIGNS[one.change],
            str(one.pid),
            *_memory(one.memory_before_bytes, one.memory_after_bytes, one.pages),
            " ".join(one.command) or f"[{one.name}]",
        )
        for one in changed
    ]
    header = ("", "PID", "MEMORY", "GROWTH", "CHANGED", "NEW", "GONE", "COMMAND")
    lines = table.lines(header, rows, right="PID MEMORY GROWTH CHANGED NEW GONE")
    same = len(processes) - len(changed)
    return [*lines, *([f"and {same} in whose memory nothing changed"] if same else [])]


def _touched(pages: Pages) -> bool:
    return bool(pages.changed or pages.new or pages.gone)


def _memory(before_bytes: int, after_bytes: int, pages: Pages) -> tuple[str, ...]:
    counts = (pages.changed, pages.new, pages.gone)
    return (
        size(after_bytes),
        _signed(after_bytes - before_bytes),
        *(size(count * PAGE_BYTES) for count in counts),
    )


def _shared_memory(found: Difference) -> list[str]:
    rows = [
        (
            _SIGNS[one.change],
            *_memory(one.memory_before_bytes, one.memory_after_bytes, one.pages),
            one.name,
        )
        for one in found.shared_memory
        if one.change != STAYED or _touched(one.pages)
    ]
    header = ("", "MEMORY", "GROWTH", "CHANGED", "NEW", "GONE", "NAME")
    return table.lines(header, rows, right="MEMORY GROWTH CHANGED NEW GONE")


def _files(processes: list[ProcessDifference]) -> list[str]:
    rows = []
    for process in processes:
        signs = [("+", one) for one in process.opened] + [("-", one) for one in process.closed]
        rows += [(sign, str(process.pid), str(one.fd), one.kind, _said(one)) for sign, one in signs]
    return table.lines(("", "PID", "FD", "KIND", "NAME"), rows, right="PID FD")


def _said(file: OpenFile) -> str:
    words = (file.name, f"- {file.peer}" if file.peer else "", file.state or file.mode)
    return " ".join(word for word in (*words, "(deleted)" if file.deleted else "") if word)


def _mounts(found: Difference) -> list[str]:
    def row(sign: str, mount: Mount) -> tuple[str, ...]:
        return sign, mount.place, mount.type, "ro" if mount.read_only else "", mount.source

    rows = [row("+", one) for one in found.mounted] + [row("-", one) for one in found.unmounted]
    return table.lines(("", "PLACE", "TYPE", "", "FROM"), rows)
