"""What a container is told does not exist, so that its programs do without it: CRIU cannot save it.

All of it is young, and whoever uses it has another way for kernels that lack it: libuv, Java and
databases epoll(7) for io_uring, Go's net TCP for MPTCP, which its servers ask for since Go 1.24.
"""

import errno

from torpor.oci_config import Config
from torpor.process import read_small

_IPPROTO_MPTCP = 262  # linux/in.h

RULES: tuple[Config, ...] = (
    {
        "names": ["io_uring_setup", "memfd_secret"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.ENOSYS,
    },
    {
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.EPROTONOSUPPORT,
        "args": [{"index": 2, "value": _IPPROTO_MPTCP, "op": "SCMP_CMP_EQ"}],
    },
)


def is_possible() -> bool:
    """Whether CRIU can dump who has a filter: it suspends that, which none may that has one too."""
    return "Seccomp:\t0" in read_small("/proc/self/status").splitlines()
