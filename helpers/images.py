"""Generations: the images of one dump, their manifest, and when they may be believed.

A generation is a directory of its own, never used twice:
``checkpoint/`` (CRIU's images), ``work/`` (logs, statistics), ``config.json`` (the OCI config as
the container ran), ``plan`` (what the host must have for it), ``shm.tar`` (the content of
/dev/shm), ``cgroups`` (those that it made), ``mounts`` (their flags), ``network`` and ``netns``
(its lease, and what its network namespace held) and ``manifest``, written last and durably.
``stats-dump`` (what CRIU measured) is beside it for people: nothing relies on it. A snapshot is a
generation that has its files beside it: see snapshots.
"""

import errno
import os
import stat

import xxhash

from torpor import fault, mounts, patience, record
from torpor.container import Container
from torpor.errors import HungError, ImageError, RecordError
from torpor.following import Following, Hash, new_buffer
from torpor.patience import Stall
from torpor.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Below this size a file is verified before runc starts; the others beside it.
_SMALL_BYTES = 1 << 20
_TICK_S = 1.0
_AHEAD_BYTES = 64 << 20
# What the start helper itself goes by, before the verdict on the rest.
_READ_FIRST = ("config.json", "plan", "cgroups", "mounts", "network", "netns", "places")
_STATISTICS = "stats-dump"  # as CRIU calls it
AHEAD = "ahead"  # of rounds of copying before the dump
PARENT = "parent"  # the link from images to those of the round before: CR_PARENT_LINK of CRIU
# What an unreadable image gives; other errors are the host's, and may pass.
_DAMAGE = (errno.EIO, errno.ENOENT, errno.ELOOP)


class Generation:
    """The directory of one generation."""

    __slots__ = ("number", "path")

    def __init__(self, container: Container, number: int, path: str = "") -> None:
        """path is where it is if not with the others, as when it was set aside."""
        self.number = number
        self.path = path or container.generation_dir(number)

    @property
    def images(self) -> str:
        return f"{self.path}/checkpoint"

    @property
    def work(self) -> str:
        return f"{self.path}/work"

    @property
    def config(self) -> str:
        return f"{self.path}/config.json"

    @property
    def plan(self) -> str:
        """What the host must have for the config, see preparation."""
        return f"{self.path}/plan"

    @property
    def shm(self) -> str:
        """The content of /dev/shm as a tar archive; there is none when it was empty."""
        return f"{self.path}/shm.tar"

    @property
    def cgroups(self) -> str:
        """The cgroups below the container's own; there is none when it made none."""
        return f"{self.path}/cgroups"

    @property
    def mounts(self) -> str:
        """The flags of its mounts; there is none in a generation of an older torpor."""
        return f"{self.path}/mounts"

    @property
    def network(self) -> str:
        """The lease of its network; there is none when it has no network of its own."""
        return f"{self.path}/network"

    @property
    def netns(self) -> str:
        """What was configured in its network namespace, as ip(8) says it."""
        return f"{self.path}/netns"

    @property
    def places(self) -> str:
        """Which files of the container are beside its memory, where it is a snapshot."""
        return f"{self.path}/places"

    @property
    def manifest(self) -> str:
        return f"{self.path}/manifest"

    @property
    def statistics(self) -> str:
        """What CRIU measured in the dump; there may be none."""
        return f"{self.path}/{_STATISTICS}"

    def make(self) -> None:
        """Make the empty directories, on a number that was never used before."""
        record.make_directory(self.path.rpartition("/")[0])
        for directory in (self.path, self.images, self.work):
            os.mkdir(directory, 0o700)
            fault.after(directory)

    def keep_statistics(self) -> None:
        """Keep them where they are not removed with CRIU's logs, if CRIU came to write them."""
        try:
            os.rename(f"{self.work}/{_STATISTICS}", self.statistics)
        except OSError:
            pass

    def rounds(self) -> list[str]:
        """Directories of images that were made while it ran on, see ahead; few have any."""
        place = f"{self.path}/{AHEAD}"
        return [f"{place}/{number}" for number in numbers(place)]

    def admit(self, gid: int) -> None:
        """Let a group of the host read the images."""
        rounds = self.rounds()
        for directory in (self.images, *rounds):
            for name in os.listdir(directory):
                _give(f"{directory}/{name}", gid, 0o640)
        for directory in (self.images, *rounds, *_above(rounds), self.work):
            _give(directory, gid, 0o750)

    def shut(self) -> list[str]:
        """Take that back, and close what CRIU wrote with another mask; repeatable.

        Returns warnings.
        """
        try:
            rounds = self.rounds()
            for directory in _above(rounds):
                _give(directory, 0, 0o700)
            for directory in (self.images, self.work, *rounds):
                _give(directory, 0, 0o700)
                for name in os.listdir(directory):
                    _give(f"{directory}/{name}", 0, 0o600)
        except FileNotFoundError:
            pass
        except OSError as error:
            return [f"{self.path} is not closed to others: {error.strerror}"]
        return []

    def size_bytes(self) -> int:
        """What the images take so far."""
        try:
            with os.scandir(self.images) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except OSError:
            return 0


def _above(rounds: list[str]) -> list[str]:
    """The directory that they are in, where there are any."""
    return [os.path.dirname(rounds[0])] if rounds else []


def _give(path: str, gid: int, mode: int) -> None:
    if not os.path.islink(path):
        os.chown(path, 0, gid)
        os.chmod(path, mode)


class Manifest:
    """What a generation must consist of, and under which inputs it may wake."""

    __slots__ = ("facts", "files")

    def __init__(self, facts: dict[str, str], files: dict[str, tuple[str, int]]) -> None:
        self.facts = facts  # name, generation, inputs, rootfs, size, versions ...
        self.files = files  # path in the generation → (xxh3-128 in hexadecimal, size in bytes)

    @property
    def size_bytes(self) -> int:
        """What the images and the config take on disk."""
        return sum(size for _, size in self.files.values())

    def serialize(self) -> bytes:
        pairs = list(self.facts.items())
        pairs += [
            ("file", f"{digest} {size} {path}") for path, (digest, size) in self.files.items()
        ]
        body = record.serialize("manifest", pairs)
        return body + f"check={xxhash.xxh3_128_hexdigest(body)}\n".encode()


def parse_manifest(text: bytes, where: str) -> Manifest:
    """A manifest from its bytes; ImageError for anything else."""
    body, _, check = text.rpartition(b"check=")
    if check.strip().decode("ascii", "replace") != xxhash.xxh3_128_hexdigest(body):
        raise ImageError(f"{where}: the manifest is damaged or incomplete")
    facts: dict[str, str] = {}
    files: dict[str, tuple[str, int]] = {}
    try:
        for key, value in record.parse(body, "manifest", where):
            if key == "file":
                digest, size, path = value.split(" ", 2)
                files[path] = (digest, record.number(size))
            else:
                facts[key] = value
        record.seconds(facts.get("taken", "0"))
    except (RecordError, ValueError) as error:
        raise ImageError(f"{where}: the manifest is not whole: {error}") from error
    for path in files:
        if path.startswith("/") or "\0" in path or {"", "..", "."} & set(path.split("/")):
            raise ImageError(f"{where}: the manifest names {path[:80]!a}, outside its generation")
    return Manifest(facts, files)


def read_manifest(container: Container, generation: Generation) -> Manifest:
    """The manifest of a generation of this container; ImageError for anything else."""
    try:
        text = record.read_bytes(generation.manifest)
        if text is None:
            raise ImageError(f"{generation.manifest} is missing")
        manifest = parse_manifest(text, generation.manifest)
    except RecordError as error:
        raise ImageError(f"{generation.manifest}: {error}") from error
    expected = {"name": container.name, "generation": str(generation.number)}
    for key, value in expected.items():
        if manifest.facts.get(key) != value:
            raise ImageError(
                f"{generation.manifest} is of {key} {manifest.facts.get(key)!r}, not {value!r}"
            )
    return manifest


def seal(
    generation: Generation,
    facts: dict[str, str],
    progress: "Callable[[], None]",
    stall: Stall,
    following: Following | None = None,
) -> Manifest:
    """Make a finished dump durable and write its manifest: from here on it may be believed.

    CRIU never syncs an image. following may have read some of it already. progress is called every
    second. Raises OSError when the disk refuses, HungError when it does not answer.
    """
    files: dict[str, tuple[str, int]] = {}
    read = _Tally()
    device = os.stat(generation.path).st_dev

    def hash_all() -> None:
        followed = following.end() if following else {}
        begun = {f"checkpoint/{name}": each for name, each in followed.items()}
        buffer = new_buffer()
        for path in sorted(walk(generation)):
            found = begun.get(path) or Hash(buffer)
            _hash_durably(f"{generation.path}/{path}", found, read)
            files[path] = (found.hexdigest(), found.size_bytes)
        rounds = generation.rounds()
        for directory in (generation.images, *rounds, *_above(rounds)):
            record.sync_directory(directory)

    try:
        patience.aside(hash_all, progress, stall, lambda: (read.bytes, patience.disk_sign(device)))
    except HungError as error:
        raise HungError(f"{generation.path}: its disk does not answer") from error
    manifest = Manifest(facts, files)
    vouch(generation, manifest)
    return manifest


def vouch(generation: Generation, manifest: Manifest) -> None:
    """Write the manifest of durable files: from here on they may be believed. Raises OSError."""
    record.write_durably(generation.manifest, manifest.serialize())
    # The names of the directories themselves: generations/N, and generations/ for the first.
    parent = generation.path.rpartition("/")[0]
    record.sync_directory(parent)
    record.sync_directory(parent.rpartition("/")[0])


class _Tally:
    """How much was read so far, as another thread may look."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def walk(generation: Generation) -> list[str]:
    """What a manifest speaks of, by its path in the generation. Raises OSError."""
    g = generation
    optional = (g.plan, g.shm, g.cgroups, g.mounts, g.network, g.netns, g.places)
    beside = [path.rpartition("/")[2] for path in optional if os.path.lexists(path)]
    rounds = g.rounds()
    images = [
        f"{directory.removeprefix(g.path)[1:]}/{name}"
        for directory in (g.images, *rounds)
        for name in os.listdir(directory)
        if not (rounds and name == PARENT)
    ]
    return ["config.json", *beside, *images]


def _hash_durably(path: str, found: Hash, read: _Tally) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _read_all(fd, found, read)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise record.naming(path, error) from error


def _read_all(fd: int, found: Hash, read: _Tally) -> None:
    while count := found.read_on(fd):
        read.bytes += count


def _read_ahead(fd: int, found: Hash, read: _Tally) -> None:
    """As _read_all, from a disk that is kept busy: CRIU reads the same, in small pieces."""
    asked_bytes = 0
    while True:
        if found.size_bytes + _AHEAD_BYTES // 2 >= asked_bytes:
            os.posix_fadvise(fd, asked_bytes, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            asked_bytes += _AHEAD_BYTES
        count = found.read_on(fd)
        if not count:
            return
        read.bytes += count


class FileReader:
    """A file of a generation, read once from its beginning while its checksum is taken."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._state = xxhash.xxh3_128()

    def read(self, size: int) -> bytes:
        piece = os.read(self._fd, size)
        self._state.update(piece)
        return piece

    @property
    def digest(self) -> str:
        """Of what was read so far, as a manifest has it."""
        return str(self._state.hexdigest())

    def close(self) -> None:
        os.close(self._fd)


class Verification:
    """Checks a generation against its manifest: what is cheap at once, the rest in a thread.

    The caller starts runc in between and asks for the verdict before the container's
    code can run.
    """

    def __init__(self, generation: Generation, manifest: Manifest) -> None:
        """Raise ImageError for a missing, foreign or wrongly sized file, or a damaged small one.

        Sizes come first: CRIU loops for ever over a truncated pages image.
        """
        self._generation = generation
        self.size_bytes = manifest.size_bytes
        self._read = _Tally()
        self._buffer = new_buffer()
        self._fault: ImageError | OSError | None = None
        for path, (_, size) in manifest.files.items():
            self._check_size(path, size)
        if any(path.startswith(f"{AHEAD}/") for path in manifest.files):
            from torpor import ahead  # few have it

            ahead.require_linked(generation)
        unknown = set(walk(generation)) - set(manifest.files)
        if unknown:
            raise ImageError(f"{generation.path}: {min(unknown)} is not in the manifest")
        large = []
        for path, (digest, size) in manifest.files.items():
            if size > _SMALL_BYTES and path not in _READ_FIRST:
                large.append((path, digest))
            else:
                self._check_content(path, digest)
        self._thread = Thread(lambda: self._check_large(large))

    def failed(self) -> bool:
        """Whether damage has been found already."""
        return self._fault is not None

    def verdict(self, progress: "Callable[[], None]", stall: Stall | None = None) -> None:
        """Wait for the thread; raise the ImageError it found, HungError where it stalls."""
        while not self._thread.ends_within(_TICK_S):
            if stall and stall.stalled(self._read.bytes):
                raise HungError(f"{self._generation.path}: its disk does not answer")
            progress()
        if self._fault is not None:
            raise self._fault

    def _check_large(self, files: list[tuple[str, str]]) -> None:
        try:
            for path, digest in files:
                self._check_content(path, digest)
        except (ImageError, OSError) as error:
            self._fault = error

    def _check_size(self, path: str, size: int) -> None:
        full = f"{self._generation.path}/{path}"
        try:
            found = os.stat(full, follow_symlinks=False)
        except FileNotFoundError as error:
            raise ImageError(f"{full}: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(f"{full} is no regular file")
        if found.st_size != size:
            raise ImageError(f"{full} has {found.st_size} bytes, its manifest says {size}")

    def _check_content(self, path: str, digest: str) -> None:
        full = f"{self._generation.path}/{path}"
        found = Hash(self._buffer)
        try:
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _read_ahead(fd, found, self._read)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise ImageError(f"{full}: {error.strerror}") from error
        if found.hexdigest() != digest:
            raise ImageError(f"{full} is damaged: its checksum does not match the manifest")


def generations(container: Container) -> list[int]:
    """The numbers that have a directory, oldest first."""
    return numbers(container.generations_dir)


def numbers(directory: str) -> list[int]:
    """The numbers among the names in a directory, the lowest first."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(int(name) for name in names if record.is_number(name))


def next_number(container: Container, newest: int) -> int:
    """A number that no generation or snapshot ever had: neither in a record nor on disk."""
    return max([newest, *generations(container), *numbers(container.snapshots_dir)]) + 1


def next_generation(container: Container, newest: int) -> Generation:
    """A generation whose number was never used."""
    return Generation(container, next_number(container, newest))


def shut_all(container: Container) -> list[str]:
    """Shut what restores that were cut off have left open. Returns warnings."""
    found = [Generation(container, number) for number in generations(container)]
    return [warning for one in found if _is_open(one.images) for warning in one.shut()]


def _is_open(directory: str) -> bool:
    try:
        return bool(os.stat(directory).st_mode & 0o077)
    except OSError:
        return False


def remove(path: str) -> None:
    """Remove a directory of ours; what cannot be removed now is found again later.

    Links in it are removed, not followed (os.walk). shutil would take 10 ms to import. What a
    killed CRIU left mounted there is the host's whole cgroup tree, to be written.
    """
    if os.path.islink(path):  # somebody's: what it leads to is not ours
        os.unlink(path)
        return
    if not mounts.detach_below(path):
        return
    for directory, names, files in os.walk(path, topdown=False):
        links = [name for name in names if os.path.islink(f"{directory}/{name}")]
        try:
            for name in files + links:
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
            fault.amid(path)
        except OSError:
            pass


def forget_older(container: Container, keep: int, but: int = 0) -> None:
    """Keep the newest generations, at most this many, and generation ``but`` whatever its age."""
    known = [number for number in generations(container) if number != but]
    for number in known[: max(0, len(known) - keep)]:
        remove(container.generation_dir(number))


def set_aside(container: Container, number: int) -> str:
    """Move a generation where nothing restores it. Only the newest such one is kept."""
    target = container.aside_dir(number)
    parent = target.rpartition("/")[0]
    record.make_directory(parent)
    fault.before(parent)
    try:
        os.rename(container.generation_dir(number), target)
    except FileNotFoundError:
        return ""
    record.sync_directory(parent)
    fault.after(parent)
    for name in os.listdir(parent):
        if name != str(number):
            remove(f"{parent}/{name}")
    return target
