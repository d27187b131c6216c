"""Make a drop-in of each definition's unit: torpor-generator, see systemd.generator(7).

systemd waits for it at boot and at each daemon-reload. One that is wrong costs no other its limits.
"""

import os
import sys

from torpor import container
from torpor.errors import TorporError
from torpor.talk import ERROR, plain, say_fault

TYPE_CHECKING = False  # where there are no definitions, neither YAML nor typing is imported
if TYPE_CHECKING:
    from collections.abc import Iterator

    from torpor.dropin import Wanted

_SUFFIX = ".yaml"
_WHO = "torpor-generator"
_KERNEL_LINE_MAX_BYTES = 900  # of the 1 KiB that printk keeps of a line
_JOURNAL = "/run/systemd/journal/dev-log"


def main() -> None:
    if len(sys.argv) < 2:
        say_fault(_WHO, "no directory is given", f"usage: {_WHO} DIRECTORY [EARLY LATE]")
        os._exit(2)
    os._exit(generate(sys.argv[1], container.DEFINITION_ROOT))


def generate(directory: str, definition_root: str) -> int:
    """Write the drop-ins below directory; 1 if a definition is wrong, which systemd then logs."""
    status = 0
    for file in _definitions(definition_root):
        name, path = file.removesuffix(_SUFFIX), f"{definition_root}/{file}"
        try:
            container.check_name(name)
            for wanted in _wanted(name, path):
                _write(directory, wanted)
        except TorporError as error:
            status = 1
            _report(error.message, error.hint)
        except Exception as error:  # a fault of torpor's own must not lift the limits of the others
            status = 1
            _report(f"{path}: {type(error).__name__}: {error}")
    return status


def _definitions(root: str) -> list[str]:
    try:
        files = os.listdir(root)
    except OSError:
        return []
    return sorted(file for file in files if file.endswith(_SUFFIX) and not file.startswith("."))


def _wanted(name: str, path: str) -> "Iterator[Wanted]":
    """What the definition asks of systemd; of a wrong one what can be read, and then its fault.

    A running container must not lose its limits because a line elsewhere is being edited.
    """
    from torpor import definition as definitions
    from torpor import dropin
    from torpor.errors import DefinitionError

    content = definitions.read(path)
    try:
        definition = definitions.parse(name, path, content)
    except DefinitionError:
        yield dropin.rescued(name, path, content)
        raise
    yield dropin.wanted(definition)


def _write(directory: str, wanted: "Wanted") -> None:
    from torpor import dropin

    for path, text in dropin.files(wanted).items():
        place = f"{directory}/{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)


def _report(message: str, hint: str = "") -> None:
    """systemd gives a generator no standard error, and may not have started the journal yet."""
    say_fault(_WHO, message, hint)
    if "SYSTEMD_SCOPE" in os.environ:
        for line in [message, *filter(None, hint.split("\n"))]:
            _log(f"<{ERROR}>{_WHO}[{os.getpid()}]: {plain(line)}")


def _log(line: str) -> None:
    words = line.encode("utf-8", "backslashreplace")[:_KERNEL_LINE_MAX_BYTES]
    try:
        fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # in a container
        _log_to_journal(words)
        return
    try:
        os.write(fd, words)
    except OSError:
        pass
    finally:
        os.close(fd)


def _log_to_journal(words: bytes) -> None:
    """As syslog(3) does, but without waiting: systemd waits for us, and the journal for systemd."""
    import _socket

    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        link.setblocking(False)
        link.sendto(words, _JOURNAL)
    except OSError:
        pass
    finally:
        link.close()
