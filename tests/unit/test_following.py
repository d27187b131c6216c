"""Pages that are read while they are written."""

import os
import time
from pathlib import Path

import pytest
import xxhash

from torpor.following import Following, Hash

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
