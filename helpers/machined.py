"""Containers as machines of systemd-machined, for machinectl(1), systemctl -M and journalctl -M.

machined ties a machine to the unit in whose cgroup its leader is, and goes by that unit: a machine
whose leader is dead stays, with its name, while the unit is active. Worse, a machined that is
started and finds a record of such a machine stops that unit, although another container runs in
it by then. So who registers has to unregister, whether or not machined runs at that time.
"""

import _socket  # the C module below socket, which imports selectors and enum
import os
import time

from torpor import process, program
from torpor.container import Container

SERVICE = "torpor"  # who registers, in machined's records: never another's machine is touched

_RECORDS = "/run/systemd/machines"
_SOCKET = "/run/systemd/machine/io.systemd.Machine"

_TIMEOUT_S = 5.0
_QUICK_S = 2.0
_PAUSE_S = 0.05
_SHOWN_LENGTH = 400
_BUS = "org.freedesktop.machine1"
_TAKEN = "already exists"
_ABSENT = ("not provided by any .service files", "machine1.service not found")

_ALNUM = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


def obstacle(name: str) -> str:
    """Why a container's name cannot be a machine's; empty when it can.

    It has to be a host name: hostname_is_valid() in systemd's src/basic/hostname-util.c.
    """
    wrong = sorted(set(name) - _ALNUM - frozenset("-."))
    if wrong:
        return f"a machine's name cannot contain {wrong[0]!r}: letters, digits, '-' and '.' alone"
    if not all(part and part[0] != "-" and part[-1] != "-" for part in name.split(".")):
        return "each part of a machine's name, between dots, begins and ends with a letter or digit"
    return ""


class Registration:
    """One that was asked for. It goes on while the start does other things."""

    __slots__ = ("_argv", "_child", "_container", "_deadline", "_problem", "_reader")

    def __init__(self, container: Container, argv: list[str]) -> None:
        self._container = container
        self._argv = argv
        self._deadline = time.monotonic() + _TIMEOUT_S
        self._ask()

    def _ask(self) -> None:
        self._problem = ""
        self._reader, writer = os.pipe()
        try:
            self._child = process.spawn(self._argv, stderr=writer, env={"LC_ALL": "C.UTF-8"})
        except OSError as error:
            os.close(self._reader)
            self._problem = f"{self._argv[0]}: {error.strerror}"
        finally:
            os.close(writer)

    def finish(self) -> str:
        """Wait for its end, some seconds at most; a warning when the container is no machine."""
        while problem := self._answer():
            who = _registrar(self._container.name)
            late = time.monotonic() + _PAUSE_S > self._deadline
            if _TAKEN not in problem or late or who not in ("", SERVICE):
                return _warning(problem, who)
            # machined lets go of a name some time after it answered that it did.
            unregister(self._container)
            time.sleep(_PAUSE_S)
            self._ask()
        return ""

    def _answer(self) -> str:
        """Empty when it is registered, else why not."""
        if self._problem:
            return self._problem
        left = max(0.0, self._deadline - time.monotonic())
        status, said = process.collect(self._child, self._reader, left)
        if status == 0:
            return ""
        first = said.strip().partition("\n")[0].removeprefix("Call failed: ")
        words = "".join(char for char in first if char.isprintable())[:_SHOWN_LENGTH]
        return words.rstrip(".") or f"no answer in {_TIMEOUT_S:.0f} s"


def register(container: Container, pid: int, machine_id: str = "") -> Registration:
    """Make the container a machine whose leader is this process of the host.

    machine_id is that of machine-id(5), where it is known. The start need not wait: the result
    says later whether it worked.
    """
    unregister(container)
    octets = [str(octet) for octet in bytes.fromhex(machine_id)]
    # Through the bus, which starts machined.
    machine = [container.name, str(len(octets)), *octets, SERVICE, "container", str(pid), ""]
    return Registration(container, _call([], "RegisterMachine", "sayssus", *machine))


def unregister(container: Container) -> None:
    """Have machined forget the container. It may not be registered, and machined may not run."""
    name = container.name
    if _registrar(name) != SERVICE:
        return
    if not _unregister_directly(name):
        call = _call(["--auto-start=no"], "UnregisterMachine", "s", name)
        program.run(call, timeout_s=_QUICK_S)
    if _registrar(name) == SERVICE:
        _forget(name)


def _call(options: list[str], method: str, *values: str) -> list[str]:
    """The command line of a call of org.freedesktop.machine1(5)."""
    path = "/" + _BUS.replace(".", "/")
    busctl = ["busctl", "--system", "--quiet", f"--timeout={_TIMEOUT_S:.0f}s", *options]
    return [*busctl, "call", _BUS, path, f"{_BUS}.Manager", method, *values]


def _warning(problem: str, registrar: str) -> str:
    if _TAKEN in problem and registrar:
        problem = f"{registrar} has a machine of this name"
    hint = "; install systemd-container" if any(words in problem for words in _ABSENT) else ""
    return f"machinectl will not know it: {problem}{hint}"


def _unregister_directly(name: str) -> bool:
    """Ask machined itself, which needs no bus and starts nothing; False where it is too old.

    Its Varlink socket has the method from systemd 257 on. A file of a machined that has ended
    stays there and refuses.
    """
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    link.settimeout(_QUICK_S)
    # A container's name needs no escapes in JSON.
    call = f'{{"method":"io.systemd.Machine.Unregister","parameters":{{"name":"{name}"}}}}\0'
    try:
        link.connect(_SOCKET)
        link.sendall(call.encode())
        return b"MethodNotFound" not in link.recv(4096)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it does not run, or does not answer: the bus would not help
    finally:
        link.close()


def _registrar(name: str) -> str:
    """Who registered the machine of this name, by machined's record; empty when there is none."""
    record = process.read_small(f"{_RECORDS}/{name}")
    for line in record.splitlines():
        key, _, value = line.partition("=")
        if key == "SERVICE":
            return value
    return "somebody" if record else ""


def _forget(name: str) -> None:
    """Remove a machine's record, as machined does (machine_unlink() in src/machine/machine.c)."""
    try:
        entries = os.listdir(_RECORDS)
    except OSError:
        return
    for entry in entries:
        path = f"{_RECORDS}/{entry}"
        try:
            if entry == name or (entry.startswith("unit:") and os.readlink(path) == name):
                os.unlink(path)
        except OSError:
            pass  # gone meanwhile, or no link
