"""What counts as a difference between two generations, and what every wake changes."""

import dataclasses

from torpor import comparison
from torpor.commands import diff
from torpor.comparison import CAME, STAYED, WENT, ProcessDifference
from torpor.dumped_mounts import Mount
from torpor.dumped_processes import Process
from torpor.open_files import OpenFile
from torpor.page_difference import Pages


def process(*files: OpenFile) -> Process:
    return Process(
        pid=1,
        ppid=0,
        pgid=1,
        sid=1,
        name="sh",
        command=["sh"],
        state="running",
        threads=1,
        uid=0,
        gid=0,
        memory_bytes=0,
        shared_bytes=0,
        mapped_bytes=0,
        mount_namespace=7,
        files=[*files],
    )


def files(before: list[OpenFile], after: list[OpenFile]) -> tuple[list[int], list[int]]:
    opened, closed = comparison._files(process(*before), process(*after))
    return [one.fd for one in opened], [one.fd for one in closed]


def test_how_far_a_file_was_read_is_no_difference() -> None:
    before = OpenFile(3, "file", "/log", "w", position_bytes=10, size_bytes=10)
    after = OpenFile(3, "file", "/log", "w", position_bytes=99, size_bytes=99)
    assert files([before], [after]) == ([], [])


def test_numbers_that_each_wake_gives_anew_are_none_either() -> None:
    before = [OpenFile(3, "pipe", "205195", "r"), OpenFile(4, "unix", "", peer="17")]
    after = [OpenFile(3, "pipe", "317", "r"), OpenFile(4, "unix", "", peer="99")]
    assert files(before, after) == ([], [])
    lost = dataclasses.replace(after[1], peer="")
    assert files(before, [after[0], lost]) == ([4], [4])


def test_another_file_at_a_descriptor_is_opened_and_closed() -> None:
    before = [OpenFile(3, "file", "/a", "r"), OpenFile(4, "file", "/b", "r")]
    after = [OpenFile(3, "file", "/c", "r"), OpenFile(5, "file", "/b", "r")]
    assert files(before, after) == ([3, 5], [3, 4])


def mount(place: str, **values: object) -> Mount:
    found = Mount(13, place, "tmpfs", "tmpfs", "", False, False, "", None)
    return dataclasses.replace(found, **values)  # type: ignore[arg-type]


def test_mounts_are_told_by_what_they_are() -> None:
    before = [mount("/run"), mount("/mnt"), mount("/mnt"), mount("/usr", read_only=True)]
    after = [mount("/run", namespace=14, content_bytes=5), mount("/mnt"), mount("/usr")]
    mounted, unmounted = comparison._mounts(before, after)
    assert mounted == [mount("/usr")]
    assert unmounted == [mount("/mnt"), mount("/usr", read_only=True)]


def change(pid: int, what: str, before: int, after: int, pages: Pages) -> ProcessDifference:
    return ProcessDifference(what, pid, "sh", ["sh"], before, after, pages, [], [])


def test_only_processes_that_changed_are_shown() -> None:
    mib = 1 << 20
    shown = diff._processes(
        [
            change(1, STAYED, mib, 3 * mib, Pages(same=256, changed=2, new=512)),
            change(2, STAYED, mib, mib, Pages(same=256)),
            change(3, CAME, 0, mib, Pages(new=256)),
            change(4, WENT, mib, 0, Pages(gone=256)),
        ]
    )
    assert [" ".join(line.split()) for line in shown[1:]] == [
        "1 3.0 MiB +2.0 MiB 8 KiB 2.0 MiB 0 KiB sh",
        "+ 3 1.0 MiB +1.0 MiB 0 KiB 1.0 MiB 0 KiB sh",
        "- 4 0 KiB -1.0 MiB 0 KiB 0 KiB 1.0 MiB sh",
        "and 1 in whose memory nothing changed",
    ]
