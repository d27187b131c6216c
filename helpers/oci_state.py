"""What an OCI runtime tells its hooks on standard input: the container's state.

The format is in runtime.md of the runtime specification ("State"). Hooks read it: the C scanner
below the json package is used directly, since json imports re and doubles a hook's start.
"""

import os

from torpor.errors import TorporError

CREATING = "creating"
STOPPED = "stopped"

_STATUSES = frozenset((CREATING, "created", "running", STOPPED))
_LIMIT_BYTES = 1 << 20
_PID_LIMIT = 1 << 22  # PID_MAX_LIMIT of the kernel
_BLANKS = " \t\n\r"


class OciState:
    """One state as the runtime gave it, checked for its form only."""

    __slots__ = ("annotations", "bundle", "id", "pid", "status")

    def __init__(
        self, id: str, status: str, pid: int, bundle: str, annotations: dict[str, str]
    ) -> None:
        self.annotations = annotations
        self.id = id
        self.status = status
        self.pid = pid  # of the container's init, 0 where it has none
        self.bundle = bundle


def read(fd: int) -> OciState:
    """The state that an open file gives up to its end; TorporError for anything else."""
    return parse(_read_all(fd))


def parse(content: bytes) -> OciState:
    """The state in its JSON form; TorporError for anything else."""
    try:
        fields = _decode(content.decode())
    # SystemError: before Python 3.13 the scanner has no exception to raise without json.decoder.
    except (ValueError, StopIteration, RecursionError, SystemError) as error:
        raise _malformed("it is not whole JSON") from error
    if not isinstance(fields, dict):
        raise _malformed("it is no JSON object")
    pid = fields.get("pid", 0)
    # bool is an int to isinstance
    if type(pid) is not int or not 0 <= pid < _PID_LIMIT:
        raise _malformed("its pid is none")
    status = _text(fields, "status")
    if status not in _STATUSES:
        raise _malformed(f"its status is {status[:40]!a}")
    bundle = _text(fields, "bundle")
    if not bundle.startswith("/"):
        raise _malformed("its bundle is no absolute path")
    return OciState(_text(fields, "id"), status, pid, bundle, _annotations(fields))


def _malformed(reason: str) -> TorporError:
    return TorporError(
        f"standard input is no OCI container state: {reason}",
        "an OCI runtime calls this program, nobody else: see torpor-hooks(7)",
    )


def _text(fields: dict[object, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise _malformed(f"it has no {key}")
    return value


def _annotations(fields: dict[object, object]) -> dict[str, str]:
    given = fields.get("annotations")
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise _malformed("its annotations are not texts")
    return given


def _read_all(fd: int) -> bytes:
    chunks = []
    left = _LIMIT_BYTES + 1
    while left > 0 and (chunk := os.read(fd, min(left, 1 << 16))):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise _malformed(f"it is larger than {_LIMIT_BYTES} bytes")
    return b"".join(chunks)


def _decode(text: str) -> object:
    """The one JSON value in a text; ValueError, StopIteration or RecursionError where it is not."""
    try:
        from _json import make_scanner
    except ImportError:  # a Python without the C module
        import json

        return json.loads(text, parse_constant=_refuse)
    text = text.strip(_BLANKS)
    value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type] # it takes any object
    if end != len(text):
        raise ValueError("something follows the value")
    return value


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


class _Context:
    """What json.JSONDecoder would give to its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)
