"""Whether a container that another host offers can go on here: asked before it stands still."""

import os
from collections.abc import Iterator

from torpor import criu, landing, oci_layout, offer, volumes
from torpor import definition as definitions
from torpor.arrival import image_of
from torpor.container import STATE_ROOT, Container
from torpor.errors import TorporError
from torpor.offer import Offer
from torpor.talk import mebibytes
from torpor.values import WrongError

_MARGIN_BYTES = 64 << 20


def judge(offered: Offer) -> list[str]:
    """What may be wrong all the same. Raises TorporError for what cannot go on here."""
    container = Container(offered.name)
    landing.require_free(container, comes_back=True)
    _require_programs(offered)
    _require_things(offered)
    _require_room(offered)
    return [*_doubts(offered)]


def _require_programs(offered: Offer) -> None:
    machine = os.uname().machine
    if offered.machine != machine:
        raise TorporError(f"it is of a {offered.machine[:40]}, not {machine}")
    if reason := criu.missing():
        raise TorporError(reason)
    here = criu.version()
    if here[:2] < offered.criu[:2]:
        raise TorporError(
            f"CRIU is {_dotted(here)} here and {_dotted(offered.criu)} there: "
            "it reads no images of a newer one",
            "install that CRIU here too",
        )
    if offer.lacks_of_cpu(offered):
        raise TorporError(
            "this processor lacks what programs there may already use (criu cpuinfo check)",
            "move it to a host whose processor is as new",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "of no known version"


def _require_things(offered: Offer) -> None:
    definition = definitions.parse(offered.name, "its definition", offered.definition.encode())
    for source in offered.sources:
        if not os.path.exists(source):
            raise TorporError(
                f"{source}, which it sees, is not here", "make it, with what the container needs"
            )
    for name in offered.volumes:
        if not _has_volume(name):
            raise TorporError(
                f"the volume {name[:64]} is not here, and does not travel: it is not its own",
                f"copy it here: {volumes.STORE}/{name[:64]}",
            )
    if offered.rootfs and not os.path.isdir(offered.rootfs):
        raise TorporError(f"the root file system {offered.rootfs} is not here")
    if definition.checkpoint.tcp_keep and not criu.tcp_lock():
        raise TorporError(
            "its connections are to be kept, but CRIU can hold back no packets here",
            "install iptables here too",
        )
    if definition.image:
        image = image_of(offered.image) if offered.image else definition.image
        _require_image(image, offered.digest)


def _has_volume(name: str) -> bool:
    try:
        return os.path.isdir(volumes.named(name))
    except WrongError:
        return False


def _require_image(image: oci_layout.Image, digest: str) -> None:
    try:
        if image.is_layout:
            here = oci_layout.load(image).digest
            if digest and here != digest:
                raise WrongError(f"{image} is {here}, and it began with {digest[:80]}", "")
        elif not os.path.isdir(image.directory):
            raise WrongError(f"{image} is not a directory", "")
    except WrongError as error:
        raise TorporError(
            f"its image is not here: {error.problem}", "bring it here, or say where it is: --image"
        ) from error


def _require_room(offered: Offer) -> None:
    place = STATE_ROOT if os.path.isdir(STATE_ROOT) else os.path.dirname(STATE_ROOT)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < offered.size_bytes + _MARGIN_BYTES:
        raise TorporError(
            f"{place} has {mebibytes(free)} free, it needs some {mebibytes(offered.size_bytes)}",
            "make room there",
        )


def _doubts(offered: Offer) -> Iterator[str]:
    here = os.uname().release
    if offered.kernel != here:
        yield f"the kernel is {here} here and {offered.kernel[:80]} there"
