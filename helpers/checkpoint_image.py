"""An archive as an OCI image, which a cluster can pull: its one layer holds what the archive holds.

By their annotations containerd and CRI-O tell such an image from one with a root file system
(lib/metadata.go of checkpointctl; server/container_restore.go of CRI-O).
"""

import os
from collections.abc import Callable, Mapping

from torpor import process, program, umask
from torpor.errors import TorporError
from torpor.oci_layout import Image

_TIMEOUT_S = 3600.0
_DEFAULT_TAG = "latest"
_LAYER = "/dev/stdin"
_NAME_FOR_CRIO = "io.kubernetes.cri-o.annotations.checkpoint.name"
_PREFIX = "org.criu.checkpoint."


def annotations(name: str, base: tuple[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """What such an image is told apart by; base is the name and the ID of another image."""
    known = {
        "engine.name": "torpor",
        "container.name": name,
        "rootfsImageName": base[0],
        "rootfsImageID": base[1],
        "runtime.name": "runc",
        "criu.version": facts.get("criu", ""),
        "host.arch": os.uname().machine,
        "host.kernel": facts.get("kernel", ""),
    }
    ours = {f"{_PREFIX}{key}": value for key, value in known.items() if value}
    return {_NAME_FOR_CRIO: name, **ours}


def write(image: Image, notes: Mapping[str, str], fill: Callable[[int], None]) -> None:
    """Add an image to a layout, which is made if it is not there; whoever has the tag loses it.

    fill writes the layer, a tar archive, to a descriptor. Only who owns the layout can read it: it
    holds the memory of programs. Raises TorporError; the tag is then what it was.
    """
    if not process.find("umoci"):
        raise TorporError("umoci, which writes OCI images, is not here", "apt install umoci")
    if not os.path.lexists(image.directory):
        _umoci(image, "init", "--layout", image.directory)
    tag = f"torpor-{os.urandom(4).hex()}"
    place = f"{image.directory}:{tag}"
    try:
        _umoci(image, "new", "--image", place)
        _add_layer(image, place, fill)
        said = [f"--manifest.annotation={key}={value}" for key, value in notes.items()]
        _umoci(image, "config", "--image", place, *said)
        if reason := program.run(["sync", "--file-system", image.directory], timeout_s=_TIMEOUT_S):
            raise TorporError(f"{image.directory} could not be synced to its disk: {reason}")
        _umoci(image, "tag", "--image", place, image.tag or _DEFAULT_TAG)
    finally:
        _run("rm", "--image", place)
        _run("gc", "--layout", image.directory)


def _argv(*words: str) -> list[str]:
    return ["umoci", "--log=error", *words]


def _run(*words: str) -> str:
    """Empty, or why it failed."""
    return program.run(_argv(*words), timeout_s=_TIMEOUT_S, umask=umask.PRIVATE)


def _umoci(image: Image, *words: str) -> None:
    if reason := _run(*words):
        raise _error(image, reason)


def _error(image: Image, reason: str) -> TorporError:
    return TorporError(
        f"{image}: cannot be written: umoci: {reason}",
        "is it an OCI layout, or not there yet, and is there room on the disk?",
    )


def _add_layer(image: Image, place: str, fill: Callable[[int], None]) -> None:
    reader, writer = os.pipe()
    said = os.memfd_create("umoci", os.MFD_CLOEXEC)
    argv = _argv("raw", "add-layer", "--image", place, _LAYER)
    try:
        try:
            child = process.spawn(argv, stdin=reader, stdout=said, stderr=said, umask=umask.PRIVATE)
        finally:
            os.close(reader)
        try:
            fill(writer)
        except BaseException:
            child.kill()
            raise
        finally:
            os.close(writer)
        if child.wait(_TIMEOUT_S) is None:
            child.kill()
        if child.status:
            words = os.pread(said, 4096, 0).decode("utf-8", "replace").strip()
            raise _error(image, words.splitlines()[-1] if words else "it was killed")
    finally:
        os.close(said)
