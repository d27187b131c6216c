"""What becomes of containers, as entries of the journal that programs can find by MESSAGE_ID.

packaging/torpor.catalog explains each, for ``journalctl -x``.
"""

from torpor import journal
from torpor.container import Container
from torpor.talk import ERROR, INFO, NOTICE, WARNING, say, say_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

Event = tuple[str, int]  # MESSAGE_ID, level

STARTED: Event = ("99c9e898ff114608b14e670aed017280", INFO)
ASLEEP: Event = ("8d84e73ccdf440ce87292dfde9ad04e8", NOTICE)
AWAKE: Event = ("ffad0944aec94d5b835ebcf3a8a0cf7c", NOTICE)
NOT_CHECKPOINTED: Event = ("ae50f6a551aa4e03bcb92b716d11e656", ERROR)
LOST: Event = ("858bea043c8d4e25a8ca8457c63ca22d", ERROR)
NOT_RESTORED: Event = ("771a5aeb90834a8088a60fc0848c86a7", ERROR)
SET_ASIDE: Event = ("d9792506af5b4ff78e2a0515248d4d00", WARNING)
SNAPSHOT: Event = ("01b2b6787ada4377982e8ff6b716ed25", INFO)
WENT_BACK: Event = ("13f6d79a0cca421ea858753e8201f86d", WARNING)
MOVED: Event = ("ea3d46f70bdc48e69255ee6484381de1", NOTICE)
ARRIVED: Event = ("f6f6249c806046cfa871f3aa2832d3a9", NOTICE)
DISCARDED: Event = ("2fafe69804cf4c58bb0d6dc719542515", NOTICE)


def tell(
    event: Event,
    container: Container,
    text: str,
    *,
    generation: int = 0,
    hint: str = "",
    out: "TextIO | None" = None,
    **figures: float,
) -> None:
    """Say it to the journal, and to out or standard error where these do not lead there.

    figures are further fields: integers as they are, seconds in microseconds.
    """
    heard = journal.leads_there(out.fileno() if out is not None else 2)
    if _write(event, container, text, generation, hint, figures) and heard:
        return
    if out is not None:
        print(f"{container.name}: {text}", file=out)
    elif event[1] == ERROR:
        say_fault(container.name, text, hint)
    else:
        say(f"{container.name}: {text}", event[1])


def note(event: Event, container: Container, text: str, *, generation: int = 0) -> None:
    """Say it to the journal alone: the command tells more to who asked for it."""
    _write(event, container, text, generation, "", {})


def _write(
    event: Event,
    container: Container,
    text: str,
    generation: int,
    hint: str,
    figures: dict[str, float],
) -> bool:
    identifier, level = event
    fields = [
        ("MESSAGE_ID", identifier),
        ("TORPOR_NAME", container.name),
        # As journald calls the unit that an entry of root's is about: journalctl -u finds it.
        ("OBJECT_SYSTEMD_UNIT", container.unit),
        *([("TORPOR_GENERATION", str(generation))] if generation else []),
        *(_figure(key, value) for key, value in figures.items()),
    ]
    lines = [f"{container.name}: {text}", *(f"  {line}" for line in hint.splitlines())]
    return journal.write(level, container.name, lines, fields)


def _figure(key: str, value: float) -> tuple[str, str]:
    if key.endswith("_s"):
        return f"TORPOR_{key.removesuffix('_s').upper()}_USEC", str(round(value * 1e6))
    return f"TORPOR_{key.upper()}", str(value)
