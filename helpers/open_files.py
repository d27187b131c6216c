"""What a dumped process had open: files, sockets and what else has a descriptor."""

import ipaddress
import os
import quopri
import stat
import struct
from dataclasses import dataclass

from torpor.criu_images import Entry, ImageDirectory

FILE, DIRECTORY, DEVICE, PIPE, TERMINAL, MEMFD = (
    "file",
    "directory",
    "device",
    "pipe",
    "terminal",
    "memfd",
)
TCP, UDP, UNIX, NETLINK, PACKET = "tcp", "udp", "unix", "netlink", "packet"
SOCKETS = frozenset((TCP, UDP, UNIX, NETLINK, PACKET, "raw", "icmp"))

# Where fdinfo.proto says less than a person wants to know.
_KINDS = {
    "REG": FILE,
    "TTY": TERMINAL,
    "NETLINKSK": NETLINK,
    "PACKETSK": PACKET,
    "UNIXSK": UNIX,
    "EXT": "outside",  # a file that whoever called CRIU puts there
    "NS": "namespace",
    "TUNF": "tun",
}
_PROTOCOLS = {1: "icmp", 6: TCP, 17: UDP, 58: "icmp", 136: UDP}  # in(7), as in the kernel's in.h
_RAW = 3  # SOCK_RAW
_STATES = (  # of tcp_states.h, as ss(8) says them
    "",
    "established",
    "connecting",
    "accepting",
    "closing",
    "closing",
    "closed",
    "closed",
    "closed by peer",
    "closing",
    "listening",
    "closing",
)
_ACCESS = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}
_PATH_ONLY = os.O_PATH


@dataclass(frozen=True)
class OpenFile:
    """What a descriptor leads to; what does not apply to its kind is empty or None."""

    fd: int
    kind: str
    name: str  # a path in the container, an address, or what tells it from others of its kind
    mode: str = ""  # r, w or rw
    position_bytes: int | None = None
    size_bytes: int | None = None
    deleted: bool = False  # its name is gone: its content is in the images
    state: str = ""  # of a socket
    peer: str = ""


class OpenFiles:
    """The files of all processes: CRIU has each once, however many have it open."""

    def __init__(self, images: ImageDirectory) -> None:
        """Raises ImageError."""
        self._images = images
        self._files = {int(one["id"]): one for one in images.entries_if_any("files.img")}
        self._memfds = {int(one["inode_id"]): one for one in images.entries_if_any("memfd.img")}
        remaps = images.entries_if_any("remap-fpath.img")
        self.ghosts = {
            int(one["orig_id"]): int(one["remap_id"])
            for one in remaps
            if one.get("remap_type", "GHOST") == "GHOST"
        }

    def of(self, files_id: int) -> list[OpenFile]:
        """What processes with this table of descriptors have open. Raises ImageError."""
        entries = self._images.entries_if_any(f"fdinfo-{files_id}.img")
        return sorted((self._describe(one) for one in entries), key=lambda one: one.fd)

    def path(self, file_id: int) -> str:
        """The path of a file by CRIU's number for it; empty for what has none."""
        return str(_message(self._files.get(file_id)).get("name", ""))

    def ghost_names(self) -> dict[str, str]:
        """The names that files had whose content is in the images, by image."""
        return {
            f"ghost-file-{remap}.img": self.path(file_id) for file_id, remap in self.ghosts.items()
        }

    def memory_of(self, file_id: int) -> int:
        """CRIU's number for the shared memory behind a file that is one; 0 for others."""
        message = _message(self._files.get(file_id))
        inode = self._memfds.get(int(message.get("inode_id", 0)), Entry({}))
        return int(inode.get("shmid", 0))

    def memory_names(self) -> dict[int, str]:
        """The names of memory that has a descriptor, by CRIU's number for it."""
        return {int(one["shmid"]): str(one["name"]) for one in self._memfds.values()}

    def _describe(self, entry: Entry) -> OpenFile:
        fd, file_id, kind = int(entry["fd"]), int(entry["id"]), str(entry["type"])
        message = _message(self._files.get(file_id))
        if kind == "REG":
            return self._regular(fd, file_id, message)
        if kind == "INETSK":
            return _internet(fd, message)
        if kind == "UNIXSK":
            return _unix(fd, message)
        if kind == "MEMFD":
            return self._memfd(fd, message)
        word = _KINDS.get(kind, kind.lower())
        name = str(message.get("pipe_id") or message.get("name") or "")
        return OpenFile(fd, word, name, mode=_mode(message) if "flags" in message else "")

    def _regular(self, fd: int, file_id: int, message: Entry) -> OpenFile:
        mode = int(message.get("mode", 0))
        return OpenFile(
            fd,
            _kind_of_mode(mode),
            str(message.get("name", "")),
            mode=_mode(message),
            position_bytes=int(message.get("pos", 0)),
            size_bytes=message.get("size"),
            deleted=file_id in self.ghosts,
        )

    def _memfd(self, fd: int, message: Entry) -> OpenFile:
        inode = self._memfds.get(int(message.get("inode_id", 0)), Entry({}))
        return OpenFile(
            fd,
            MEMFD,
            str(inode.get("name", "")),
            mode=_mode(message),
            position_bytes=int(message.get("pos", 0)),
            size_bytes=inode.get("size"),
        )


def _message(entry: Entry | None) -> Entry:
    """What an entry of files.img says of its kind of file."""
    values = entry.values() if entry else ()
    return next((value for value in values if isinstance(value, Entry)), Entry({}))


def _mode(message: Entry) -> str:
    flags = int(message.get("flags", 0))
    return "" if flags & _PATH_ONLY else _ACCESS.get(flags & os.O_ACCMODE, "")


def _kind_of_mode(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return DIRECTORY
    return DEVICE if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else FILE


def _internet(fd: int, message: Entry) -> OpenFile:
    kind = _PROTOCOLS.get(int(message.get("proto", 0)), "raw")
    if message.get("type") == _RAW:
        kind = "raw"
    peer = _address(message, "dst")
    connected = int(message.get("dst_port", 0)) != 0
    return OpenFile(
        fd,
        kind,
        _address(message, "src"),
        state=_state(message) if kind == TCP else "",
        peer=peer if connected else "",
    )


def _unix(fd: int, message: Entry) -> OpenFile:
    name = quopri.decodestring(str(message.get("name", ""))).decode("utf-8", "replace")
    # An abstract one begins with a NUL, for which people write @; another ends with one.
    word = f"@{name[1:]}" if name.startswith("\0") else name.rstrip("\0")
    peer = int(message.get("peer", 0))
    return OpenFile(fd, UNIX, word, state=_state(message), peer=str(peer) if peer else "")


def _state(message: Entry) -> str:
    number = int(message.get("state", 0))
    return _STATES[number] if 0 <= number < len(_STATES) else str(number)


def _address(message: Entry, side: str) -> str:
    words = [int(word) for word in message.get(f"{side}_addr", [])]
    port = int(message.get(f"{side}_port", 0))
    try:
        address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    except (ValueError, struct.error):
        return f"?:{port}"
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
