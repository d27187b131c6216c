"""Small durable records: ``KEY=value`` lines, replaced as a whole or not at all.

Text rather than JSON because OCI hooks read and write them, and importing json
would take as long as starting Python itself. A first line names the format's version.
"""

import errno
import os

from torpor import fault
from torpor.errors import NewerFormatError, RecordError

# Of all records together: a torpor that does not know one of them must not touch any.
FORMAT = 1

_MAX_BYTES = 16 << 20
_UNFINISHED = ".new"  # after the name of a file that is being written
_PRIVATE = 0o700  # no umask takes from it
_DIGITS_MAX = 15
_SHOWN_LENGTH = 40


def read_bytes(path: str, max_bytes: int = _MAX_BYTES) -> bytes | None:
    """The file's content, or None when there is none. Longer than max_bytes is an error."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise  # of the host, not of the record: it may pass
        raise RecordError(f"{path}: {error.strerror}") from error
    try:
        chunks = []
        left = max_bytes + 1
        while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EISDIR):
            raise
        raise RecordError(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if left <= 0:
        raise RecordError(f"{path}: larger than {max_bytes} bytes")
    return b"".join(chunks)


def parse(text: bytes, kind: str, where: str) -> list[tuple[str, str]]:
    """The key and value of each line; the first line must be ``torpor-KIND=FORMAT``.

    Raises RecordError, NewerFormatError.
    """
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not text") from error
    if lines[0] != f"torpor-{kind}={FORMAT}" or lines[-1] != "":
        _require_no_newer(lines[0], kind, where)
        raise RecordError(f"{where}: not a whole torpor {kind} record of format {FORMAT}")
    pairs = []
    for line in lines[1:-1]:
        key, separator, value = line.partition("=")
        if not separator:
            raise RecordError(f"{where}: a line without '=': {line[:80]!r}")
        pairs.append((key, value))
    return pairs


def _require_no_newer(first_line: str, kind: str, where: str) -> None:
    key, _, said = first_line.partition("=")
    if key == f"torpor-{kind}" and is_number(said):
        require_known(int(said), where)


def require_known(number: object, where: str) -> None:
    """Raise NewerFormatError for the number of a format that came later."""
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormatError(
            f"{where}: written by a newer torpor, in format {number}; this one knows {FORMAT}",
            "install a torpor that knows it; nothing was changed",
        )


def is_number(text: str) -> bool:
    """Whether int() takes it for a number without a sign, of digits that everybody writes."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX


def number(text: str) -> int:
    """A count or an id. Raises ValueError."""
    if not is_number(text):
        raise ValueError(f"{text[:_SHOWN_LENGTH]!a} is no number")
    return int(text)


def seconds(text: str) -> float:
    """A span, or a time since the epoch, that time.localtime() takes. Raises ValueError."""
    whole, _, fraction = text.partition(".")
    number(whole)
    number(fraction or "0")
    return float(text)


def serialize(kind: str, pairs: list[tuple[str, str]]) -> bytes:
    """The record's bytes. A line break in a value becomes a space: it would forge a line."""
    lines = [f"torpor-{kind}={FORMAT}"]
    lines += [f"{key}={value.replace(chr(10), ' ')}" for key, value in pairs]
    try:
        return ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"a value of the {kind} record is not text: {error}") from error


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise naming(path, error) from error
    finally:
        os.close(fd)


def write_durably(path: str, content: bytes, step: str = "") -> None:
    """Replace a file so that a power cut leaves the old content or the new, never less.

    step is what fault calls it, where the file's name does not say enough.
    """
    fault.before(step or path)
    _replace(path, content, step or path, sync=True)
    sync_directory(path.rpartition("/")[0])
    fault.after(step or path)


def replace(path: str, content: bytes) -> None:
    """Replace a file so that a reader sees the old content or the new: for what this boot needs.

    Raises RecordError for what read_bytes() would refuse: nobody is to rely on it.
    """
    fault.before(path)
    _replace(path, content, path, sync=False)
    fault.after(path)


def _replace(path: str, content: bytes, step: str, *, sync: bool) -> None:
    if len(content) > _MAX_BYTES:
        raise RecordError(f"{path}: would be larger than {_MAX_BYTES} bytes")
    temporary = f"{path}{_UNFINISHED}"
    try:
        _write(temporary, content, sync)
        fault.amid(step)
        os.rename(temporary, path)
    except OSError as error:
        _forget(temporary)
        raise naming(path, error, len(content)) from error


def write_all(fd: int, content: bytes) -> None:
    """Write all of it, which write(2) need not do at once. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _write(path: str, content: bytes, sync: bool) -> None:
    fd = _open_new(path)
    try:
        write_all(fd, content)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def naming(path: str, error: OSError, needed_bytes: int = 0) -> OSError:
    """The same error with the path that it met, which the kernel does not say of a descriptor.

    On a full disk it says what there is and what was needed.
    """
    words = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and needed_bytes:
        words += f" ({needed_bytes} bytes are needed, {_free_bytes(path)} are free)"
    return OSError(error.errno, words, path)


def _free_bytes(path: str) -> int:
    try:
        disk = os.statvfs(path.rpartition("/")[0])
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def _open_new(path: str) -> int:
    """A file of ours alone: what lies there, perhaps a link or a FIFO, is not written to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def sweep(directory: str) -> None:
    """Remove what a writer that was killed has left in a directory: nobody may be writing there.

    Directories that are being filled have a like name; see atomic_directory.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(_UNFINISHED):
            _forget(f"{directory}/{name}")


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory and the missing ones above it, with exactly this mode."""
    if _is_new(path, mode) and mode & ~_PRIVATE:
        os.chmod(path, mode)


def _is_new(path: str, mode: int) -> bool:
    """Whether we made it: at boot many containers make the first ones at once."""
    try:
        os.mkdir(path, mode & _PRIVATE)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = path.rpartition("/")[0]
        if not parent or os.path.islink(parent):
            raise
        make_directory(parent, mode)
        return _is_new(path, mode)
    return True


def remove_durably(path: str) -> None:
    """Remove a record, if there is one, so that it does not come back after a power cut."""
    fault.before(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_directory(path.rpartition("/")[0])
    fault.after(path)
