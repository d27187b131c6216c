"""Two memories compared page by page, in bounded memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torpor.criu_images import PAGE_BYTES, ImageDirectory, Run
from torpor.errors import ImageError

_CHUNK_PAGES = 256


class Memory(NamedTuple):
    """The pages of a process, or of a shared memory."""

    runs: Iterator[Run]  # by rising address
    fd: int  # of the pages image


@dataclass(frozen=True)
class Pages:
    """How many pages are as they were, changed, are there only later or were only before."""

    same: int = 0
    changed: int = 0
    new: int = 0
    gone: int = 0


def compare_pagemaps(
    before: ImageDirectory, pagemap_before: str, after: ImageDirectory, pagemap_after: str
) -> Pages:
    """Raises ImageError, OSError."""
    with (
        before.open_pages(pagemap_before) as pages_before,
        after.open_pages(pagemap_after) as pages_after,
    ):
        return compare(
            Memory(before.runs(pagemap_before), pages_before.fileno()),
            Memory(after.runs(pagemap_after), pages_after.fileno()),
        )


def compare(before: Memory, after: Memory) -> Pages:
    """Raises ImageError, OSError."""
    same = changed = new = gone = 0
    one, other = next(before.runs, None), next(after.runs, None)
    while one and other:
        if one.address < other.address:
            head, one = _split(one, other.address, before)
            gone += head.pages
        elif other.address < one.address:
            head, other = _split(other, one.address, after)
            new += head.pages
        else:
            end = min(one.end, other.end)
            left, one = _split(one, end, before)
            right, other = _split(other, end, after)
            alike = _alike(left, before.fd, right, after.fd)
            same += alike
            changed += left.pages - alike
    gone += _rest(one, before)
    new += _rest(other, after)
    return Pages(same, changed, new, gone)


def _split(run: Run, address: int, memory: Memory) -> tuple[Run, Run | None]:
    """What of a run lies below an address, and what comes next."""
    if run.end <= address:
        return run, next(memory.runs, None)
    pages = (address - run.address) // PAGE_BYTES
    rest = Run(address, run.pages - pages, _offset_bytes(run) + pages * PAGE_BYTES)
    return Run(run.address, pages, run.offset_bytes), rest


def _rest(run: Run | None, memory: Memory) -> int:
    return (run.pages if run else 0) + sum(one.pages for one in memory.runs)


def _alike(left: Run, left_fd: int, right: Run, right_fd: int) -> int:
    """How many pages of two runs of the same length are alike."""
    alike = 0
    for at in range(0, left.pages, _CHUNK_PAGES):
        pages = min(_CHUNK_PAGES, left.pages - at)
        one = _read(left_fd, left, at, pages)
        other = _read(right_fd, right, at, pages)
        alike += pages if one == other else _alike_pages(one, other)
    return alike


def _alike_pages(one: bytes, other: bytes) -> int:
    return sum(
        one[at : at + PAGE_BYTES] == other[at : at + PAGE_BYTES]
        for at in range(0, len(one), PAGE_BYTES)
    )


def _read(fd: int, run: Run, at: int, pages: int) -> bytes:
    return os.pread(fd, pages * PAGE_BYTES, _offset_bytes(run) + at * PAGE_BYTES)


def _offset_bytes(run: Run) -> int:
    if run.offset_bytes is None:
        raise ImageError("what it has in common with an earlier dump is not in its images")
    return run.offset_bytes
