"""The loopback interface of a restored network namespace.

runc makes ``lo`` and sets it up when it creates a container, but tells CRIU to leave the
namespace empty at a restore: nothing sets it up again.
"""

import _socket  # the C module below socket, which imports selectors and enum
import fcntl

from torpor import within

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ_BYTES = 40


def set_up_in(pid: int) -> None:
    """Set up lo in the network namespace of a process, unless that is our own. Raises OSError."""
    if within.identity(pid) != within.identity("self"):  # the host's is not ours to configure
        with within.Within(within.path(pid)):
            set_up()


def set_up(device: str = "lo") -> None:
    """Set up an interface in this process's network namespace. Raises OSError."""
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = bytearray(_IFREQ_BYTES)
        request[: len(device)] = device.encode()
        fcntl.ioctl(link.fileno(), _SIOCGIFFLAGS, request)
        flags = int.from_bytes(request[16:18], "little") | _IFF_UP
        request[16:18] = flags.to_bytes(2, "little")
        fcntl.ioctl(link.fileno(), _SIOCSIFFLAGS, request)
    finally:
        link.close()
