"""A definition's text with other places in it, and otherwise as its author wrote it."""

import json

from torpor.definition import Definition

_PLACES = ("rootfs", "image", "bundle")


def moved_text(text: bytes, said: Definition, wanted: Definition) -> bytes:
    """The definition's text with what is another in wanted; as it was where nothing is."""
    moved = {
        key: str(getattr(wanted, key))
        for key in _PLACES
        if getattr(wanted, key) != getattr(said, key)
    }
    if not moved:
        return text
    lines = text.decode("utf-8-sig").splitlines(keepends=True)
    for key, value in moved.items():
        number = said.lines[key] - 1
        if not lines[number].startswith(f"{key}:"):
            return _dumped(text, moved)
        lines[number] = f"{key}: {json.dumps(value)}\n"
    return "".join(lines).encode()


def _dumped(text: bytes, moved: dict[str, str]) -> bytes:
    import yaml

    said = yaml.load(text, Loader=yaml.BaseLoader)  # makes nothing but text
    return yaml.safe_dump({**said, **moved}, sort_keys=False, allow_unicode=True).encode()
