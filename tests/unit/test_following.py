"""Pages that are read while they are written."""

import os
import time
from pathlib import Path

import pytest
import xxhash

from torpor.following import Following, Hash, zeroes

PIECE = os.urandom(300_001)


def test_what_grows_is_read_to_where_it_was_and_then_to_its_end(tmp_path: Path) -> None:
    following = Following(str(tmp_path))
    with (tmp_path / "pages-1.img").open("wb", buffering=0) as pages:
        for _ in range(20):
            pages.write(PIECE)
            time.sleep(0.003)
        (tmp_path / "core-1.img").write_bytes(PIECE)
        found = following.end()
        pages.write(PIECE)
    assert set(found) == {"pages-1.img"}
    begun = found["pages-1.img"]
    assert begun.size_bytes > 0
    with (tmp_path / "pages-1.img").open("rb") as file:
        while begun.read_on(file.fileno()):
            pass
    assert begun.hexdigest() == xxhash.xxh3_128_hexdigest(PIECE * 21)


def test_what_the_kernel_says_once_of_a_file_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", fails)
    (tmp_path / "pages-1.img").write_bytes(PIECE)
    following = Following(str(tmp_path))
    time.sleep(0.1)
    with pytest.raises(OSError, match="Input/output error"):
        following.end()


def test_one_that_is_left_alone_closes_its_files(tmp_path: Path) -> None:
    (tmp_path / "pages-1.img").write_bytes(PIECE)
    before = len(os.listdir("/proc/self/fd"))
    following = Following(str(tmp_path))
    time.sleep(0.1)
    following.abandon()
    following.end()
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_take_turns_with_one_buffer(tmp_path: Path) -> None:
    buffer = bytearray(1000)
    hashes = [Hash(buffer), Hash(buffer)]
    path = tmp_path / "file"
    path.write_bytes(PIECE)
    with path.open("rb") as file:
        while hashes[0].read_on(file.fileno()) and hashes[1].read_on(file.fileno()):
            pass
    assert {each.hexdigest() for each in hashes} == {xxhash.xxh3_128_hexdigest(PIECE)}


def _zeroes(content: bytes, piece: int) -> list[tuple[int, int]]:
    """As a reader finds them that gets a piece at a time."""
    found = []
    for offset in range(0, len(content), piece):
        part = bytearray(content[offset : offset + piece])
        # What an earlier piece left behind does not count.
        buffer = part + bytes(piece - len(part))
        found += list(zeroes(buffer, offset, len(part)))
    return found


def test_zeroes_are_found_in_whole_blocks_wherever_a_read_began() -> None:
    block = 64 << 10
    full, empty = b"x" * block, bytes(block)
    content = full + empty + empty + full + empty + bytes(block - 1)
    assert _zeroes(content, len(content)) == [(block, 3 * block), (4 * block, 5 * block)]
    assert _zeroes(content, 2 * block) == [
        (block, 2 * block),
        (2 * block, 3 * block),
        (4 * block, 5 * block),
    ]
    # A read that ended amid a block: that one is seen by nobody, and stays.
    assert _zeroes(content, block + 1) == []
    shifted = [(2 * block, 3 * block), (5 * block, 6 * block)]
    assert list(zeroes(bytearray(content), 1, len(content))) == shifted


def test_of_zeroes_holes_are_made_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torpor.following._PUNCH_S", 60.0)  # the disk of a test may be slow
    path = tmp_path / "pages-1.img"
    content = os.urandom(1 << 20) + bytes(3 << 20) + os.urandom(100_000) + bytes(200_000)
    path.write_bytes(content)
    before = path.stat().st_blocks
    following = Following(str(tmp_path))
    time.sleep(0.1)
    begun = following.end()["pages-1.img"]
    with path.open("rb") as file:
        while begun.read_on(file.fileno()):
            pass
    assert path.read_bytes() == content
    assert begun.hexdigest() == xxhash.xxh3_128_hexdigest(content)
    assert path.stat().st_blocks * 512 <= before * 512 - (3 << 20)
