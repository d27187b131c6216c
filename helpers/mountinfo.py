"""Lines of proc_pid_mountinfo(5), whose paths may hold anything."""

_OCTAL = frozenset("01234567")


def fields(line: str) -> list[str]:
    """The fields of a line, as they are meant: of all blanks the kernel escapes but three."""
    found = line.removesuffix("\n").split(" ")
    return [_plain(field) for field in found] if "\\" in line else found


def _plain(text: str) -> str:
    """Blanks and backslashes are written as octal numbers, of three digits."""
    first, *rest = text.split("\\")
    return first + "".join(map(_character, rest))


def _character(part: str) -> str:
    is_number = len(part) >= 3 and _OCTAL.issuperset(part[:3])
    return chr(int(part[:3], 8)) + part[3:] if is_number else f"\\{part}"
