#!/usr/bin/python3
"""Runs commands in the virtual machine for whoever holds the other end of its virtio port.

A JSON object a line, both ways. First the agent names the boot: {"boot": ID}. To each request
{"id": N, "argv": [...], "env": {...}, "input": TEXT or null, "timeout_s": SECONDS} it answers
{"id": N, "status": NUMBER, "stdout": TEXT, "stderr": TEXT}, with the status null when the time
was over and the command was killed. One command at a time.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

PORT = "torpor.agent"
PORTS = Path("/sys/class/virtio-ports")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# A read returns at once while nobody holds the other end.
NOBODY_THERE_S = 0.1
# As in sh, but a signal's own number is of no use to a test.
KILLED_BY_SIGNAL = 255

Message = dict[str, Any]


def find_port() -> Path:
    """The device of our port: not by the link that udev makes, so as not to wait for udev."""
    entry = next(port for port in PORTS.iterdir() if (port / "name").read_text().strip() == PORT)
    return Path("/dev", entry.name)


def run(request: Message) -> Message:
    """Run a command to its end, or kill it and all that it started when its time is over."""
    try:
        process = subprocess.Popen(
            request["argv"],
            env={**os.environ, **request["env"]},
            stdin=subprocess.DEVNULL if request["input"] is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return {"status": 127, "stdout": "", "stderr": f"{request['argv'][0]}: {error}\n"}
    status: int | None = None
    try:
        stdout, stderr = process.communicate(request["input"], request["timeout_s"])
        status = process.returncode if process.returncode >= 0 else KILLED_BY_SIGNAL
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
    return {"status": status, "stdout": stdout, "stderr": stderr}


def send(port: int, message: Message) -> None:
    """Write a message, however many writes the port takes for it."""
    left = json.dumps(message).encode() + b"\n"
    while left:
        left = left[os.write(port, left) :]


def main() -> None:
    """Serve until the system goes down."""
    port = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC)
    send(port, {"boot": BOOT_ID.read_text().strip()})
    received = b""
    while True:
        line, end, rest = received.partition(b"\n")
        if end:
            received = rest
            request = json.loads(line)
            send(port, {"id": request["id"], **run(request)})
        elif data := os.read(port, 1 << 16):
            received += data
        else:
            time.sleep(NOBODY_THERE_S)


if __name__ == "__main__":
    main()
