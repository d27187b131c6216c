"""systemd's slices: which names are good ones, and where in the cgroup tree a slice lies."""

import re
import string

from torpor import values
from torpor.hierarchy import slice_path
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

SUFFIX = ".slice"
ROOT = "-.slice"
_NAME_MAX_BYTES = 255  # UNIT_NAME_MAX of systemd's basic/unit-def.h, without its NUL
_CHARACTERS = frozenset(string.ascii_letters + string.digits + ":-_.\\")  # basic/unit-name.c
_LONE_BACKSLASH = re.compile(r"\\(?!x[0-9A-Fa-f]{2})")
_FORM = "Write for example torpor-web.slice, which lies in torpor.slice."


def parse_slice(node: Node) -> str:
    """The name of a slice, given as such or as the path that it has in the cgroup tree."""
    words = values.text(node)
    name = words.rstrip("/").rpartition("/")[2]
    validate(name)
    if "/" in words and f"/{words.strip('/')}" != (place := slice_path(name)):
        hint = f"A dash is one level: it always lies at {place}. Write its name alone."
        raise WrongError(f"'{shown(words)}' is not where systemd puts {shown(name)}", hint)
    return name


def validate(name: str) -> None:
    """Raise WrongError unless systemd and runc take name for a slice (slice_name_is_valid())."""
    if name == ROOT:
        return
    stem = name.removesuffix(SUFFIX)
    if not name.endswith(SUFFIX) or not stem:
        raise WrongError(f"'{shown(name)}' is not a name that ends in {SUFFIX}", _FORM)
    if len(name.encode()) > _NAME_MAX_BYTES:
        problem = f"'{shown(name)}' has {len(name.encode())} bytes"
        raise WrongError(problem, f"A unit's name has at most {_NAME_MAX_BYTES}.")
    _require_characters(name)
    if "" in stem.split("-"):
        problem = f"'{shown(name)}' has a dash at its beginning or end, or two in a row"
        raise WrongError(problem, f"A dash leads one level down. {_FORM}")


def _require_characters(name: str) -> None:
    if (wrong := next((char for char in name if char not in _CHARACTERS), None)) is not None:
        hint = "A slice's name holds letters, digits, ':', '-', '_' and '.'; systemd-escape helps."
        raise WrongError(f"'{shown(name)}' holds '{shown(wrong)}'", hint)
    if _LONE_BACKSLASH.search(name):
        hint = r"systemd-escape writes a byte as \x and two digits, for example \x2d for a dash."
        raise WrongError(f"'{shown(name)}' holds a backslash that begins no escape", hint)
