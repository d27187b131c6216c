"""An archive is taken as it was written, or refused in one line that names what is wrong."""

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import archive, signature
from torpor.archive import Reader, Writer
from torpor.errors import ArchiveError, TorporError

SMALL, LARGE = archive.DOCUMENT_MAX_BYTES, 1 << 30
FACTS = {"name": "web", "machine": "x86_64", "signed": "no", "size": "100"}
CONTENT = {
    archive.CONFIG: b'{"id": "1"}\n',
    archive.SPEC: b"{}\n",
    archive.DEFINITION: b"rootfs: /srv/web\ncommand: [x]\n",
    archive.DELETED: b'["/gone"]\n',
    archive.ROOTFS: bytes(10240),
    "checkpoint/inventory.img": b"images" * 100,
    "checkpoint/pages-1.img": bytes(range(256)) * 1024,
}
Entries = list[tuple[tarfile.TarInfo, bytes]]


def write(path: Path, sign: Callable[[bytes], bytes] | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    writer = Writer(fd, FACTS, lambda _: None)
    try:
        for name, content in CONTENT.items():
            if name.startswith("checkpoint/inv"):
                writer.add_directory("checkpoint")
            writer.add(name, content)
        writer.finish(sign)
    finally:
        writer.close()
        os.close(fd)


def read(path: Path) -> dict[str, bytes]:
    fd = os.open(path, os.O_RDONLY)
    try:
        with Reader(fd, "x.tar") as found:
            if not found.is_ours:  # its first name was changed, and the sum of that made to fit
                raise ArchiveError("it is somebody else's")
            assert found.header == FACTS
            return {
                member.path: member.read_all(LARGE if "/" in member.path else SMALL)
                for member in found.members()
                if not member.entry.info.isdir()
            }
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good archive, as tar has it."""
    path = tmp_path_factory.mktemp("archive") / "good"
    write(path)
    return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive") / "changed"


def entries(content: bytes) -> Entries:
    found = []
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for info in tar:
            file = tar.extractfile(info)
            found.append((info, file.read() if file else b""))
    return found


def packed(found: Entries) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in found:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"  # RFC 8878: zstd
    assert read(tmp_path / "a") == CONTENT


@pytest.mark.parametrize("program", ["cat", "gzip", "zstd"])
def test_it_may_be_compressed_anew(plain: bytes, tmp_path: Path, program: str) -> None:
    done = subprocess.run([program], input=plain, capture_output=True, check=True)
    (tmp_path / "a").write_bytes(done.stdout)
    assert read(tmp_path / "a") == CONTENT


def test_a_reader_may_skip_what_it_does_not_want(tmp_path: Path) -> None:
    write(tmp_path / "a")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    with Reader(fd, "x.tar") as found:
        names = [member.path for member in found.members() if member.read(3) is not None]
    os.close(fd)
    assert names == [*list(CONTENT)[:-2], "checkpoint", *list(CONTENT)[-2:]]


def swapped(found: Entries) -> Entries:
    found[-2], found[-3] = found[-3], found[-2]
    return found


def named(found: Entries, at: int, name: str) -> Entries:
    found[at][0].name = name
    return found


def kind(found: Entries, at: int, kind: bytes, link: str = "") -> Entries:
    info = found[at][0]
    info.type, info.linkname = kind, link
    found[at] = (info, b"")
    return found


def replaced(found: Entries, at: int, content: bytes) -> Entries:
    found[at] = (found[at][0], content)
    return found


HEADER_2 = b"torpor-archive=2\nname=web\n"
ATTACKS: dict[str, tuple[Callable[[Entries], Entries], str]] = {
    "an-entry-is-missing": (lambda found: [*found[:3], *found[4:]], "deleted.files"),
    "the-last-entry-is-missing": (lambda found: [*found[:-2], found[-1]], "pages-1.img"),
    "the-manifest-is-missing": (lambda found: found[:-1], "torpor/manifest is missing"),
    "only-the-header": (lambda found: found[:1], "torpor/manifest is missing"),
    "an-entry-out-of-place": (swapped, "is unexpected|place"),
    "the-manifest-first": (lambda found: [found[0], found[-1], *found[1:-1]], "out of its place"),
    "an-entry-twice": (lambda found: [*found[:2], *found[1:]], "twice"),
    "an-image-twice": (lambda found: [*found[:-1], *found[-2:]], "twice"),
    "an-entry-of-another-name": (lambda found: named(found, 1, "config.dmp"), "config.dmp"),
    "an-image-in-an-image": (lambda found: named(found, -2, "checkpoint/a/b"), "a/b"),
    "an-absolute-path": (lambda found: named(found, -2, "/etc/owned"), "etc/owned"),
    "a-path-that-climbs": (lambda found: named(found, -2, "checkpoint/../x"), "x"),
    "the-directory-as-a-file": (lambda found: named(found, -2, "checkpoint"), "twice"),
    "a-link": (lambda found: kind(found, -2, tarfile.SYMTYPE, "/etc/passwd"), "pages-1.img"),
    "a-hard-link": (lambda found: kind(found, -2, tarfile.LNKTYPE, archive.SPEC), "pages-1.img"),
    "a-device": (lambda found: kind(found, -2, tarfile.CHRTYPE), "pages-1.img"),
    "a-directory-as-an-image": (lambda found: kind(found, -2, tarfile.DIRTYPE), "pages-1.img"),
    "another-version": (lambda found: replaced(found, 0, HEADER_2), "in format 2"),
    "a-header-of-bytes": (lambda found: replaced(found, 0, b"\xff" * 10), "header"),
    "a-large-header": (lambda found: replaced(found, 0, bytes(1 << 17)), "larger than"),
    "a-large-document": (lambda found: replaced(found, 2, bytes(20 << 20)), "larger than"),
    "a-changed-document": (lambda found: replaced(found, 3, b"rootfs: /"), "definition.yaml"),
    "an-entry-that-is-longer": (lambda found: replaced(found, -2, bytes(4 << 20)), "pages-1.img"),
    "a-manifest-of-bytes": (lambda found: replaced(found, -1, b"\xff"), "manifest"),
    "an-empty-manifest": (lambda found: replaced(found, -1, b""), "manifest"),
    "a-manifest-of-nothing": (
        lambda found: replaced(found, -1, b"torpor-archive-manifest=1\n"),
        "not in the manifest",
    ),
    "something-after-the-manifest": (lambda found: [*found, found[1]], "twice|place"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_the_name_of_its_entry(
    name: str, plain: bytes, place: Path
) -> None:
    change, words = ATTACKS[name]
    place.write_bytes(packed(change(entries(plain))))
    with pytest.raises(ArchiveError, match=words) as refused:
        read(place)
    assert str(refused.value).startswith("x.tar") and "\n" not in str(refused.value)


@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_is_noticed(plain: bytes, place: Path, tenth: int) -> None:
    place.write_bytes(plain[: len(plain) * tenth // 10])
    with pytest.raises(ArchiveError):
        read(place)
    whole = subprocess.run(["zstd", "-cq"], input=plain, capture_output=True, check=True).stdout
    place.write_bytes(whole[: len(whole) * tenth // 10])
    with pytest.raises(ArchiveError):
        read(place)


@cases(150)
@given(st.data())
def test_whatever_was_changed_it_is_refused_in_order(
    plain: bytes, place: Path, data: st.DataObject
) -> None:
    changed = bytearray(plain)
    headers = [
        index for index in range(0, len(changed), 512) if changed[index + 257 :][:5] == b"ustar"
    ]
    start = data.draw(st.sampled_from(headers))
    for _ in range(data.draw(st.integers(1, 4))):
        at = start + data.draw(st.integers(0, 511))
        changed[at] = data.draw(st.integers(0, 255))
    place.write_bytes(changed)
    try:
        assert read(place) == CONTENT
    except TorporError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 1000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", place / name]
        subprocess.run(words, check=True)
    (place / "trusted").write_text(f"me@here {(place / 'mine.pub').read_text()}")
    yield place


def test_a_signature_says_who(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "TRUSTED", str(keys / "trusted"))
    signed = signature.sign(str(keys / "mine"), b"manifest")
    assert signature.verify(b"manifest", signed, "x.tar") == "me@here"
    for content, said in ((b"another", signed), (b"manifest", b"nonsense"), (b"manifest", b"")):
        with pytest.raises(ArchiveError):
            signature.verify(content, said, "x.tar")
    stranger = signature.sign(str(keys / "other"), b"manifest")
    with pytest.raises(ArchiveError, match="none of those"):
        signature.verify(b"manifest", stranger, "x.tar")


def test_a_signature_for_something_else_does_not_count(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature, "TRUSTED", str(keys / "trusted"))
    words = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(keys / "mine"), "-n", "file"]
    done = subprocess.run(words, input=b"manifest", capture_output=True, check=True)
    with pytest.raises(ArchiveError):
        signature.verify(b"manifest", done.stdout, "x.tar")
