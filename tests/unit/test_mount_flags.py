"""Which flags a restore lost, and records of them that may hold anything."""

from pathlib import Path

import pytest

from torpor import mount_flags
from torpor.errors import RecordError

TABLE = """\
30 20 0:1 / / rw,relatime - overlay overlay rw
32 31 0:1 /x /a ro,nosuid - tmpfs tmpfs rw
31 30 0:1 /x /a ro - tmpfs tmpfs rw
33 30 0:1 /x /with\\040blank ro,noatime shared:1 - tmpfs tmpfs rw
"""
FOUND = {
    ("/", 0): ("30", []),
    ("/a", 0): ("31", ["ro"]),
    ("/a", 1): ("32", ["ro", "nosuid"]),
    ("/with\\040blank", 0): ("33", ["ro", "noatime"]),
}


def test_mounts_at_one_place_are_told_apart_by_what_they_lie_on() -> None:
    assert mount_flags.flags(TABLE) == FOUND


def test_only_what_was_there_and_is_not_any_more_is_lost() -> None:
    saved = {("/", 0): ["ro"], ("/a", 1): ["ro"], ("/a", 0): ["ro", "noexec"], ("/gone", 0): ["ro"]}
    assert mount_flags.lost(saved, FOUND) == [("/", "30", ["ro"]), ("/a", "31", ["noexec"])]


@pytest.mark.parametrize(
    "line",
    [
        "mount=ro 0 /a",
        "namespace=1\nmount=rw 0 /a",
        "namespace=1\nmount=ro -1 /a",
        "namespace=1\nmount=ro 0 a",
        "namespace=1\nmount=",
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "mounts").write_text(f"torpor-mounts=1\n{line}\n")
    with pytest.raises(RecordError):
        mount_flags.Saved(str(tmp_path / "mounts"))


def test_a_generation_without_flags_is_not_refused(tmp_path: Path) -> None:
    mount_flags.Saved(str(tmp_path / "mounts")).put_back([])
