"""An image that a container's root file system begins with: an OCI image layout, or a directory.

Format: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

from torpor import image_config, inroot, strict_json, values
from torpor.image_config import ImageConfig
from torpor.json_shape import ShapeError, a_list, a_text, an_object, pairs
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

BLOB_LIMIT_BYTES = 4 << 20  # of each JSON document
_NESTING_MAX = 4
_PREFIX = "oci:"
_HINT = f"Write {_PREFIX}/DIRECTORY:TAG, or the absolute path of an unpacked root file system."
_COPY_AGAIN = "Copy the image again, for example with skopeo copy."
_REF_NAME = "org.opencontainers.image.ref.name"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
# <reference> of annotations.md, as far as it keeps a tag apart from all else
_TAG = re.compile("[A-Za-z0-9][A-Za-z0-9._@+/:-]{0,254}")
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_ARCHITECTURES = {  # uname(2) → GOARCH, for what Debian 13 runs on
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


@dataclass(frozen=True)
class Image:
    """directory is an OCI image layout, or the root file system itself; tag may be left out."""

    directory: str
    is_layout: bool = False
    tag: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{_PREFIX}{self.directory}{tag}" if self.is_layout else self.directory


@dataclass(frozen=True)
class _Descriptor:
    media_type: str
    digest: str
    size_bytes: int
    platform: tuple[str, str] | None
    annotations: tuple[tuple[str, str], ...]


def parse_image(node: Node) -> Image:
    """The image that node names. Raises WrongError."""
    words = values.text(node)
    if not words.startswith(_PREFIX):
        return Image(_directory(words, node.line))
    directory, colon, tag = words.removeprefix(_PREFIX).partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise WrongError(f"'{shown(tag)}' is not a tag", _HINT, node.line)
    return Image(_directory(directory, node.line), True, tag)


def _directory(words: str, line: int) -> str:
    if not words.startswith("/"):
        raise WrongError(f"'{shown(words)}' is not an absolute path", _HINT, line)
    if (found := values.absolute(words, line)) == "/":
        raise WrongError("is the root directory of this machine", _HINT, line)
    return found


def index_path(image: Image) -> str:
    """The file that says which image a tag is: it changes when the tag moves."""
    return f"{image.directory}/index.json"


def load(image: Image, machine: str = "") -> ImageConfig:
    """What the image in a layout says; machine is uname(2)'s name for an architecture.

    Every document is checked against its digest and every layer is there with its size; umoci
    verifies the layers' content when it unpacks them. Raises WrongError.
    """
    layout = _Layout(image, machine or os.uname().machine)
    manifest = layout.manifest()
    try:
        return _config(layout, manifest)
    except ShapeError as error:
        problem = f"{image}: image {manifest.digest}: {error}"
        raise WrongError(problem, _COPY_AGAIN) from error


def _config(layout: "_Layout", manifest: _Descriptor) -> ImageConfig:
    content = layout.document(manifest)
    descriptor = _descriptor(an_object(content.get("config"), "config"))
    if descriptor.media_type != _CONFIG:
        raise ShapeError(f"is of the kind '{shown(descriptor.media_type)}', not a container image")
    for layer in a_list(content.get("layers"), "layers", _descriptor_of):
        layout.require_layer(layer)
    said = layout.document(descriptor)
    return image_config.read(manifest.digest, manifest.size_bytes, content, said)


class _Layout:
    """The files of an OCI image layout, whose author is not trusted."""

    def __init__(self, image: Image, machine: str) -> None:
        self._image = image
        self._architecture = _ARCHITECTURES.get(machine, machine)

    def manifest(self) -> _Descriptor:
        """The manifest that the tag is, or of several platforms that of this machine."""
        try:
            index = an_object(self._json("index.json", self._read("index.json")), "index.json")
            found = self._tagged(a_list(index.get("manifests"), "manifests", _descriptor_of))
            for _ in range(_NESTING_MAX):
                if found.media_type != _INDEX:
                    break
                found = self._for_this_machine(
                    a_list(self.document(found).get("manifests"), "manifests", _descriptor_of)
                )
        except ShapeError as error:
            raise WrongError(f"{self._image}: {error}", _COPY_AGAIN) from error
        if found.media_type != _MANIFEST:
            problem = f"{self._image} is a '{shown(found.media_type)}', not an OCI image"
            raise WrongError(problem, "Convert it: skopeo copy --format=oci writes OCI images.")
        return found

    def _tagged(self, found: tuple[_Descriptor, ...]) -> _Descriptor:
        names = [dict(one.annotations).get(_REF_NAME, "") for one in found]
        if not self._image.tag:
            matching = list(found)
        else:
            pairs = zip(found, names, strict=True)
            matching = [one for one, name in pairs if name == self._image.tag]
        if len(matching) == 1:
            return matching[0]
        known = ", ".join(shown(name) for name in names[:20] if name) or "none"
        which = f"{len(matching)} images" if matching else "no image"
        tag = f" tagged '{self._image.tag}'" if self._image.tag else ""
        raise WrongError(
            f"{self._image.directory} holds {which}{tag}",
            f"Name one by its tag, {_PREFIX}{self._image.directory}:TAG. Its tags: {known}.",
        )

    def _for_this_machine(self, found: tuple[_Descriptor, ...]) -> _Descriptor:
        wanted = ("linux", self._architecture)
        for one in found:
            if one.platform == wanted:
                return one
        platforms = ", ".join(shown("/".join(one.platform)) for one in found[:20] if one.platform)
        raise WrongError(
            f"{self._image} has no image for {'/'.join(wanted)}",
            f"It is for {platforms or 'no platform that it names'}.",
        )

    def document(self, descriptor: _Descriptor) -> dict[str, Any]:
        """The JSON object that descriptor points at, verified."""
        path = _blob(descriptor.digest)
        if descriptor.size_bytes > BLOB_LIMIT_BYTES:
            raise ShapeError(f"{path} is larger than {BLOB_LIMIT_BYTES} bytes")
        content = self._read(path)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if digest != descriptor.digest or len(content) != descriptor.size_bytes:
            raise ShapeError(f"{path} is damaged: its content is not what its name says")
        return an_object(self._json(path, content), path)

    def require_layer(self, layer: _Descriptor) -> None:
        """A layer is there, in its size: not a FIFO that umoci would wait for."""
        path = _blob(layer.digest)
        try:
            fd = inroot.open_in_root(self._image.directory, path)
        except OSError as error:
            raise ShapeError(f"layer {path}: {error.strerror}") from error
        try:
            if os.fstat(fd).st_size != layer.size_bytes:
                raise ShapeError(f"layer {path} is damaged: it is not of its size")
        finally:
            os.close(fd)

    def _read(self, path: str) -> bytes:
        try:
            return inroot.read_in_root(self._image.directory, path, BLOB_LIMIT_BYTES)
        except OSError as error:
            what = f"{self._image.directory}/{path}: {error.strerror}"
            hint = f"{self._image.directory} must be an OCI image layout. {_COPY_AGAIN}"
            raise WrongError(what, hint) from error

    @staticmethod
    def _json(path: str, content: bytes) -> object:
        try:
            return strict_json.parse(content)
        except ValueError as error:
            raise ShapeError(f"{path} is not JSON: {error}") from error


def _blob(digest: str) -> str:
    """The path of a blob in a layout; digest is one that _descriptor() took."""
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor_of(value: object, key: str) -> _Descriptor:
    return _descriptor(an_object(value, key))


def _descriptor(said: dict[str, Any]) -> _Descriptor:
    """https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md"""
    digest = a_text(said.get("digest"), "digest")
    if not _DIGEST.fullmatch(digest):
        raise ShapeError(f"'{shown(digest)}' is not a sha256 digest")
    size_bytes = said.get("size")
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 0:
        raise ShapeError(f"the size of {digest} is not a number of bytes")
    return _Descriptor(
        media_type=a_text(said.get("mediaType"), "mediaType"),
        digest=digest,
        size_bytes=size_bytes,
        platform=_platform(said.get("platform")),
        annotations=pairs(said.get("annotations"), "annotations"),
    )


def _platform(value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    said = an_object(value, "platform")
    return a_text(said.get("os"), "os"), a_text(said.get("architecture"), "architecture")
