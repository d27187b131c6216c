"""SELinux labels of a container: of its processes and of its files.

Labels and levels follow container-selinux: user:role:type:level, with two categories of the level
for each container, so that containers of one type cannot touch each other.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torpor import regular_file, values
from torpor.values import WrongError
from torpor.yaml_tree import Node, Scalar, shown

_CATEGORIES = 1024  # c0 to c1023 in the targeted policy
_SHARED_LEVEL = "s0"
_FILE_LIMIT_BYTES = 64 << 10
_LABEL_LENGTH = 255
_LABEL = re.compile(r"\w[\w.-]*(?::[\w.-]+){2}(?::[\w.,:-]+)?", re.ASCII)
_KEYS = ("process-label", "mount-label")
_DISABLED = "disabled"
# go-selinux refuses most of these; a wrong label here takes the host down.
_UNTOUCHABLE = (
    *("/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home"),
    *("/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt", "/opt", "/proc", "/root", "/run"),
    *("/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local"),
    *("/usr/sbin", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run"),
    "/var/tmp",
)


@dataclass(frozen=True)
class Selinux:
    """What a definition says; a label of None follows the other, or this machine's policy."""

    disabled: bool = False
    process_label: str | None = None
    mount_label: str | None = None


@dataclass(frozen=True)
class Contexts:
    """The labels that this machine's policy has for containers; "" where it has none."""

    process: str = ""
    file: str = ""
    init_process: str = ""  # of a container whose first process is systemd


@dataclass(frozen=True)
class Labels:
    """Of a container's processes, and of the file systems mounted for it; "" is none."""

    process: str
    mount: str


def parse(node: Node) -> Selinux:
    """A mapping of process-label and mount-label, or the word disabled. Raises WrongError."""
    if isinstance(node, Scalar) and not node.absent:
        values.choice((_DISABLED,), node)
        return Selinux(disabled=True)
    labels: dict[str, str] = {}
    for key, (line, value) in values.pairs(node).items():
        if key not in _KEYS:
            hint = values.nearest(key, _KEYS)
            raise WrongError(f"'{shown(key)}' is unknown here", hint, line)
        labels[key] = _label(value)
    return Selinux(False, labels.get("process-label"), labels.get("mount-label"))


def contexts(root: str = "/") -> Contexts | None:
    """This machine's labels for containers, None where SELinux is off, as libselinux decides it.

    The files are those of go-selinux: container-selinux's own, else the policy's lxc_contexts.
    Raises OSError for one that is there and cannot be read.
    """
    if not _is_enabled(root):
        return None
    policy = _assignments(_content(root, "etc/selinux/config")).get("SELINUXTYPE", "")
    if not re.fullmatch(r"\w[\w.-]*", policy, re.ASCII):
        return Contexts()
    content = _content(root, "usr/share/containers/selinux/contexts") or _content(
        root, f"etc/selinux/{policy}/contexts/lxc_contexts"
    )
    return parse_contexts(content)


def parse_contexts(content: bytes) -> Contexts:
    """lxc_contexts(5): lines of NAME = "LABEL". What is no label is left out."""
    found = _assignments(content)
    names = ("process", "file", "init_process")
    labels = {name: found.get(name, "") for name in names}
    return Contexts(**{name: label for name, label in labels.items() if _is_label(label)})


def labels(
    wanted: Selinux | None, machine: Contexts | None, name: str, *, is_init: bool = False
) -> Labels | None:
    """The labels of container name; None where it gets none.

    machine is what contexts() found: without SELinux nothing is labelled, because runc refuses to.
    A label that is not given takes the level of the one that is, so that the two fit each other.
    """
    wanted = wanted or Selinux()
    if machine is None or wanted.disabled:
        return None
    default = (is_init and machine.init_process) or machine.process
    given = wanted.process_label or wanted.mount_label
    level = _level(given) if given else categories(name)
    process = wanted.process_label or _with_level(default, level)
    mount = wanted.mount_label or _with_level(machine.file, level)
    return Labels(process, mount) if process or mount else None


def section(given: Labels) -> tuple[dict[str, str], dict[str, str]]:
    """What given adds to the sections process and linux."""
    process = {"selinuxLabel": given.process} if given.process else {}
    return process, {"mountLabel": given.mount} if given.mount else {}


def categories(name: str) -> str:
    """The level of container name: always the same two of 1024 categories, the lower one first.

    There are 523776 pairs: of 100 containers, two share theirs with a chance of 1 %.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    first, step = number % _CATEGORIES, number // _CATEGORIES % (_CATEGORIES - 1)
    second = (first + 1 + step) % _CATEGORIES
    return f"s0:c{min(first, second)},c{max(first, second)}"


def relabelling(options: Iterable[str]) -> tuple[tuple[str, ...], bool | None]:
    """The mount options without z and Z, and whether the files are to be shared.

    None: neither was given. Raises WrongError for both.
    """
    given = tuple(options)
    if "z" in given and "Z" in given:
        raise WrongError("z and Z exclude each other", "z is for files that containers share.")
    rest = tuple(option for option in given if option not in ("z", "Z"))
    return rest, None if rest == given else "z" in given


def relabel(path: str, label: str, shared: bool) -> list[str]:
    """The command that gives label to the files below path; without categories where shared.

    path is resolved: its links are not followed. Raises WrongError for a directory of the host.
    """
    plain = "/" + os.path.normpath(path).strip("/")
    if not path.startswith("/") or plain in _UNTOUCHABLE or os.path.dirname(plain) == "/home":
        hint = "Mount a directory of the container's own, or leave out z and Z."
        raise WrongError(f"{shown(plain)} belongs to the host and is not relabelled", hint)
    return ["chcon", "-R", "-h", _with_level(label, _SHARED_LEVEL) if shared else label, plain]


def mount_option(label: str) -> str:
    """The option of mount(8) that labels a whole file system, as a tmpfs; a label holds commas."""
    return f'context="{label}"'


def _label(node: Node) -> str:
    if not _is_label(words := values.text(node)):
        hint = "Write it as ls -Z shows it: system_u:system_r:container_t:s0:c1,c2"
        raise WrongError(f"'{shown(words)}' is not an SELinux label", hint, node.line)
    return words


def _is_label(words: str) -> bool:
    return len(words) <= _LABEL_LENGTH and _LABEL.fullmatch(words) is not None


def _level(label: str) -> str:
    return ":".join(label.split(":")[3:])


def _with_level(label: str, level: str) -> str:
    """label with another level; one of a policy without levels stays as it is."""
    *start, old = [*label.split(":", 3), "", "", "", ""][:4]
    return ":".join([*start, level]) if old and level else label


def _is_enabled(root: str) -> bool:
    """The rule of is_selinux_enabled(3).

    Container managers hide SELinux from what they run by mounting selinuxfs read-only.
    """
    try:
        mounted = os.statvfs(os.path.join(root, "sys/fs/selinux"))
    except OSError:
        return False
    files = ("sys/fs/selinux/enforce", "etc/selinux/config")
    exist = all(os.path.exists(os.path.join(root, file)) for file in files)
    return exist and not mounted.f_flag & os.ST_RDONLY


def _content(root: str, file: str) -> bytes:
    try:
        return regular_file.read(os.path.join(root, file), _FILE_LIMIT_BYTES)[0]
    except FileNotFoundError:
        return b""


def _assignments(content: bytes) -> Mapping[str, str]:
    lines = (line.strip() for line in content.decode("utf-8", "replace").splitlines())
    pairs = (line.partition("=") for line in lines if not line.startswith(("#", ";")))
    return {name.strip(): value.strip().strip('"') for name, equals, value in pairs if equals}
