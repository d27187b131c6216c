"""Where CRIU stands when it dumps: in the container's own network namespace, where that can be.

From outside it asks the kernel twice for each connection that a firewall tracks there, though
runc tells it to leave that namespace alone (dump_net_ns() in criu/net.c of 4.2). That takes time by
the size of the table that the whole host shares. From inside, that namespace is CRIU's own, and
the images have none; they are then made to say what they say when CRIU stood outside.
"""

import os

from torpor import networking, preparation, process, within
from torpor.container import Container
from torpor.errors import CheckpointError
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC_BYTES = 4  # INVENTORY_MAGIC (criu/include/magic.h)
_NETNS_MAGIC = bytes.fromhex("19435654 52379355")  # IMG_COMMON_MAGIC, NETNS_MAGIC
_EXTERNAL = b"extRootNetNS"  # what runc calls a namespace that it is given by path
_OF_NETNS = ("netns-", "netdev-")  # the beginnings of images' names
# Fields of inventory_entry, task_kobj_ids_entry and netns_entry (images/*.proto), and how a field
# is encoded (protobuf.dev/programming-guides/encoding).
_ROOT_IDS, _NET_NS_ID, _EXT_KEY = 3, 6, 8
_VARINT, _LENGTH = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_OUTSIDE = 1 << 16  # the number of a namespace that CRIU, which counts from 1, gives to no other
_SYS_ADMIN = 21  # capabilities(7)
_NOT_UNDERSTOOD = "inventory.img is not as expected"
_OTHERS_TOO = "it has a network namespace within its own"
_NO_LINK = "Net namespace is required to dump tun link"


class Vantage:
    """The network namespace of the container's init, of this process id."""

    def __init__(self, init: int, *, is_given: bool) -> None:
        self.place = within.path(init)
        self._is_given = is_given  # to runc by path

    def mend(self, images: str) -> None:
        """Have finished images say that CRIU stood outside. Raises CheckpointError, OSError."""
        if any(name.startswith(_OF_NETNS) for name in os.listdir(images)):
            raise CheckpointError(_OTHERS_TOO)
        path = f"{images}/inventory.img"
        with open(path, "r+b") as file:
            text = file.read()
            try:
                number, mended = stand_outside(text)
            except (IndexError, ValueError) as error:
                raise CheckpointError(f"{path}: {_NOT_UNDERSTOOD}") from error
            file.seek(0)
            file.write(mended)
        if self._is_given:
            with open(f"{images}/netns-{number}.img", "xb") as file:
                file.write(_NETNS_MAGIC + _counted(_field(_EXT_KEY, _EXTERNAL)))


def of(container: Container, plan: Plan, init: int, pids: list[int]) -> Vantage | None:
    """Where CRIU can stand to dump a frozen container of these processes; None for outside.

    Not in a namespace that others live in, and only where all sockets must be of that one: CRIU
    would not notice one of another.
    """
    if preparation.joins(plan, "net", "network") or _may_make_namespaces(init):
        return None
    try:
        own = within.identity(init)
        if own == within.identity("self") or {within.identity(pid) for pid in pids} != {own}:
            return None
    except OSError:
        return None  # one has ended
    return Vantage(init, is_given=networking.is_given(container, plan))


def is_in_the_way(reason: str) -> bool:
    """Whether a dump failed for where CRIU stood."""
    return any(words in reason for words in (_NOT_UNDERSTOOD, _OTHERS_TOO, _NO_LINK))


def _may_make_namespaces(init: int) -> bool:
    bounds = process.status(init).get("CapBnd", ["-1"])
    return bool(int(bounds[0], 16) >> _SYS_ADMIN & 1)


def stand_outside(inventory: bytes) -> tuple[int, bytes]:
    """The number of CRIU's network namespace, and an inventory in which that is another one.

    Raises ValueError, IndexError for what is none.
    """
    size = int.from_bytes(inventory[_MAGIC_BYTES : _MAGIC_BYTES + 4], "little")
    message = inventory[_MAGIC_BYTES + 4 :]
    if size != len(message):
        raise ValueError("its size is another")
    number: int | bytes = 0
    pieces = []
    for field, value, piece in _fields(message):
        if field == _ROOT_IDS and isinstance(value, bytes):
            number = dict((key, one) for key, one, _ in _fields(value)).get(_NET_NS_ID, 0)
            # Of a field that is there twice, the last one counts.
            piece = _field(_ROOT_IDS, value + _varint(_NET_NS_ID << 3) + _varint(_OUTSIDE))
        pieces.append(piece)
    if not number or not isinstance(number, int):
        raise ValueError("it does not say where CRIU stood")
    return number, inventory[:_MAGIC_BYTES] + _counted(b"".join(pieces))


def _fields(message: bytes) -> "Iterator[tuple[int, int | bytes, bytes]]":
    """Of each field its number, its value, and all of it as it is encoded."""
    at = 0
    while at < len(message):
        began = at
        tag, at = _read_varint(message, at)
        value: int | bytes
        if tag & 7 == _VARINT:
            value, at = _read_varint(message, at)
        else:
            length = _FIXED_BYTES.get(tag & 7, -1)
            if tag & 7 == _LENGTH:
                length, at = _read_varint(message, at)
            if not 0 <= length <= len(message) - at:
                raise ValueError("a field is cut off")
            value, at = message[at : at + length], at + length
        yield tag >> 3, value, message[began:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError where it does not."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not byte & 0x80:
            return number, at


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(value)) + value


def _counted(message: bytes) -> bytes:
    """As it follows the magic numbers of an image."""
    return len(message).to_bytes(4, "little") + message
