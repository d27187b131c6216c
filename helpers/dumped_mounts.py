"""The mounts of a dump, as CRIU's images tell."""

from dataclasses import dataclass

from torpor.criu_images import Entry, ImageDirectory, number_in

_TYPES = {0: "", 16: ""}  # UNSUPPORTED and AUTO of mnt.proto: the kernel's own word is elsewhere
_READ_ONLY = 1  # MS_RDONLY
_TMPFS = "tmpfs-dev-"  # the beginning of an image's name


@dataclass(frozen=True)
class Mount:
    namespace: int
    place: str
    type: str
    source: str
    options: str
    read_only: bool
    outside: bool  # mounted by runc or torpor: its content is not in the images
    content: str  # the image with what is in it, a compressed archive; empty where there is none
    content_bytes: int | None


def mounts(directory: ImageDirectory) -> list[Mount]:
    """The mounts of each mount namespace, in the order in which they are mounted.

    Raises ImageError.
    """
    left = {number_in(name): name for name in directory.matching(_TMPFS)}
    found = []
    for name in directory.matching("mountpoints-"):
        for entry in reversed(directory.entries(name)):
            # Mounted in several places it is saved once; a part of it is not all of it.
            whole = entry.get("root") == "/"
            content = left.pop(int(entry.get("root_dev", 0)), "") if whole else ""
            found.append(_mount(directory, number_in(name), entry, content))
    return found


def _mount(directory: ImageDirectory, namespace: int, entry: Entry, content: str) -> Mount:
    from pycriu.images import mnt_pb2

    number = int(entry.get("fstype", 0))
    kinds = mnt_pb2.fstype.DESCRIPTOR.values_by_number
    known = _TYPES.get(number, kinds[number].name.lower() if number in kinds else str(number))
    root = str(entry.get("root", "/"))
    source = str(entry.get("source", ""))
    outside = bool(entry.get("ext_key") or entry.get("ext_mount"))
    return Mount(
        namespace=namespace,
        place=str(entry.get("mountpoint", "")),
        type=known or str(entry.get("fsname", "")),
        source=root if outside and root != "/" else source,
        options=str(entry.get("options", "")),
        read_only=bool((int(entry.get("flags", 0)) | int(entry.get("sb_flags", 0))) & _READ_ONLY),
        outside=outside,
        content=content,
        content_bytes=directory.sizes_bytes.get(content),
    )
