"""The pump: one cat(1) that carries the container's output to the unit's journal.

CRIU cannot restore a journal stream as standard output, but it can a pipe. The pump
lives in the unit's supervisor cgroup for as long as the container holds the pipe.
"""

import os
import select

from torpor import process, record
from torpor.container import Container
from torpor.process import read_small


def start(container: Container) -> int:
    """Start the pump; returns the pipe's writing end, for the container's fd 1 and 2."""
    reader, writer = os.pipe()
    child = process.spawn(["cat"], stdin=reader)
    os.close(reader)
    record.replace(container.pump_path, f"{child.pid}\n".encode())
    return writer


def wait_for_end(container: Container, unit_cgroup: str, timeout_s: float) -> None:
    """Wait until the pump has written the last line; bounded, as others may hold the pipe."""
    text = read_small(container.pump_path).strip()
    if not record.is_number(text):
        return
    if f"0::{unit_cgroup}/" not in read_small(f"/proc/{text}/cgroup"):
        return  # gone, and its pid perhaps another's
    fd = process.open_process(int(text))
    if fd is None:
        return
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.poll(int(timeout_s * 1000))
    os.close(fd)
