"""systemd as the PID 1 of a container: when that is so, and what it must find there.

What systemd asks of whoever starts it is in <https://systemd.io/CONTAINER_INTERFACE>; what it
needs to be dumped and restored by CRIU was tried with systemd 257 and CRIU 4.1 and 4.2. Hooks use
this too, so with os alone.
"""

import os

AUTO = "auto"
ALWAYS = "always"
NEVER = "never"
MODES = (AUTO, ALWAYS, NEVER)

# Halts; SIGTERM would make it execute itself anew (systemd(1), "Signals").
STOP_SIGNAL = 37  # SIGRTMIN+3 of glibc; runc knows no such name

# Executes itself anew and keeps its state, the system's as well as a user's (systemd(1), from 250).
REEXEC_SIGNAL = 59  # SIGRTMIN+25 of glibc
PRIVATE_SOCKET = "/run/systemd/private"  # of systemctl

CGROUP_PLACE = "/sys/fs/cgroup"
CGROUP_V1_PLACE = "/sys/fs/cgroup/systemd"
MACHINE_ID_PLACE = "/etc/machine-id"
MACHINE_ID_VARIABLE = "container_uuid="  # what systemd.io/CONTAINER_INTERFACE calls it
JOURNAL_PLACE = "/var/log/journal"
_COMMON = ("rw", "rprivate", "nosuid", "nodev")
_SIZE = "size=65536k"

# DESTINATION → options of a tmpfs, which begins with what the root file system has there. Those of
# systemd itself (mount_table in src/shared/mount-setup.c): nothing in /run may be on a disk, but
# programs there may be executed.
TMPFS = {
    "/run": (*_COMMON, "tmpcopyup", "mode=755", _SIZE),
    "/run/lock": (*_COMMON, "noexec", "tmpcopyup", "mode=1777", _SIZE),
    "/tmp": (*_COMMON, "tmpcopyup", "mode=1777"),
    JOURNAL_PLACE: (*_COMMON, "noexec", "tmpcopyup", "mode=755"),
}
NEEDED = ("/run", "/run/lock", "/tmp")  # what else is in memory may lie in a mount of the user's
# Where the root file system is read-only, what systemd's own services write there is in memory.
TMPFS_READ_ONLY = {"/var/lib/systemd": (*_COMMON, "noexec", "tmpcopyup", "mode=755")}
CGROUP_OPTIONS = ("rw", "nosuid", "noexec", "nodev", "relatime")

# CRIU restores an open memory.pressure as a plain file, on which poll(2) reports an error for ever,
# and in a user namespace not at all. PID 1 itself is told so by variables; it watches processor and
# disk too since systemd 261.
NO_WATCHES = tuple((f"{what}_PRESSURE_WATCH", "/dev/null") for what in ("MEMORY", "CPU", "IO"))
_MANAGER = """\
# Made by torpor: CRIU cannot restore a watch of memory pressure.
[Manager]
DefaultMemoryPressureWatch=no
"""
# Older ones know no setting for the other two, and would say so of each unit.
_SERVICE = f"""\
# Made by torpor: CRIU cannot restore a watch of pressure, nor dump such namespaces below the
# container's own.
[Service]
Environment={" ".join(f"{name}={value}" for name, value in NO_WATCHES)}
MemoryPressureWatch=off
ProtectHostname=no
PrivateIPC=no
PrivateUsers=no
PrivatePIDs=no
"""
# What systemd is told in its own /run: PATH → content. For each user's systemd too.
FILES = {
    f"/run/systemd/{path}": text
    for kind in ("system", "user")
    for path, text in (
        (f"{kind}.conf.d/10-torpor.conf", _MANAGER),
        (f"{kind}/service.d/10-torpor.conf", _SERVICE),
    )
}

_DIRECTORIES = ("/sbin", "/usr/sbin", "/usr/local/sbin", "/bin", "/lib")
_PROGRAMS = ("init", "systemd")
_SHELL = ("/bin/sh", "-c")


def applies(mode: str, argv: "tuple[str, ...] | list[str]") -> bool:
    """Whether a container with this command is to be treated as one that systemd boots."""
    return mode == ALWAYS or (mode == AUTO and is_init(argv))


def is_init(argv: "tuple[str, ...] | list[str]") -> bool:
    """Whether a command runs init or systemd, by the name; through /bin/sh -c too, as images do."""
    words = list(argv)
    if tuple(words[:2]) == _SHELL and len(words) > 2:
        words = [word for word in words[2].split() if word != "exec"]
    if not words:
        return False
    directory, name = os.path.split(words[0])
    return name == "systemd" or (name in _PROGRAMS and directory in _DIRECTORIES)


def told_id(env: "list[str]") -> str:
    """The machine ID that systemd is told by variables, NAME=VALUE; empty where it is not."""
    told = [
        line[len(MACHINE_ID_VARIABLE) :] for line in env if line.startswith(MACHINE_ID_VARIABLE)
    ]
    text = told[-1].replace("-", "").lower() if told else ""
    return text if is_machine_id(text) else ""


def is_machine_id(text: str) -> bool:
    """Whether a text is one of machine-id(5): 32 hexadecimal digits, not all of them 0."""
    return len(text) == 32 and not set(text) - set("0123456789abcdef") and text.strip("0") != ""
