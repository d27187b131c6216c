"""Images unpacked to directories, once for all containers: the lower layers of their rootfs."""

import os

from torpor import atomic_directory, process, program, umask
from torpor.container import STATE_ROOT
from torpor.errors import TorporError

STORE = f"{STATE_ROOT}/.images"  # no container's name begins with a dot
_UNPACK_TIMEOUT_S = 3600.0
_TAG = "image"
# image-layout.md of the OCI image specification
_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_INDEX = (
    '{{"schemaVersion":2,"manifests":[{{'
    '"mediaType":"application/vnd.oci.image.manifest.v1+json",'
    '"digest":"{digest}","size":{size_bytes},'
    '"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}]}}'
)


def rootfs_path(digest: str) -> str:
    """Where the root file system of the image with this manifest digest is, or will be."""
    return f"{STORE}/{digest.replace(':', '-')}/rootfs"


def unpack(layout: str, digest: str, size_bytes: int) -> str:
    """The root file system of a layout's image, unpacked if it is not: rootfs_path(digest).

    digest and size_bytes are those of its manifest, as oci_layout.load() has verified them.
    Raises TorporError with umoci's words; then nothing of it stays.
    """
    rootfs = rootfs_path(digest)
    atomic_directory.make(
        rootfs.rpartition("/")[0], lambda new: _unpack(layout, digest, size_bytes, new)
    )
    return rootfs


def _unpack(layout: str, digest: str, size_bytes: int, new: str) -> None:
    """umoci gets a layout that names this one image: no tag can move, no path needs escaping."""
    if not process.find("umoci"):
        raise TorporError("umoci, which unpacks OCI images, is not here", "apt install umoci")
    index = _INDEX.format(digest=digest, size_bytes=size_bytes, tag=_TAG)
    one = f"{new}/layout"
    os.mkdir(one)
    os.symlink(f"{layout}/blobs", f"{one}/blobs")
    for name, content in (("oci-layout", _LAYOUT), ("index.json", index)):
        with open(f"{one}/{name}", "x", encoding="ascii") as file:
            file.write(content)
    from torpor.enclosure import Enclosure

    argv = ["umoci", "--log=error", "raw", "unpack", "--image", f"{one}:{_TAG}", f"{new}/rootfs"]
    reason = program.run(
        argv,
        timeout_s=_UNPACK_TIMEOUT_S,
        umask=umask.PUBLIC,
        enclosure=Enclosure([layout], [new]),
    )
    if reason:
        raise TorporError(
            f"{layout}: cannot unpack image {digest}: umoci: {reason}",
            "is the layout complete, and room on the disk? copy the image again with skopeo",
        )
    atomic_directory.remove(one)
