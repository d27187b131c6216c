"""Named points at which a test can stop this process to see what a crash there leaves behind.

Nothing happens unless TORPOR_FAULT names the point: ``POINT=stop`` raises SIGSTOP after
writing the point to TORPOR_FAULT_FILE, ``POINT=fail`` raises OSError.
"""

import os
import signal

_POINT, _, _ACTION = os.environ.get("TORPOR_FAULT", "").partition("=")


def point(name: str) -> None:
    """Pass a named step; it is hit once, so that what is tried again can succeed."""
    global _POINT
    if name != _POINT:
        return
    _POINT = ""
    if _ACTION == "fail":
        raise OSError(5, f"fault injected at {name}")
    with open(os.environ["TORPOR_FAULT_FILE"], "w", encoding="ascii") as mark:
        mark.write(f"{name} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGSTOP)
