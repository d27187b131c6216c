"""Limits of a container's processes, in the container's own cgroup rather than in its unit's.

Those who put it to sleep and wake it are in the unit too: under its limits, a container that has
used up its memory or its tasks could not be put to sleep, and one with little processor time not
in time. What is limited how is said in directives of systemd.resource-control(5); the files are
those of the kernel's cgroup-v2.rst.
"""

import os

from torpor.cgroup import Cgroup
from torpor.process import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Directives = Iterable[tuple[str, str]]

_SIZES = {
    "MemoryMax": "memory.max",
    "MemoryHigh": "memory.high",
    "MemorySwapMax": "memory.swap.max",
    "MemoryZSwapMax": "memory.zswap.max",
}
_RATES = {
    "IOReadBandwidthMax": "rbps",
    "IOWriteBandwidthMax": "wbps",
    "IOReadIOPSMax": "riops",
    "IOWriteIOPSMax": "wiops",
}
_QUOTA, _TASKS = "CPUQuota", "TasksMax"
# Of the unit too: the kernel goes by the cgroup whose limit was met.
_OOM = "OOMPolicy"
NAMES = frozenset((*_SIZES, *_RATES, _QUOTA, _TASKS))  # what is a limit
HELD = NAMES | {_OOM}  # what settle() takes

_MAX = "max"
_PERIOD_US = 100_000
_PERIOD_MAX_US = 1_000_000
_QUOTA_MIN_US = 1_000  # less is refused by the kernel
_UNLIMITED = {
    **dict.fromkeys(_SIZES.values(), _MAX),
    "pids.max": _MAX,
    "cpu.max": f"{_MAX} {_PERIOD_US}",
    "memory.oom.group": "0",
}
# What CRIU and a frozen container need none of while it is dumped.
_LIFTED = ("memory.max", "memory.high", "pids.max", "cpu.max", "io.max")


def knobs(directives: "Directives") -> dict[str, list[str]]:
    """The lines to be written to each file of a cgroup; OSError for a device that is not there."""
    found: dict[str, list[str]] = {}
    rates: dict[str, list[str]] = {}
    for name, word in directives:
        if name in _SIZES:
            found[_SIZES[name]] = [_size(word)]
        elif name == _TASKS:
            found["pids.max"] = [_tasks(word)]
        elif name == _QUOTA:
            found["cpu.max"] = [_quota(word)]
        elif name == _OOM:
            found["memory.oom.group"] = [str(int(word == "kill"))]
        elif name in _RATES:
            path, _, rate = word.rpartition(" ")
            rates.setdefault(_device(path), []).append(f"{_RATES[name]}={_rate(rate)}")
    if rates:
        found["io.max"] = [f"{device} {' '.join(words)}" for device, words in rates.items()]
    return found


def settle(cgroup: Cgroup, directives: "Directives", *, alone: bool = False) -> list[str]:
    """Limit a cgroup as the directives say; warnings of what cannot be.

    alone: and in nothing else. A bundle's own config, or systemd, may limit it too.
    """
    try:
        wanted = knobs(directives)
    except OSError as error:
        return [f"resources: {error.filename}: {error.strerror}: nothing is limited"]
    warnings = []
    unlimited = {file: [line] for file, line in _UNLIMITED.items()} if alone else {}
    for file, lines in (unlimited | wanted).items():
        if os.path.exists(f"{cgroup.path}/{file}"):
            warnings += _write_all(cgroup, file, lines)
        elif file in wanted:
            controller = file.partition(".")[0]
            warnings.append(
                f"resources: nothing enforces {file}, for there is no {controller} controller in "
                "its cgroup; see cgroups(7)"
            )
    return warnings


def shown(cgroup: Cgroup) -> dict[str, str]:
    """What is in each file that settle() may write, for people; "none" where there is none."""
    files = (*_UNLIMITED, "io.max")
    texts = {file: read_small(f"{cgroup.path}/{file}").splitlines() for file in files}
    return {file: ", ".join(lines) or "none" for file, lines in texts.items()}


def lift(cgroup: Cgroup) -> list[tuple[str, str]]:
    """Take the limits away from a frozen container while it is dumped; what put_back() needs."""
    lifted = []
    for file in _LIFTED:
        for line in read_small(f"{cgroup.path}/{file}").splitlines():
            free = _unlimited(file, line)
            if line != free and not _write_all(cgroup, file, [free]):
                lifted.append((file, line))
    return lifted


def put_back(cgroup: Cgroup, lifted: list[tuple[str, str]]) -> list[str]:
    """Undo lift(); warnings of what cannot be."""
    return [said for file, line in lifted for said in _write_all(cgroup, file, [line])]


def _unlimited(file: str, line: str) -> str:
    if file != "io.max":
        return _UNLIMITED[file]
    return " ".join([line.partition(" ")[0], *(f"{rate}={_MAX}" for rate in _RATES.values())])


def _write_all(cgroup: Cgroup, file: str, lines: list[str]) -> list[str]:
    known = read_small(f"{cgroup.path}/{file}").splitlines()
    warnings = []
    for line in lines:
        try:
            if line not in known:
                cgroup.write(file, line)
        except OSError as error:
            warnings.append(f"{cgroup.path}/{file} cannot be {line!r}: {error.strerror}")
    return warnings


def _size(word: str) -> str:
    if word == "infinity":
        return _MAX
    if word.endswith("%"):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return str(_share(total, word))
    return str(number(word, 1024))


def _tasks(word: str) -> str:
    if word == "infinity":
        return _MAX
    if word.endswith("%"):
        most = min(
            int(read_small(f"/proc/sys/kernel/{file}")) for file in ("pid_max", "threads-max")
        )
        return str(max(1, _share(most, word)))
    return word


def _share(total: int, word: str) -> int:
    return total * permyriad(word) // 10_000


def permyriad(word: str) -> int:
    """A percentage of up to two decimals: a hundredth of a percent is one."""
    whole, _, decimals = word.removesuffix("%").partition(".")
    return int(whole) * 100 + int(decimals.ljust(2, "0"))


def number(word: str, base: int) -> int:
    """A number with a suffix of systemd's, for powers of base."""
    digits = word.rstrip("KMGTPE")
    power = " KMGTPE".index(word[len(digits) :]) if word != digits else 0
    return int(digits) * int(base**power)


def _rate(word: str) -> str:
    return _MAX if word == "infinity" else str(number(word, 1000))


def _quota(word: str) -> str:
    """As systemd: of a tenth of a second, and longer where that is too little to be given."""
    share = permyriad(word)
    period_us = max(_PERIOD_US, min(_PERIOD_MAX_US, -(-_QUOTA_MIN_US * 10_000 // share)))
    return f"{max(_QUOTA_MIN_US, period_us * share // 10_000)} {period_us}"


def _device(path: str) -> str:
    """MAJOR:MINOR of the whole disk that a path is, or is on."""
    import stat

    found = os.stat(path)
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    if os.path.exists(f"/sys/dev/block/{name}/partition"):
        whole = os.path.realpath(f"/sys/dev/block/{name}/..")
        return read_small(f"{whole}/dev").strip()
    return name
