"""YAML as a tree of text with line numbers: no guessed types, no aliases, no tags."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from torpor.errors import DefinitionError

_DEPTH_LIMIT = 16
_SHOWN_LENGTH = 60
# c-printable of YAML 1.1, negated
_NOT_YAML = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Scalar:
    line: int
    text: str
    absent: bool  # nothing was written, not even quotes


@dataclass(frozen=True)
class Sequence:
    line: int
    items: "list[Node]"


@dataclass(frozen=True)
class Mapping:
    line: int
    entries: "dict[str, tuple[int, Node]]"  # key: the key's line, the value


Node = Scalar | Sequence | Mapping


def read(path: str, content: bytes) -> Mapping:
    """The mapping that content is, empty for an empty text; path is for messages.

    Raises DefinitionError.
    """
    return _Composer(path, _decode(path, content)).document()


def shown(text: str) -> str:
    """text as a message may hold it: no control characters, not too long."""
    cut = text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def _decode(path: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DefinitionError(f"{path}:{line}: is not UTF-8 text") from error
    if (match := _NOT_YAML.search(text)) is not None:
        line = text.count("\n", 0, match.start()) + 1
        raise DefinitionError(f"{path}:{line}: holds the control character U+{ord(match[0]):04X}")
    return text


class _Composer:
    """Builds the tree from YAML's events: what is refused is refused before it costs anything."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._events = self._parse()

    def document(self) -> Mapping:
        """The one mapping that the text is."""
        next(self._events)
        if isinstance(event := next(self._events), yaml.StreamEndEvent):
            return Mapping(1, {})
        node = self._node(next(self._events), 1)
        next(self._events)
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            self._fail(
                event,
                "a second YAML document begins here",
                "A definition is one document: remove the '---'.",
            )
        if isinstance(node, Scalar) and node.absent:
            return Mapping(node.line, {})
        if not isinstance(node, Mapping):
            raise DefinitionError(
                f"{self._path}:{node.line}: a definition is a mapping of keys to values"
            )
        return node

    def _parse(self) -> Iterator[yaml.Event]:
        loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        try:
            yield from yaml.parse(self._text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._refuse(mark.line + 1 if mark else 1, error.problem or error.context or "")
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            self._refuse(1, str(error).partition("\n")[0])

    def _refuse(self, line: int, problem: str) -> NoReturn:
        lines = self._text.split("\n")
        indented_by_tab = line <= len(lines) and "\t" in lines[line - 1]
        hint = "YAML is indented with spaces: this line holds a tab." if indented_by_tab else ""
        raise DefinitionError(f"{self._path}:{line}: is not YAML: {problem}", hint)

    def _fail(self, event: yaml.Event, problem: str, hint: str = "") -> NoReturn:
        raise DefinitionError(f"{self._path}:{_line(event)}: {problem}", hint)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if depth > _DEPTH_LIMIT:
            self._fail(event, f"is nested more than {_DEPTH_LIMIT} levels deep")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._fail(
                event,
                "anchors (&) and aliases (*) are not supported",
                "Quote a value that begins with & or *.",
            )
        tagged = (yaml.ScalarEvent, yaml.CollectionStartEvent)
        if isinstance(event, tagged) and event.tag is not None:
            self._fail(event, "tags (!) are not supported", "Quote a value that begins with !.")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(_line(event), list(self._items(depth)))
        return self._mapping(event, depth)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in event.value):
            self._fail(event, "a value holds a NUL or half a surrogate pair")
        return Scalar(_line(event), event.value, absent=not event.value and not event.style)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _mapping(self, start: yaml.Event, depth: int) -> Mapping:
        entries: dict[str, tuple[int, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                self._fail(event, "a key is a list or a mapping; it can only be a word")
            if key.text in entries:
                first = entries[key.text][0]
                self._fail(
                    event,
                    f"key '{shown(key.text)}' is given twice, first in line {first}",
                    "Remove one.",
                )
            entries[key.text] = (key.line, self._node(next(self._events), depth + 1))
        return Mapping(_line(start), entries)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
