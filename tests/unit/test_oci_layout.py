"""An image is what its digests say, or it is refused; its author reaches nothing outside of it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import image_config, image_store, oci_layout, process
from torpor.errors import TorporError
from torpor.image_config import ImageConfig
from torpor.json_shape import ShapeError
from torpor.oci_layout import Image
from torpor.values import WrongError
from torpor.yaml_tree import Scalar

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
SAID = {
    "created": "2026-01-02T03:04:05Z",
    "os": "linux",
    "config": {
        "User": "web:33",
        "Env": ["A=b", "EMPTY"],
        "Entrypoint": ["/bin/app"],
        "Cmd": ["serve", "--all"],
        "Volumes": {"/data/../data/": {}, "var/lib": {}},
        "WorkingDir": "srv",
        "Labels": {"org.example": "yes"},
        "StopSignal": "SIGINT",
    },
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("config", "Env", "Cmd", "Volumes", "User", "os", "a")) | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)

Json = dict[str, Any]


class Layout:
    """An OCI image layout being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)

    def blob(self, content: bytes | Json, media_type: str, **more: object) -> Json:
        """Add a blob; returns its descriptor."""
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        name = hashlib.sha256(raw).hexdigest()
        (self.directory / "blobs/sha256" / name).write_bytes(raw)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(raw), **more}

    def manifest(self, said: Json, **more: object) -> Json:
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(said, CONFIG),
            "layers": [self.blob(b"not a tar archive", LAYER)],
            "annotations": {"org.example.built": "here"},
        }
        return self.blob(manifest, MANIFEST, **more)

    def index(self, *descriptors: Json) -> None:
        index = {"schemaVersion": 2, "manifests": descriptors}
        (self.directory / "index.json").write_text(json.dumps(index))

    def load(self, tag: str = "") -> ImageConfig:
        return oci_layout.load(Image(str(self.directory), True, tag), "x86_64")

    def path(self, descriptor: Json) -> Path:
        return self.directory / "blobs" / str(descriptor["digest"]).replace(":", "/")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def tag(name: str) -> Json:
    return {REF_NAME: name}


def refused(layout: Layout, tag: str = "") -> WrongError:
    with pytest.raises(WrongError) as caught:
        layout.load(tag)
    return caught.value


def test_an_image_is_a_directory_or_a_tag_of_a_layout() -> None:
    def parsed(text: str) -> Image:
        return oci_layout.parse_image(Scalar(1, text, False))

    assert parsed("/srv/root//fs/") == Image("/srv/root/fs")
    assert parsed("oci:/srv/images:v1") == Image("/srv/images", True, "v1")
    assert parsed("oci:/srv/images") == Image("/srv/images", True)
    assert parsed("oci:/srv/images:docker.io/a/b:1").tag == "docker.io/a/b:1"
    assert str(parsed("oci:/srv/images:v1")) == "oci:/srv/images:v1"


@pytest.mark.parametrize(
    "text", ["", "/", "oci:", "oci:/", "oci:a:b", "redis", "oci:/a:", "oci:/a:-x", "/a/../b"]
)
def test_an_image_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        oci_layout.parse_image(Scalar(1, text, False))


def test_a_configuration_says_what_to_run_and_as_whom(layout: Layout) -> None:
    manifest = layout.manifest(SAID, annotations=tag("v1"))
    layout.index(manifest)
    assert layout.load("v1") == ImageConfig(
        digest=manifest["digest"],
        manifest_size_bytes=manifest["size"],
        command=("/bin/app", "serve", "--all"),
        env=("A=b", "EMPTY="),
        cwd="/srv",
        user="web:33",
        volumes=("/data", "/var/lib"),
        stop_signal="SIGINT",
        labels=(("org.example", "yes"),),
        annotations=(("org.example.built", "here"),),
        created="2026-01-02T03:04:05Z",
        config_digest=json.loads(layout.path(manifest).read_text())["config"]["digest"],
    )


def test_an_empty_configuration_leaves_everything_open(layout: Layout) -> None:
    layout.index(layout.manifest({}))
    found = layout.load()
    assert (found.command, found.env, found.cwd, found.user) == ((), (), "/", "")


def test_the_only_image_needs_no_tag_but_one_of_two_does(layout: Layout) -> None:
    first, second = (layout.manifest({"created": name}, annotations=tag(name)) for name in "ab")
    layout.index(first)
    assert layout.load().created == "a"
    layout.index(first, second)
    assert "a, b" in refused(layout).hint
    assert layout.load("b").created == "b"


def test_a_tag_that_is_not_there_or_there_twice_is_refused(layout: Layout) -> None:
    one = layout.manifest(SAID, annotations=tag("v1"))
    layout.index(one)
    assert "holds no image tagged 'v2'" in refused(layout, "v2").problem
    layout.index(one, one)
    assert "holds 2 images tagged 'v1'" in refused(layout, "v1").problem


def platform(architecture: str, system: str = "linux") -> Json:
    return {"os": system, "architecture": architecture}


def test_of_several_platforms_it_is_this_machines(layout: Layout) -> None:
    arm = layout.manifest({"created": "arm"}, platform=platform("arm64"))
    amd = layout.manifest({"created": "amd"}, platform=platform("amd64"))
    unknown = layout.manifest({"created": "proof"}, platform=platform("unknown", "unknown"))
    layout.index(layout.blob({"manifests": [unknown, arm, amd]}, INDEX, annotations=tag("v1")))
    assert layout.load("v1").created == "amd"


def test_a_platform_that_is_missing_is_named_with_those_that_are_there(layout: Layout) -> None:
    arm = layout.manifest({}, platform=platform("arm64"))
    layout.index(layout.blob({"manifests": [arm]}, INDEX))
    wrong = refused(layout)
    assert "linux/amd64" in wrong.problem
    assert "linux/arm64" in wrong.hint


def test_indexes_are_not_followed_without_end(layout: Layout) -> None:
    inner = layout.manifest({}, platform=platform("amd64"))
    for _ in range(5):
        inner = layout.blob({"manifests": [inner]}, INDEX, platform=platform("amd64"))
    layout.index(inner)
    assert "not an OCI image" in refused(layout).problem


@pytest.mark.parametrize("which", ["manifest", "config"])
def test_a_document_that_is_not_its_digest_is_refused(layout: Layout, which: str) -> None:
    manifest = layout.manifest(SAID)
    layout.index(manifest)
    config = json.loads(layout.path(manifest).read_text())["config"]
    path = layout.path(manifest if which == "manifest" else config)
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    assert "damaged" in refused(layout).problem


@pytest.mark.parametrize("damage", ["gone", "short", "fifo", "link"])
def test_a_layer_that_cannot_be_read_whole_is_refused(layout: Layout, damage: str) -> None:
    manifest = layout.manifest(SAID)
    layout.index(manifest)
    path = layout.path(json.loads(layout.path(manifest).read_text())["layers"][0])
    path.unlink()
    if damage == "short":
        path.write_bytes(b"not")
    elif damage == "fifo":
        os.mkfifo(path)
    elif damage == "link":
        path.symlink_to("/etc/passwd")
    assert "layer blobs/sha256/" in refused(layout).problem


def test_a_digest_cannot_lead_out_of_the_layout(layout: Layout) -> None:
    (layout.directory.parent / "secret").write_text("{}")
    layout.index({"mediaType": MANIFEST, "digest": "sha256:../../../secret", "size": 2})
    assert "is not a sha256 digest" in refused(layout).problem


def test_a_link_cannot_lead_out_of_the_layout(layout: Layout, tmp_path: Path) -> None:
    layout.index(layout.manifest(SAID))
    (layout.directory / "index.json").rename(tmp_path / "index.json")
    (layout.directory / "index.json").symlink_to(tmp_path / "index.json")
    assert "No such file" in refused(layout).problem


@pytest.mark.parametrize("size", [oci_layout.BLOB_LIMIT_BYTES + 1, -1, True, "5", None, 1.5])
def test_a_document_of_another_size_is_refused(layout: Layout, size: object) -> None:
    layout.index(layout.manifest(SAID) | {"size": size})
    refused(layout)


@pytest.mark.parametrize(
    "said",
    [
        {"os": "windows"},
        {"config": {"Cmd": "sh"}},
        {"config": {"Cmd": [1]}},
        {"config": {"Env": ["=x"]}},
        {"config": {"Volumes": {"/": {}}}},
        {"config": {"Volumes": {"/../..": {}}}},
        {"config": {"Volumes": {f"/{n}": {} for n in range(129)}}},
        {"config": {"Cmd": ["a\0b"]}},
        {"config": {"User": "\ud800"}},
        {"config": {"Labels": {"a": {}}}},
        {"config": []},
    ],
)
def test_a_configuration_that_no_container_could_have_is_refused(
    layout: Layout, said: Json
) -> None:
    layout.index(layout.manifest(said))
    assert "Copy the image again" in refused(layout).hint


def test_what_is_not_a_container_image_is_refused(layout: Layout) -> None:
    config = layout.blob({}, "application/vnd.example.chart.config.v1+json")
    layout.index(layout.blob({"config": config, "layers": []}, MANIFEST))
    assert "vnd.example.chart" in refused(layout).problem


def test_a_directory_that_is_no_layout_is_named(layout: Layout) -> None:
    wrong = refused(layout)
    assert f"{layout.directory}/index.json" in wrong.problem
    assert "OCI image layout" in wrong.hint


def test_an_image_is_unpacked_where_its_digest_says() -> None:
    path = image_store.rootfs_path("sha256:" + "0" * 64)
    assert path.endswith(f"/.images/sha256-{'0' * 64}/rootfs")


def test_without_umoci_nothing_is_left_but_the_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "STORE", str(tmp_path / "images"))
    find = process.find
    monkeypatch.setattr(process, "find", lambda program: find(program) * (program != "umoci"))
    with pytest.raises(TorporError) as caught:
        image_store.unpack("/srv/images", "sha256:" + "0" * 64, 1)
    assert caught.value.hint == "apt install umoci"
    assert os.listdir(tmp_path / "images") == []


@cases(500)
@given(st.text(max_size=40) | st.text("oci:/.a-", max_size=20).map("oci:/".__add__))
def test_any_text_is_an_image_or_wrong(text: str) -> None:
    try:
        assert oci_layout.parse_image(Scalar(1, text, False)).directory.startswith("/")
    except WrongError:
        pass


@cases(500)
@given(ANY_JSON)
def test_any_json_is_a_configuration_or_of_the_wrong_shape(value: object) -> None:
    said = value if isinstance(value, dict) else {"config": value}
    try:
        found = image_config.read("sha256:", 0, said, said)
    except ShapeError:
        return
    assert all(path.startswith("/") and ".." not in path.split("/") for path in found.volumes)


@cases(100)
@given(st.binary(max_size=64) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_any_index_is_an_image_or_wrong(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(WrongError):
        oci_layout.load(Image(str(tmp_path), True, "v1"), "x86_64")
