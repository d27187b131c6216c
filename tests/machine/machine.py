#!/usr/bin/python3
"""A test machine: a real systemd, runc and CRIU in systemd-nspawn, on any Debian with root.

    with Machine() as m:
        m.run("systemctl", "start", "torpor@web")

The command line (machine.py build|smoke|shell|run) does the same by hand.
"""

import argparse
import fcntl
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import guest
import image
import keeper
from inside import CommandFailed as CommandFailed  # for those who import Machine
from inside import Inside

HERE = Path(__file__).resolve().parent
DIST = HERE.parents[1] / "dist"
MACHINES = Path("/var/tmp")
PREFIX = "torpor-machine-"
BOOT_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 120.0
# A systemd-nspawn that is gone for this long is not about to be started again.
GONE_S = 3.0
POLL_S = 0.02
NEWEST = Path("newest")


class MachineError(Exception):
    """The machine did not boot, or did not go down."""


def newest_deb() -> Path | None:
    """The package built last, if any."""
    debs = sorted(DIST.glob("torpor_*_all.deb"), key=lambda path: path.stat().st_mtime)
    return debs[-1] if debs else None


def children(pid: int, comm: str) -> list[int]:
    """Children of a process that run a program of this name."""
    found = []
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == comm:
                found.append(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass  # gone while we looked
    return found


def remove_leftovers() -> None:
    """Remove the machines whose keeper was killed: nobody holds the lock of their directory."""
    for directory in MACHINES.glob(f"{PREFIX}*"):
        try:
            with (directory / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                image.say(f"removing {directory}, which an earlier run left")
                keeper.sweep(directory)
        except (BlockingIOError, FileNotFoundError):
            continue


class Machine(Inside):
    """One machine with a root of its own, booted by entering the context.

    deb: the torpor package to install first; None for none.
    nspawn_options: further options of systemd-nspawn(1), such as --bind-ro=.
    with_guest: have the guest tree at guest.PLACE; it is built when it is not cached.
    """

    def __init__(
        self,
        deb: Path | None = NEWEST,
        nspawn_options: Sequence[str] = (),
        *,
        with_guest: bool = True,
    ) -> None:
        super().__init__()
        self.deb = newest_deb() if deb is NEWEST else deb
        self.with_guest = with_guest
        self.nspawn_options = [*nspawn_options]
        self.directory = Path()
        self.boot_seconds = 0.0
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Its host name, and the name of its cgroup."""
        return self.directory.name

    @property
    def root(self) -> Path:
        """Its root directory on the host."""
        return self.directory / "root"

    @property
    def console(self) -> str:
        """What systemd wrote to the console in all boots so far."""
        return (self.directory / "console.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        image.require_packages("systemd-container", "util-linux")
        base = image.build_image()
        if self.with_guest:
            self.nspawn_options.append(f"--bind-ro={guest.build_guest()}:{guest.PLACE}")
        remove_leftovers()
        self._claim_directory()
        try:
            self._install(base)
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _claim_directory(self) -> None:
        """Make and lock the directory, and start the keeper that will remove it."""
        new = Path(tempfile.mkdtemp(prefix="torpor-new-", dir=MACHINES))
        with (new / "lock").open("w") as lock:
            # Locked before it gets the name by which others look for left-overs.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.directory = new.rename(MACHINES / (PREFIX + secrets.token_hex(4)))
            self._keeper = subprocess.Popen(
                [sys.executable, "-B", HERE / "keeper.py", self.directory, *self.nspawn_options],
                stdin=subprocess.PIPE,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )

    def _install(self, base: Path) -> None:
        """Copy the image, and install the package into the copy."""
        image.say(f"copying the base image to {self.root}")
        log = self.directory / "install.log"
        copy = ("setpriv", "--pdeathsig", "KILL", "cp", "-a", "--reflink=auto")
        image.logged(log, *copy, base, self.root)
        # An empty one would make this a first boot, which enables every installed unit.
        (self.root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        (self.root / "etc/hostname").write_text(self.name + "\n")
        if not self.deb:
            image.say("no package: this machine comes without torpor")
            return
        image.say(f"installing {self.deb.name}")
        package = self.root / "var/tmp" / self.deb.name
        package.write_bytes(self.deb.read_bytes())
        dpkg = ("chroot", self.root, "dpkg", "--force-unsafe-io", "--install")
        image.logged(log, *dpkg, f"/var/tmp/{self.deb.name}")
        package.unlink()

    def _tell(self, word: str) -> None:
        """Send one line to the keeper."""
        assert self._keeper and self._keeper.stdin
        self._keeper.stdin.write(f"{word}\n".encode())
        self._keeper.stdin.flush()

    def _nspawn(self) -> int:
        """Process id of systemd-nspawn, or 0."""
        found = children(self._keeper.pid, "systemd-nspawn") if self._keeper else []
        return found[0] if found else 0

    @property
    def leader(self) -> int:
        """Process id on the host of the machine's PID 1, or 0 while it is down."""
        nspawn = self._nspawn()
        found = children(nspawn, "systemd") if nspawn else []
        return found[0] if found else 0

    def _has_booted(self) -> bool:
        """Whether systemd has nothing left to start; a unit that failed is the tests' affair."""
        return self._entered("systemctl", "is-system-running") in ("running", "degraded")

    def _wait_until_up(self, not_leader: int) -> float:
        """Wait until a PID 1 other than the one before has finished booting; seconds it took."""
        began = seen = time.monotonic()
        while (now := time.monotonic()) < began + BOOT_TIMEOUT_S and now < seen + GONE_S:
            if self._nspawn():
                seen = now
            if self.leader not in (0, not_leader) and self._has_booted():
                return time.monotonic() - began
            time.sleep(POLL_S)
        raise MachineError(f"{self.name} did not boot; its console:\n{self.console[-8000:]}")

    def boot(self) -> float:
        """Start it after poweroff(); returns the seconds until systemd had finished booting."""
        self._tell("boot")
        self.boot_seconds = self._wait_until_up(not_leader=0)
        image.say(f"{self.name} is up after {self.boot_seconds:.1f} s")
        return self.boot_seconds

    def reboot(self) -> float:
        """systemctl reboot: /var stays, /run goes, a new boot_id; returns the seconds it took."""
        leader = self.leader
        began = time.monotonic()
        self._entered("systemctl", "reboot", "--no-block")
        self._wait_until_up(not_leader=leader)
        return time.monotonic() - began

    def crash_and_boot(self) -> float:
        """SIGKILL everything in it at once and boot again; returns the seconds it took."""
        leader = self.leader
        self._tell("crash")
        return self._wait_until_up(not_leader=leader)

    def poweroff(self) -> None:
        """systemctl poweroff, and wait until it is off. boot() starts it again."""
        self._entered("systemctl", "poweroff", "--no-block")
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while self._nspawn():
            if time.monotonic() > deadline:
                raise MachineError(f"{self.name} does not go down:\n{self.console[-8000:]}")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill it and remove all of it. Harmless when repeated."""
        if self._keeper:
            assert self._keeper.stdin
            self._keeper.stdin.close()
            try:
                self._keeper.wait(CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:  # SIGKILL does not end what hangs in the kernel
                image.say(f"{self.name} does not end; {self._keeper.pid} goes on trying")
            self._keeper = None


def smoke(machine: Machine) -> int:
    """Show that the machine has what torpor needs."""
    for program in ("systemctl", "runc", "criu"):
        version = machine.run(program, "--version").stdout.splitlines()
        print("  ".join(version[:1] if program != "criu" else version[:2]))
    print(f"booted in {machine.boot_seconds:.1f} s", flush=True)
    if machine.run("test", "-x", "/usr/bin/torpor", check=False).returncode == 0:
        return machine.shell("torpor", "doctor")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Boot a machine for torpor's tests.")
    parser.add_argument("--deb", type=Path, default=NEWEST, help="default: the newest in dist/")
    parser.add_argument("--nspawn", action="append", default=[], help="an option of systemd-nspawn")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build the base image, unless it is cached")
    verbs.add_parser("smoke", help="boot, show versions, power off")
    verbs.add_parser("shell", help="boot, give a root shell, power off")
    run = verbs.add_parser("run", help="boot, run a command, power off")
    run.add_argument("command", nargs="+")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says."""
    args = arguments()
    # So that "with" ends the machine before we go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if args.verb == "build":
            print(image.build_image())
            return 0
        with Machine(args.deb, args.nspawn, with_guest=args.verb != "smoke") as machine:
            status = smoke(machine) if args.verb == "smoke" else 0
            if args.verb in ("shell", "run"):
                status = machine.shell(*getattr(args, "command", ()))
            machine.poweroff()
            return status
    except (MachineError, image.ImageError, CommandFailed) as fault:
        print(f"machine: {fault}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
