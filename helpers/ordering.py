"""What a container waits for: other units, or other containers by name."""

import re

from torpor import container, values
from torpor.container import Container
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

_NAME_MAX_BYTES = 255  # UNIT_NAME_MAX of systemd's basic/unit-def.h, without its NUL
# systemd.unit(5): "@" may stand inside the name, but a template is no unit to wait for.
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?"
    r"\.(?:service|socket|device|mount|automount|swap|target|path|timer|slice|scope)"
)


def parse_units(node: Node) -> tuple[str, ...]:
    """The units of a list, or of one word, each once."""
    return tuple(dict.fromkeys(values.list_of(_unit, node)))


def _unit(node: Node) -> str:
    word = values.text(node)
    if _UNIT.fullmatch(word) and len(word) <= _NAME_MAX_BYTES:
        return word
    if not container.valid_name(word):
        hint = "Write a unit with its suffix (postgresql.service), or a container's name."
        raise WrongError(f"'{shown(word)}' is neither a unit nor a container", hint, node.line)
    return Container(word).unit
