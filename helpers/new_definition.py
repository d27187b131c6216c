"""The text of a first definition: what is known of a container, and what people add next."""

import json
from dataclasses import dataclass

_HEAD = """\
# Container {name}. Every key is explained in torpor.yaml(5); a sample with all of them is
# /usr/share/doc/torpor/examples/torpor.yaml.sample. After a change of what it runs, or on what, its
# memory fits no more: the next start is fresh.
"""
# What is off, and what one might want: where nothing is said about the key.
_SUGGESTIONS = {
    "command": """\
# command: what it runs, instead of what the image or bundle says.
#command: [/usr/bin/program, --option]
""",
    "env": """\
# env: its variables.
#env: {TZ: Europe/Berlin}
""",
    "mounts": """\
# mounts: directories of the host, volumes that containers share, and tmpfs.
#mounts: [/srv/data:/data, shared:/shared, "tmpfs:/run:size=64M"]
""",
    "volumes": """\
# volumes: paths of its own, whose files outlast the rest.
#volumes: [/var/lib/data]
""",
    "network": """\
# network: none but its loopback, unless there is one.
#network: {bridge: torpor0, subnet: 10.83.0.0/24, publish: ["8080:80"]}
""",
    "resources": """\
# resources: limits, as systemd.resource-control(5) has them; they are the container's own.
#resources: {memory-max: 512M, tasks-max: 100}
""",
    "checkpoint": """\
# checkpoint: connections that go on when it wakes, and how many generations are kept.
#checkpoint: {tcp: keep, keep: 2}
""",
}

Value = str | list[str] | dict[str, object]


@dataclass(frozen=True)
class Entry:
    """A key of a definition, what it is, and for people why."""

    key: str
    value: Value
    why: str = ""


def text(name: str, entries: list[Entry], notes: list[str]) -> bytes:
    """notes are lines for whoever reads it."""
    parts = [_HEAD.format(name=name) + "".join(f"# {note}\n" for note in notes)]
    for entry in entries:
        why = f"# {entry.why}\n" if entry.why else ""
        parts.append(f"{why}{entry.key}: {_flow(entry.value)}\n")
    said = {entry.key for entry in entries}
    parts += [words for key, words in _SUGGESTIONS.items() if key not in said]
    return "\n".join(parts).encode()


def _flow(value: Value) -> str:
    """In YAML's flow style, which JSON is."""
    return json.dumps(value, ensure_ascii=False)
