"""CRIU below runc: its version, its action script's questions, its logs."""

import os
import select

from torpor import inquiry, process, record
from torpor.cgroup import Cgroup, own_unit, supervisor_of
from torpor.container import RUNC_ROOT, Container
from torpor.process import read_small

CONFIG = "/usr/share/torpor/criu.conf"
ACTION_SCRIPT = "/usr/libexec/torpor/criu-action"  # as CONFIG names it
MINIMUM = (4, 0)  # the oldest release with everything CONFIG names and a working pre-resume script
_CLOSING = ("tcp-close", "network-lock")  # lines of CONFIG
LOG_KEEP_BYTES = 256 << 10
LOG_MAX_BYTES = 64 << 20  # a restore of damaged images can write gigabytes
_IPC_OBJECTS = ("ipcns-shm-", "ipcns-sem-", "ipcns-msg-")  # the beginnings of images' names

POST_DUMP = "post-dump"
SETUP_NAMESPACES = "setup-namespaces"
POST_SETUP_NAMESPACES = "post-setup-namespaces"  # asked only where cgroups have controllers
POST_RESTORE = "post-restore"
PRE_RESUME = "pre-resume"  # asked only where the script cannot see CRIU


def version() -> tuple[int, ...]:
    """CRIU's version, () when it cannot be run."""
    said = inquiry.once("criu", "version", _ask_version)
    return tuple(int(part) for part in said.split(".") if part.isdigit())


def _ask_version(path: str) -> str:
    status, text = process.output([path, "--version"])
    return _version_word(text) if status == 0 else ""


def missing() -> str:
    """What is not there and must be before CRIU is called; empty when all is.

    CRIU takes a configuration that it cannot read for none: it would then dump, and kill,
    without asking.
    """
    for program in ("runc", "criu"):
        if not process.find(program):
            return f"{program} is not installed"
    for path, mode in ((CONFIG, os.R_OK), (ACTION_SCRIPT, os.X_OK)):
        if not os.access(path, mode):
            return f"{path} is missing: install torpor again"
    return ""


def _version_word(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("Version:"):
            return line.split()[1]
    return ""


def configuration(container: Container, lines: list[str], tcp_lock: str = "") -> str:
    """The path of CONFIG, or of one for this boot that adds lines to it.

    tcp_lock is how packets are held back for connections that are kept (network-lock in criu(8)),
    where CONFIG closes them.
    """
    if not lines and not tcp_lock:
        return CONFIG
    common = (record.read_bytes(CONFIG) or b"").decode()
    if tcp_lock:
        kept = [line for line in common.splitlines() if line.split(" ")[0] not in _CLOSING]
        common = "\n".join((*kept, f"network-lock {tcp_lock}", ""))
    path = f"{container.run_dir}/criu.conf"
    record.replace(path, (common + "".join(f"{line}\n" for line in lines)).encode())
    return path


def tcp_lock() -> str:
    """How this CRIU can hold packets back (network-lock in criu(8)), empty if it cannot.

    With nftables it needs no program, but must have been built for it.
    """
    if not process.output(["criu", "check", "--feature", "network_lock_nftables"])[0]:
        return "nftables"
    return "iptables" if process.find("iptables-restore") else ""


class Question:
    """CRIU holds at a stage and asks whether to go on."""

    __slots__ = ("criu", "init", "stage")

    def __init__(self, line: str) -> None:
        fields = line.split(" ")
        numbers = [int(field) for field in fields[1:] if record.is_number(field)]
        self.stage = fields[0]
        self.init, self.criu = numbers if len(numbers) == 2 else (0, 0)  # their pids

    def locate(self, runc_pid: int) -> None:
        """Find CRIU below runc where the script could not see it.

        CRIU joins the pid namespace of another container before it calls the script, whose parent
        is then outside of what it can see.
        """
        if not self.criu:
            found = [pid for pid in process.children(runc_pid) if process.name(pid) == "criu"]
            self.criu = found[0] if found else 0

    def still_holds(self) -> bool:
        """Whether CRIU is alive: while it is, the tasks it holds have not run."""
        name, _, rest = read_small(f"/proc/{self.criu}/stat").rpartition(") ")
        return name.endswith(" (criu") and rest[:1] not in ("Z", "X")


class Channel:
    """The two FIFOs over which CRIU's action script asks, and this process answers.

    The script waits for the answer with CRIU, and the container, held at that stage.
    When this process dies the script fails and CRIU rolls back, unless the dump is committed.
    """

    def __init__(self, container: Container) -> None:
        self._paths = [f"{container.run_dir}/ask", f"{container.run_dir}/answer"]
        for path in self._paths:
            if os.path.lexists(path):
                os.unlink(path)
            os.mkfifo(path, 0o600)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        self.fd, self._answer = (os.open(path, flags) for path in self._paths)
        self._directory = container.run_dir
        self._state_path = container.state_path
        self._pending = b""

    def environment(
        self, payload: Cgroup, config: str = CONFIG, *, with_controllers: bool = False
    ) -> dict[str, str]:
        """What runc, and through it CRIU and its script, must find in their environment."""
        return {
            "TORPOR_CONTROLLERS": "yes" if with_controllers else "",
            "CRIU_CONFIG_FILE": config,
            "TORPOR_CHANNEL": self._directory,
            "TORPOR_STATE": self._state_path,
            "TORPOR_PAYLOAD": payload.path,
            "TORPOR_SUPERVISOR": supervisor_of(own_unit()).path,
        }

    def questions(self) -> list[Question]:
        """What was asked since the last call."""
        try:
            self._pending += os.read(self.fd, 4096)
        except BlockingIOError:
            pass
        *lines, self._pending = self._pending.split(b"\n")
        return [Question(line.decode("ascii", "replace")) for line in lines]

    def answer(self, *, go_on: bool) -> None:
        os.write(self._answer, b"ok\n" if go_on else b"no\n")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._answer)
        for path in self._paths:
            os.unlink(path)

    def wait(self, child: process.Child, timeout_s: float) -> bool:
        """Wait until the script asks, the child ends (True) or the time is over (False)."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        poller.register(child.fd, select.POLLIN)
        return bool(poller.poll(int(timeout_s * 1000)))


def leave_out_ipc(images: str) -> None:
    """Remove System V's shared memory, semaphores and queues from images.

    In a namespace that somebody else keeps they are there when the container wakes, and CRIU
    would fail to make them again; what it does not find in images it takes for none.
    """
    for name in os.listdir(images):
        if name.startswith(_IPC_OBJECTS):
            os.unlink(f"{images}/{name}")


def log_size(work: str, verb: str) -> int:
    try:
        return os.stat(f"{work}/{verb}.log").st_size
    except OSError:
        return 0


def dump_rolled_back(work: str) -> bool:
    """Whether a failed dump ended in order: CRIU then restored the tasks before it left.

    It says so in its last line (cr_dump_finish in criu/cr-dump.c). Without it CRIU
    was killed and may have left its own code in the tasks.
    """
    return "Dumping FAILED" in _tail(f"{work}/dump.log", 4096)


def dump_ended_in_order(work: str) -> bool:
    """Whether a dump of which nothing else is known left its tasks as they were.

    CRIU writes its log before it touches a task. That all went well is its last line, too.
    """
    done = "Dumping finished successfully" in _tail(f"{work}/dump.log", 4096)
    return done or dump_rolled_back(work) or not log_size(work, "dump")


def holds(pid: int) -> bool:
    """Whether a process is held by a CRIU."""
    return process.name(_tracer(pid)) == "criu"


def restore_refused(work: str) -> bool:
    """Whether CRIU itself ended a restore as failed (criu/cr-restore.c); else it was cut off."""
    return "Restoring FAILED" in _tail(f"{work}/restore.log", 4096)


def process_id_is_taken(reason: str) -> bool:
    """Whether a restore failed for a process that others have the id of (fork_with_pid()).

    That is so only in a pid namespace that is shared, and passes.
    """
    return "Can't fork for" in reason and "File exists" in reason


def root_is_gone(reason: str) -> bool:
    """Whether the place was removed at which runc had the root file system for a restore."""
    return f"Unable to mount {RUNC_ROOT}/" in reason and "No such file or directory" in reason


def is_out_of_space(reason: str) -> bool:
    """Whether a file system was full: what is in the words of strerror(3)."""
    return "No space left on device" in reason or "Disk quota exceeded" in reason


_UNDER_WAY = (
    "Control messages in queue",
    "Non-empty write queue on an in-flight socket",
    "Found a closed in-flight socket to",
    "Can't dump corked dgram socket",
)


def will_pass(reason: str) -> bool:
    """Whether a dump failed for something that is over soon when the container runs on.

    A message with its sender's credentials or descriptors was under way (sk-queue.c of CRIU), or
    one to a server that had not accepted its sender yet (sk-unix.c), or half of one (sk-inet.c).
    Or the kernel did not say of a watch what file it is of, as Linux 6.18 does not for a moment of
    those on cgroups (parse_fdinfo_pid_s() in proc_parse.c).
    """
    no_file = "error parsing [inotify " in reason and " ignored_mask:0 ]" in reason
    return no_file or any(words in reason for words in _UNDER_WAY)


def keep_log(work: str, verb: str, kept: str) -> None:
    """Keep a failed run's log, bounded: its end is what tells the reason. Raises OSError."""
    text = _tail(f"{work}/{verb}.log", LOG_KEEP_BYTES)
    if text:
        record.write_durably(kept, text.encode("utf-8", "replace"))


# Said as errors in runs that succeed: no cause of anything.
_NOISE = ("Dumping FAILED", "Restoring FAILED", "rlimit: Can't setup RLIMIT_NOFILE for self")


def errors(work: str, verb: str, most: int = 3) -> list[str]:
    """CRIU's own first errors, without time stamps, file names and repeats."""
    found: list[str] = []
    for line in _tail(f"{work}/{verb}.log", LOG_KEEP_BYTES).splitlines():
        _, error, message = line.partition("Error (")
        if error and ("): " in message):
            words = message.partition("): ")[2].strip()
            if words and words not in found and not words.startswith(_NOISE):
                found.append(words)
    return found[:most]


def _tail(path: str, size_bytes: int) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        end = os.fstat(fd).st_size
        return os.pread(fd, size_bytes, max(0, end - size_bytes)).decode("utf-8", "replace")
    except OSError:  # it is no file
        return ""
    finally:
        os.close(fd)


def obstacles(pids: list[int]) -> list[str]:
    """What CRIU cannot dump in these processes and does not name in its log."""
    found = []
    for pid in pids:
        name = f"process {pid} ({read_small(f'/proc/{pid}/comm').strip()})"
        tracer = _tracer(pid)
        if tracer:
            tool = read_small(f"/proc/{tracer}/comm").strip()
            found.append(f"{name} is being traced by {tool} ({tracer}): end that first")
        if _uses_io_uring(pid):
            found.append(f"{name} uses io_uring, which CRIU cannot dump: switch it off there")
    return found


def has_ipc_segment(pid: int) -> bool:
    """Whether a process has shared memory of System V attached: "/SYSV", the key, "(deleted)"."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as lines:
            return any(b" /SYSV" in line and line.endswith(b" (deleted)\n") for line in lines)
    except OSError:
        return False


def _tracer(pid: int) -> int:
    for line in read_small(f"/proc/{pid}/status").splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def _uses_io_uring(pid: int) -> bool:
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
        return any("[io_uring]" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in fds)
    except OSError:
        return False
