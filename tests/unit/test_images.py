"""Manifests: only what was sealed is believed."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor import images
from torpor.container import Container
from torpor.errors import ImageError, RecordError
from torpor.following import Following
from torpor.images import Generation, Verification
from torpor.patience import STOPPING, Patience, Stall

LARGE = bytes(3 << 20)


def nothing() -> None:
    pass


def patient() -> Stall:
    return Stall(Patience(Container("web"), STOPPING))


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    monkeypatch.setattr("torpor.container.STATE_ROOT", str(tmp_path))
    os.mkdir(tmp_path / "web")
    return Container("web")


@pytest.fixture
def sealed(container: Container) -> Generation:
    generation = images.next_generation(container, 0)
    generation.make()
    Path(generation.config).write_text("{}")
    Path(generation.images, "pages-1.img").write_bytes(LARGE)
    Path(generation.images, "pstree.img").write_bytes(b"small")
    following = Following(generation.images)
    facts = {"name": "web", "generation": "1"}
    images.seal(generation, facts, nothing, patient(), following)
    return generation


def verify(container: Container, generation: Generation) -> None:
    manifest = images.read_manifest(container, generation)
    Verification(generation, manifest).verdict(nothing, patient())


def test_a_sealed_generation_is_believed(container: Container, sealed: Generation) -> None:
    verify(container, sealed)
    assert images.read_manifest(container, sealed).size_bytes == len(LARGE) + 5 + 2


def test_any_changed_byte_is_found(container: Container, sealed: Generation) -> None:
    for name, at in (("pages-1.img", 2 << 20), ("pstree.img", 0)):
        path = Path(sealed.images, name)
        before = path.read_bytes()
        changed = bytearray(before)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ImageError, match="is damaged"):
            verify(container, sealed)
        path.write_bytes(before)
    verify(container, sealed)


def test_a_link_in_place_of_a_file_is_refused(container: Container, sealed: Generation) -> None:
    path = Path(sealed.images, "pstree.img")
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    with pytest.raises(ImageError, match="no regular file"):
        verify(container, sealed)


def test_a_manifest_of_another_name_or_number_is_refused(
    container: Container, sealed: Generation
) -> None:
    with pytest.raises(ImageError, match="is of name 'web'"):
        images.read_manifest(Container("other"), sealed)
    os.rename(sealed.path, container.generation_dir(2))
    with pytest.raises(ImageError, match="is of generation '1'"):
        images.read_manifest(container, Generation(container, 2))


def test_a_cut_manifest_is_never_believed(container: Container, sealed: Generation) -> None:
    whole = Path(sealed.manifest).read_bytes()
    for length in range(len(whole) - 1):
        with pytest.raises((ImageError, RecordError)):
            images.parse_manifest(whole[:length], "manifest")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_an_error(content: bytes) -> None:
    with pytest.raises((ImageError, RecordError, ValueError)):
        images.parse_manifest(content, "manifest")


def test_a_manifest_names_no_file_outside_its_generation() -> None:
    for path in ("../../etc/shadow", "/etc/shadow", "checkpoint/../../x"):
        text = images.Manifest({"name": "web"}, {path: ("0", 0)}).serialize()
        with pytest.raises(ImageError, match="outside its generation"):
            images.parse_manifest(text, "manifest")


def test_numbers_are_never_used_twice(container: Container, sealed: Generation) -> None:
    assert images.next_generation(container, 0).number == 2
    assert images.next_generation(container, 7).number == 8


def test_retention_keeps_the_newest(container: Container, sealed: Generation) -> None:
    for _ in range(3):
        images.next_generation(container, 0).make()
    images.forget_older(container, 2)
    assert images.generations(container) == [3, 4]
    images.forget_older(container, 0, but=3)
    assert images.generations(container) == [3]


def test_only_the_newest_is_kept_aside(container: Container, sealed: Generation) -> None:
    images.next_generation(container, 0).make()
    images.set_aside(container, 1)
    place = images.set_aside(container, 2)
    assert os.listdir(f"{container.state_dir}/aside") == ["2"]
    assert place == container.aside_dir(2)
    assert images.set_aside(container, 9) == ""
    assert os.listdir(f"{container.state_dir}/aside") == ["2"]


def test_removing_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(victim)
    images.remove(str(tree))
    assert not tree.exists()
    assert (victim / "file").exists()
