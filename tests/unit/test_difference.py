"""A tree comes out of a difference as it went in; nothing that an archive says gets out of it."""

import io
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import difference, tarball
from torpor.difference import Difference
from torpor.errors import ArchiveError, TorporError
from torpor.tarball import Tarball

HOUR_NS = 3_600_000_000_000


def archive_of(found: Difference) -> bytes:
    stream = found.open()
    try:
        content = b"".join(iter(lambda: stream.read(1 << 16), b""))
    finally:
        stream.close()
    assert found.size_bytes() == len(content)
    found.close()
    return content


def apply(root: Path, content: bytes, deleted: list[str] | None = None) -> list[str]:
    root.mkdir(exist_ok=True)
    source = io.BytesIO(content)
    archive = Tarball(source.read, "x.tar", difference.ENTRIES_MAX)
    warnings = difference.apply(str(root), archive, lambda _: None)
    return warnings + difference.remove(str(root), deleted or [])


def looks(root: Path) -> dict[str, tuple[object, ...]]:
    """All that is to be the same of each file."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        link = os.readlink(path) if path.is_symlink() else ""
        names = sorted(os.listxattr(path, follow_symlinks=False))
        xattrs = [os.getxattr(path, name, follow_symlinks=False) for name in names]
        found[str(path.relative_to(root))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink),
            *(content, link, names, xattrs),
        )
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_text("content")
    (root / "set-id").write_text("x")
    (root / "set-id").chmod(0o6755)
    os.link(root / "set-id", root / "dir/linked")
    (root / "link").symlink_to("/etc/passwd")
    (root / "dir/up").symlink_to("../../../..")
    os.mkfifo(root / "fifo", 0o640)
    (root / "-option\nand a line").write_text("odd")
    (root / os.fsdecode(b"\xff\xfe")).write_text("no text")
    (root / ("long" * 60)).write_text("a name of 240 bytes")
    os.setxattr(root / "dir", "user.note", bytes(range(256)))
    if not os.geteuid():
        os.chown(root / "link", 7, 8, follow_symlinks=False)
        os.chown(root / "dir/file", 1234567, 89)
    (root / "dir/sub").chmod(0o1777)
    for path in (root / "dir/sub", root / "dir", root):
        os.utime(path, ns=(HOUR_NS, HOUR_NS + 123_456_789))
    return root


def test_a_tree_is_the_same_on_the_other_side(tree: Path, tmp_path: Path) -> None:
    before = looks(tree)
    apply(tmp_path / "copy", archive_of(difference.of_tree(str(tree))))
    assert looks(tmp_path / "copy") == before


def test_the_size_is_known_before(tree: Path) -> None:
    """Of holes too, and of a file that is large but for them."""
    with open(tree / "holes", "wb") as file:
        file.truncate(1 << 32)
        for place in (5_000_000, 1 << 31):
            os.pwrite(file.fileno(), b"here", place)
    assert len(archive_of(difference.of_tree(str(tree)))) < 1 << 20


def test_holes_stay_holes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with open(tree / "holes", "wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), b"here", 5_000_000)
    apply(tmp_path / "copy", archive_of(difference.of_tree(str(tree))))
    status = (tmp_path / "copy/holes").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20
    with open(tmp_path / "copy/holes", "rb") as copied:
        assert os.pread(copied.fileno(), 6, 4_999_999) == b"\0here\0"


def test_a_socket_is_left_to_who_listens(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(tree)
        listener.bind("socket")
        os.chdir(before)
        assert b"socket" not in archive_of(difference.of_tree(str(tree)))


def test_what_is_deleted_goes_with_all_below_it(tree: Path, tmp_path: Path) -> None:
    content = archive_of(difference.of_tree(str(tree)))
    warnings = apply(tmp_path / "copy", content, ["/dir", "/link", "/absent"])
    assert not (tmp_path / "copy/dir").exists() and not (tmp_path / "copy/link").is_symlink()
    assert "1 files" in warnings[0] and "absent" in warnings[0]


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **said: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in said.items():
        setattr(info, key, value)
    return info.tobuf() + content + bytes(-len(content) % 512)


END = bytes(1024)
FILE = entry("a", content=b"first")
ATTACKS: dict[str, bytes] = {
    "absolute": entry("/etc/owned"),
    "upwards": entry("../owned"),
    "upwards-inside": entry("dir/../../owned"),
    "through-a-link": entry("way", tarfile.SYMTYPE, linkname="/tmp") + entry("way/owned"),
    "through-its-own-link": entry("way", tarfile.SYMTYPE, linkname="..") + entry("way/owned"),
    "through-a-link-that-was-there": entry("there/owned"),
    "a-hard-link-to-the-host": entry("owned", tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a-hard-link-upwards": entry("owned", tarfile.LNKTYPE, linkname="../outside"),
    "a-hard-link-through-a-link": entry("way", tarfile.SYMTYPE, linkname="/")
    + entry("owned", tarfile.LNKTYPE, linkname="way/etc/passwd"),
    "a-hard-link-to-a-link": entry("way", tarfile.SYMTYPE, linkname="/etc/passwd")
    + entry("owned", tarfile.LNKTYPE, linkname="way"),
    "a-hard-link-to-what-was-there": entry("owned", tarfile.LNKTYPE, linkname="kept"),
    "a-file-whose-directory-became-a-link": entry("d", tarfile.DIRTYPE)
    + entry("d/f", content=b"x")
    + entry("d/../d/./f"),
    "a-disk": entry("owned", tarfile.BLKTYPE, devmajor=8, devminor=0),
    "the-memory": entry("owned", tarfile.CHRTYPE, devmajor=1, devminor=1),
    "a-whiteout": entry("owned", tarfile.CHRTYPE, devmajor=0, devminor=0),
    "an-unknown-kind": entry("owned", b"Z"),
    "twice": FILE + FILE,
    "twice-by-another-name": FILE + entry("./a"),
    "no-directory": entry("nowhere/owned"),
    "a-file-as-a-directory": FILE + entry("a/owned"),
    "the-root-as-a-file": entry(".", content=b"x"),
    "an-owner-of-no-kind": entry("owned", uid=1 << 40),
    "cut": FILE[:-1],
    "cut-before-its-end": FILE,
    "a-damaged-header": FILE + b"x" * 512 + END,
    "more-after-its-end": FILE + END + b"x",
    "nothing": b"",
    "words": b"hello" * 1000,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_touches_nothing(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "there").symlink_to(tmp_path / "elsewhere")
    (root / "kept").write_text("kept")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outside").write_text("outside")
    content = ATTACKS[name]
    whole = content if content.endswith((END, b"x", b"hello")) or "cut" in name else content + END
    with pytest.raises(ArchiveError) as refused:
        apply(root, whole if name != "nothing" else b"")
    assert str(refused.value).startswith("x.tar") and "\n" not in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "outside", "root"]
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert os.stat("/etc/passwd").st_nlink == 1


@pytest.mark.parametrize("path", ["/", "", ".", "../outside", "/../outside", "way/file", "\0"])
def test_nothing_outside_is_deleted(path: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / "outside").write_text("x")
    link = entry("way", tarfile.SYMTYPE, linkname=str(tmp_path / "elsewhere"))
    try:
        assert apply(tmp_path / "root", link + END, [path])  # a warning
    except ArchiveError:
        pass
    assert (tmp_path / "outside").exists() and (tmp_path / "elsewhere/file").exists()


def bomb(records: int) -> bytes:
    """A pax header that says very much."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {f"SCHILY.xattr.user.{number}": "x" * 100_000 for number in range(records)}
    return info.tobuf(tarfile.PAX_FORMAT)


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="header"):
        apply(tmp_path / "root", bomb(50) + END)


def test_headers_before_headers_have_an_end(tmp_path: Path) -> None:
    one = bomb(1)[:-512]
    with pytest.raises(ArchiveError):
        apply(tmp_path / "root", one * 100 + entry("a") + END)


def test_an_archive_of_too_many_entries_is_refused() -> None:
    source = io.BytesIO(b"".join(entry(str(number)) for number in range(20)) + END)
    with pytest.raises(ArchiveError, match="more than 10"):
        list(Tarball(source.read, "x.tar", 10))


def test_what_needs_more_room_than_there_is_is_refused_by_name(tmp_path: Path) -> None:
    def refuse(one: tarball.Entry) -> None:
        raise one.error("is too large")

    (tmp_path / "root").mkdir()
    source = io.BytesIO(FILE + END)
    archive = Tarball(source.read, "x.tar", 10)
    with pytest.raises(ArchiveError, match="'a' is too large"):
        difference.apply(str(tmp_path / "root"), archive, refuse)


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")
def test_a_device_is_refused_at_the_export_already(tree: Path) -> None:
    os.mknod(tree / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    with pytest.raises(TorporError, match="disk"):
        difference.of_tree(str(tree))


def test_overlayfs_is_not_told_anything(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "mtime": "1.5"}
    warnings = apply(tmp_path / "root", info.tobuf(tarfile.PAX_FORMAT) + END)
    assert "stays behind" in warnings[0]
    assert os.listxattr(tmp_path / "root/a") == []


SEEDS = [content for name, content in ATTACKS.items() if name not in ("nothing", "words")]


@cases(300)
@given(st.data())
def test_whatever_was_changed_nothing_gets_out(tmp_path: Path, data: st.DataObject) -> None:
    place = tmp_path / f"{len(os.listdir(tmp_path))}"
    root = place / "outer/root"
    root.mkdir(parents=True)
    (root / "there").symlink_to(place)
    (root / "dir").mkdir()
    content = bytearray(data.draw(st.sampled_from(SEEDS)) + data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, len(content) - 511, 512):  # the sums are to be right, or little is read
        block = content[start : start + 512]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            content[start + 148 : start + 156] = b"%06o\0 " % total
    try:
        apply(root, bytes(content) + END)
    except ArchiveError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 1000
    assert os.listdir(place) == ["outer"] and os.listdir(place / "outer") == ["root"]
