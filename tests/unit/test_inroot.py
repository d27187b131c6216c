"""No link inside a root file system leads out of it, and nothing but a regular file is opened."""

import contextlib
import os
from pathlib import Path

import pytest

from torpor import inroot

LIMIT_BYTES = 1024


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("the host's")
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("the container's")
    return tmp_path / "root"


def read(root: Path, path: str) -> str:
    return inroot.read_in_root(str(root), path, LIMIT_BYTES).decode()


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "../../etc/passwd", "./etc/../etc/passwd"]
)
def test_a_path_begins_at_the_root_however_it_is_written(root: Path, path: str) -> None:
    assert read(root, path) == "the container's"


@pytest.mark.parametrize("target", ["/secret", "../../secret", "../../../../../../../../secret"])
def test_a_link_cannot_reach_a_file_outside(root: Path, target: str) -> None:
    (root / "etc/link").symlink_to(target)
    with pytest.raises(FileNotFoundError):
        read(root, "etc/link")


def test_an_absolute_link_to_the_hosts_file_is_read_inside(root: Path, tmp_path: Path) -> None:
    (root / "etc/link").symlink_to(tmp_path / "secret")
    with pytest.raises(FileNotFoundError):
        read(root, "etc/link")
    inside = root / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    (inside / "secret").write_text("the container's secret")
    assert read(root, "etc/link") == "the container's secret"


def test_a_linked_directory_cannot_lead_outside(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(root, "out/secret")


def test_an_absolute_link_is_resolved_inside(root: Path) -> None:
    (root / "usr").mkdir()
    (root / "usr/passwd").symlink_to("/etc/passwd")
    assert read(root, "usr/passwd") == "the container's"


def test_a_link_loop_ends_in_an_error(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        read(root, "loop")


def test_a_magic_link_of_proc_is_refused(root: Path) -> None:
    with (root / "etc/passwd").open() as opened, pytest.raises(OSError, match="symbolic links"):
        inroot.open_in_root("/proc/self/fd", str(opened.fileno()))


def test_a_fifo_is_refused_without_waiting_for_a_writer(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        inroot.open_in_root(str(root), "fifo")


def test_a_directory_is_refused(root: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read(root, "etc")


def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_is_not(root: Path) -> None:
    (root / "file").write_bytes(b"x" * LIMIT_BYTES)
    assert len(read(root, "file")) == LIMIT_BYTES
    (root / "file").write_bytes(b"x" * (LIMIT_BYTES + 1))
    with pytest.raises(OSError, match="larger than"):
        read(root, "file")


@pytest.mark.parametrize("path", ["etc/passwd", "etc/none", "etc", "fifo", "loop"])
def test_no_descriptor_is_left_open(root: Path, path: str) -> None:
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    with contextlib.suppress(OSError):
        read(root, path)
    assert os.listdir("/proc/self/fd") == before


def test_the_descriptor_is_not_inherited(root: Path) -> None:
    fd = inroot.open_in_root(str(root), "etc/passwd")
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_nul_in_a_path_is_refused(root: Path) -> None:
    with pytest.raises(OSError, match="NUL"):
        read(root, "etc/passwd\0.txt")
