"""A virtual machine: Debian with its own kernel, emulated by qemu, on any Debian with root.

    with Vm() as vm:
        vm.run("systemctl", "start", "torpor@web")

It has what a machine of systemd-nspawn cannot have on every host: all controllers of cgroup v2,
every capability, a reboot that ends the kernel too, and power cuts. No KVM is needed, so that it
is the same everywhere; what takes a second there takes several here.
"""

import base64
import fcntl
import itertools
import json
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, Self

import image
import machine
from inside import CommandFailed
from machine import Machine, MachineError

from . import vm_agent, vm_disk

HERE = Path(__file__).resolve().parent
# With two, qemu 7.2 may run what the other one has just patched: the kernel then meets an int3
# that is not there any more. CRIU's breakpoints have it patch its scheduler at each wake.
CPUS = 1
MEMORY = "2G"
DATA_BYTES = 192 << 20
# Nothing is left for the kernel to initialize in the background.
COMPLETE = "lazy_itable_init=0,lazy_journal_init=0"
EACH_WRITE = "log-super-update-interval=1"
BOOT_TIMEOUT_S = 300.0
SHUTDOWN_TIMEOUT_S = 300.0
# How much longer than on the host's own processor a command may take.
PATIENCE = 5
POLL_S = 0.02

KERNEL_OPTIONS = (
    "quiet",
    "console=ttyS0",
    # It would cost time, and there is nobody to protect from whom.
    "mitigations=off",
    # So that it is noticed at once: _ask() hears that it booted.
    "oops=panic",
    "panic=-1",
    "systemd.show_status=error",
)

# 5-level page tables are walked in software here.
PROCESSOR = "max,la57=off"


def require_host() -> None:
    """Raise image.ImageError where no such machine can run."""
    if platform.machine() != "x86_64":
        raise image.ImageError("the virtual machine is an x86_64, emulated on no other kind")
    image.require_packages("qemu-system-x86", "qemu-utils", "util-linux")


class Link:
    """The host's end of the agent's port. qemu waits for it before it boots anything."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._received = b""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def send(self, message: vm_agent.Message) -> None:
        self._socket.settimeout(None)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float) -> vm_agent.Message:
        """The next message. Raises TimeoutError, and EOFError when qemu has ended."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            self._socket.settimeout(max(POLL_S, deadline - time.monotonic()))
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: vm_agent.Message = json.loads(line)
        return message

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until qemu has ended. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self.receive(deadline - time.monotonic())
        except EOFError:
            self._socket.close()


class Vm(Machine):
    """A machine under qemu rather than systemd-nspawn, with the newest package of dist/.

    There is no way in but the agent: it has no root directory on the host, and no shell.
    """

    def __init__(self) -> None:
        super().__init__()
        self._link: Link | None = None
        self._requests = itertools.count(1)
        self._boots = 0

    def __enter__(self) -> Self:
        require_host()
        base = vm_disk.build_disk()
        machine.remove_leftovers()
        self._claim()
        try:
            disk, overlay = base / "disk", self.directory / "overlay"
            create = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, overlay)
            image.logged(self.directory / "install.log", *create)
            self._make_data_disk()
            self._choose_kernel(vm_disk.KERNEL)
            self.boot()
            self._install_package()
        except BaseException:
            self.close()
            raise
        return self

    def _choose_kernel(self, name: str) -> None:
        """Which one the next boot gets."""
        link = self.directory / "boot"
        link.unlink(missing_ok=True)
        link.symlink_to(vm_disk.build_disk() / name)

    def change_kernel(self, name: str) -> float:
        """Power off, and boot another kernel of the disk's; returns the seconds that takes."""
        self.poweroff()
        self._choose_kernel(name)
        return self.boot()

    @property
    def data_before(self) -> Path:
        """The second disk as it was at first: an empty file system, labelled "data"."""
        return self.directory / "data.before"

    @property
    def data_log(self) -> Path:
        """All that was written to the second disk since qemu was started last, see write_log."""
        return self.directory / "data.log"

    def _make_data_disk(self) -> None:
        log, data = self.directory / "install.log", self.directory / "data"
        with self.data_before.open("wb") as file:
            file.truncate(DATA_BYTES)
        image.logged(log, *("mkfs.ext4", "-q", "-L", "data", "-E", COMPLETE), self.data_before)
        image.logged(log, "cp", "--sparse=always", self.data_before, data)
        self.data_log.touch()

    def _claim(self) -> None:
        """Make and lock the directory, and start the keeper that will remove it."""
        new = Path(tempfile.mkdtemp(prefix="torpor-new-", dir=machine.MACHINES))
        with (new / "lock").open("w") as lock:
            # Locked before it gets the name by which others look for left-overs.
            fcntl.flock(lock, fcntl.LOCK_EX)
            name = machine.PREFIX + secrets.token_hex(4)
            self.directory = new.rename(machine.MACHINES / name)
            keeper = (sys.executable, "-B", str(HERE / "vm_keeper.py"), str(self.directory))
            self._keeper = subprocess.Popen(
                [*keeper, *self._qemu()],
                stdin=subprocess.PIPE,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )

    def _qemu(self) -> list[str]:
        """How the machine is run, in its directory."""
        kernel_options = " ".join([*KERNEL_OPTIONS, f"systemd.hostname={self.name}"])
        return [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", PROCESSOR),
            *("-smp", str(CPUS), "-m", MEMORY, "-nodefaults", "-no-user-config", "-nographic"),
            *("-kernel", "boot/kernel", "-initrd", "boot/initramfs"),
            *("-append", kernel_options),
            # What the machine did not flush is lost with qemu, as in a disk's own cache.
            *("-drive", "file=overlay,if=none,id=system,format=qcow2,cache=writeback"),
            *("-device", "virtio-blk-pci,drive=system"),
            # The second disk, each write to which is kept.
            *("-blockdev", "driver=file,node-name=data,filename=data"),
            *("-blockdev", "driver=file,node-name=log,filename=data.log"),
            *("-blockdev", f"driver=blklogwrites,node-name=logged,file=data,log=log,{EACH_WRITE}"),
            *("-device", "virtio-blk-pci,drive=logged"),
            *("-chardev", "file,id=console,path=console.log,append=on"),
            *("-serial", "chardev:console"),
            *("-chardev", "socket,id=agent,path=agent,server=on,wait=on"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=agent,name={vm_agent.PORT}"),
        ]

    def _install_package(self) -> None:
        """Install torpor; it is not on the disk, which outlives many versions of it."""
        assert self.deb, "no package in dist/: run make deb"
        image.say(f"installing {self.deb.name}")
        path = f"/var/tmp/{self.deb.name}"
        text = base64.b64encode(self.deb.read_bytes()).decode()
        self.run("sh", "-c", 'base64 -d >"$1"', "sh", path, input=text)
        self.run("dpkg", "--force-unsafe-io", "--install", path)
        self.run("rm", path)

    @property
    def leader(self) -> int:
        """The number of its boot, or 0 while it is down."""
        return self._boots if self._link else 0

    @property
    def root(self) -> NoReturn:
        raise NotImplementedError("no directory of the host is its root")

    def command(self, *argv: str, env: Mapping[str, str] | None = None, unit: str) -> NoReturn:
        raise NotImplementedError("no command of the host reaches into it")

    def _down(self, why: str) -> MachineError:
        return MachineError(f"{self.name} {why}; its console:\n{self.console[-8000:]}")

    def _wait_for_boot(self) -> None:
        """Wait for the agent, and then until systemd has nothing left to start."""
        assert self._link
        try:
            while "boot" not in self._link.receive(BOOT_TIMEOUT_S):
                pass
        except (TimeoutError, EOFError) as error:
            raise self._down("did not boot") from error
        self._boots += 1
        self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_TIMEOUT_S)

    def _connect(self) -> None:
        try:
            self._link = Link(self.directory / "agent", BOOT_TIMEOUT_S)
        except OSError as error:
            said = (self.directory / "qemu.log").read_text(errors="replace")
            raise MachineError(f"qemu did not start: {said[-4000:]}") from error

    def _tell(self, word: str) -> None:
        """Send one line to the keeper; each makes it start qemu."""
        # A qemu that is about to end would still take a connection.
        (self.directory / "agent").unlink(missing_ok=True)
        super()._tell(word)

    def boot(self) -> float:
        """Start it after poweroff(); returns the seconds until systemd had finished booting."""
        began = time.monotonic()
        self._tell("boot")
        self._connect()
        self._wait_for_boot()
        self.boot_seconds = time.monotonic() - began
        image.say(f"{self.name} is up after {self.boot_seconds:.1f} s")
        return self.boot_seconds

    def reboot(self) -> float:
        """systemctl reboot: a new kernel; returns the seconds it took."""
        began = time.monotonic()
        self.run("systemctl", "reboot", "--no-block")
        self._wait_for_boot()
        return time.monotonic() - began

    def crash_and_boot(self) -> float:
        """A power cut: what was not flushed to the disk is lost. Boots again; returns the seconds.

        It never ends between two instructions of the machine alone: its disk may have any part of
        what was written since the last flush.
        """
        assert self._link
        began = time.monotonic()
        self._tell("crash")
        self._link.wait_for_end(SHUTDOWN_TIMEOUT_S)
        self._connect()
        self._wait_for_boot()
        return time.monotonic() - began

    def poweroff(self) -> None:
        """systemctl poweroff, and wait until it is off. boot() starts it again."""
        assert self._link
        self.run("systemctl", "poweroff", "--no-block")
        try:
            self._link.wait_for_end(SHUTDOWN_TIMEOUT_S)
        except TimeoutError as error:
            raise self._down("does not go down") from error
        self._link = None

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises CommandFailed, subprocess.TimeoutExpired."""
        timeout *= PATIENCE
        request = {"argv": argv, "input": input, "env": {**(env or {})}, "timeout_s": timeout}
        answer = self._ask(request, timeout)
        stdout, stderr = answer["stdout"], answer["stderr"]
        if answer["status"] is None:
            raise subprocess.TimeoutExpired(argv, timeout, stdout, stderr)
        if check and answer["status"]:
            raise CommandFailed(answer["status"], argv, stdout, stderr)
        return subprocess.CompletedProcess(argv, answer["status"], stdout, stderr)

    def _ask(self, request: vm_agent.Message, timeout_s: float) -> vm_agent.Message:
        """The agent's answer to a request."""
        assert self._link, f"{self.name} is down"
        number = next(self._requests)
        try:
            self._link.send({"id": number, **request})
            # Longer than the agent may take: it has to kill the command and say so.
            deadline = time.monotonic() + timeout_s + BOOT_TIMEOUT_S
            while (answer := self._link.receive(deadline - time.monotonic())).get("id") != number:
                if "boot" in answer:
                    self._boots += 1
                    raise EOFError
        except (OSError, EOFError) as error:
            raise self._down(f"did not answer: {request['argv']}") from error
        return answer

    def _file(self, script: str, *argv: str, input: str = "") -> str:
        """Run a script about one file."""
        return self.run("sh", "-c", script, "sh", *argv, input=input).stdout
