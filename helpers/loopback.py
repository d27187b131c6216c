"""The loopback interface of a restored network namespace.

runc makes ``lo`` and sets it up when it creates a container, but tells CRIU to leave the
namespace empty at a restore: nothing sets it up again.
"""

import _socket  # the C module below socket, which imports selectors and enum
import fcntl
import os

_SIOCGIFFLAGS = 0x8913  # netdevice(7)
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ_BYTES = 40


def set_up_in(pid: int) -> None:
    """Set up lo in the network namespace of a process; OSError when that fails."""
    child = os.fork()
    if child == 0:
        os._exit(_enter_and_set_up(pid))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, f"lo in the network namespace of process {pid}")


def set_up() -> None:
    """Set up lo in this process's network namespace."""
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = bytearray(_IFREQ_BYTES)
        request[:2] = b"lo"
        fcntl.ioctl(link.fileno(), _SIOCGIFFLAGS, request)
        flags = int.from_bytes(request[16:18], "little") | _IFF_UP
        request[16:18] = flags.to_bytes(2, "little")
        fcntl.ioctl(link.fileno(), _SIOCSIFFLAGS, request)
    finally:
        link.close()


def _enter_and_set_up(pid: int) -> int:
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/net")):
            return 0  # the host's: not ours to configure
        os.setns(namespace, os.CLONE_NEWNET)
        set_up()
    except OSError as error:
        return error.errno or 1
    return 0
