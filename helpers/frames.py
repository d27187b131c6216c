"""Any number of bytes on a stream that goes on after them: in frames, the last of them empty."""

import os
import sys

from torpor.record import write_all

_LENGTH_BYTES = 4
_FRAME_MAX_BYTES = 1 << 20


class CutOffError(OSError):
    """The stream ended before the last frame."""


def send(source: int, stream: int) -> None:
    """Pass on what can be read from source, to its end. Raises OSError."""
    while piece := os.read(source, _FRAME_MAX_BYTES):
        write_all(stream, len(piece).to_bytes(_LENGTH_BYTES, "big") + piece)
    write_all(stream, bytes(_LENGTH_BYTES))


def receive(stream: int, target: int) -> None:
    """Write what the frames hold to target. Raises OSError, CutOffError."""
    while length := int.from_bytes(read(stream, _LENGTH_BYTES), "big"):
        if length > _FRAME_MAX_BYTES:
            raise CutOffError(f"a frame of {length} bytes: it is not one")
        write_all(target, read(stream, length))


def read(stream: int, size: int) -> bytes:
    """As many bytes, and not one more. Raises OSError, CutOffError."""
    found = bytearray()
    while len(found) < size:
        piece = os.read(stream, size - len(found))
        if not piece:
            raise CutOffError("the connection was cut off")
        found += piece
    return bytes(found)


def read_line(stream: int, limit: int = sys.maxsize) -> bytes:
    """A line without its end, and not one byte more; b"" at the end of the stream."""
    found = bytearray()
    while len(found) < limit and (byte := os.read(stream, 1)):
        if byte == b"\n":
            return bytes(found)
        found += byte
    return b""
