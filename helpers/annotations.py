"""What a container's annotations ask for: the slice that it lies in, its limits, systemd in it.

A hook reads them for every container: what is heavy is imported where one asks for it.
"""

from torpor import systemd_mode
from torpor.errors import DefinitionError

TYPE_CHECKING = False  # typing is not imported
if TYPE_CHECKING:
    from torpor.preparation import Plan
    from torpor.resources import Resources
    from torpor.values import WrongError
    from torpor.yaml_tree import Node

SLICE = "io.torpor.slice"
RESOURCES = "io.torpor.resources."  # before a key of the definition's `resources:`
SYSTEMD = "io.torpor.systemd"
NETWORK = "io.torpor.network"
_FIXED = "oom-policy"  # systemd takes it for a unit that does not run yet only
_SHOWN_LENGTH = 90
_SYSTEMD_MODES = {
    None: systemd_mode.AUTO,
    "true": systemd_mode.ALWAYS,
    "false": systemd_mode.NEVER,
}


class Request:
    """What was asked for: slice is empty where nothing was, limits are by key, as written."""

    __slots__ = ("limits", "slice")

    def __init__(self, slice: str, limits: dict[str, str]) -> None:
        self.slice = slice
        self.limits = limits


def parse(annotations: dict[str, str]) -> Request:
    """What torpor's among annotations ask for, their values unchecked.

    Raises DefinitionError for limits without a slice, and for a slice without a name.
    """
    start = len(RESOURCES)
    limits = {key[start:]: text for key, text in annotations.items() if key.startswith(RESOURCES)}
    request = Request(annotations.get(SLICE, ""), limits)
    if not request.slice and (limits or SLICE in annotations):
        raise DefinitionError(
            f"the container has limits but no slice: annotation {SLICE} is missing or empty",
            "Name the slice that the container lies in; -.slice holds all.",
        )
    return request


def systemd(annotations: dict[str, str]) -> str:
    """Whether it is to be treated as one that systemd boots, as a mode of `systemd_mode`.

    Raises DefinitionError for a value that is none of true, false and none at all.
    """
    value = annotations.get(SYSTEMD)
    if value not in _SYSTEMD_MODES:
        raise DefinitionError(
            f"annotation {SYSTEMD} is {str(value)[:_SHOWN_LENGTH]!a}, but must be true or false",
            "Without it the container's command decides.",
        )
    return _SYSTEMD_MODES[value]


def require_good_slice(name: str) -> None:
    """Raises DefinitionError unless systemd takes name for a slice."""
    from torpor import slices
    from torpor.values import WrongError

    try:
        slices.validate(name)
    except WrongError as wrong:
        raise _error(SLICE, wrong) from None


def resources(limits: dict[str, str]) -> "Resources":
    """limits as a definition would give them; a comma separates the elements of a list.

    Raises DefinitionError, which names the annotation.
    """
    from torpor.resources import Resources, parse_resources
    from torpor.values import WrongError
    from torpor.yaml_tree import Mapping

    directives: list[tuple[str, str]] = []
    for key, value in limits.items():
        try:
            if key == _FIXED:
                raise WrongError("systemd cannot change this while the container's unit is there")
            node = Mapping(0, {key: (0, _node(value))})
            directives += parse_resources(node).directives
        except WrongError as wrong:
            raise _error(RESOURCES + key, wrong) from None
    return Resources(tuple(directives))


def _node(value: str) -> "Node":
    """The value of an annotation as a definition's."""
    from torpor.values import WrongError
    from torpor.yaml_tree import Scalar, Sequence

    if not value.isprintable():  # a definition cannot hold such, and its parsers do not look
        raise WrongError("holds a control character")
    words: list[Node] = [Scalar(0, word.strip(), absent=False) for word in value.split(",")]
    return Sequence(0, words) if len(words) > 1 else words[0]


def _error(annotation: str, wrong: "WrongError") -> DefinitionError:
    where = ascii(annotation[:_SHOWN_LENGTH])[1:-1]
    return DefinitionError(f"annotation {where}: {wrong.problem}", wrong.hint)


def network(annotations: dict[str, str]) -> "Plan":
    """What the network asks for that the container is to be connected to.

    It is written as the value of a definition's `network:`. Raises DefinitionError.
    """
    from torpor import network as networks
    from torpor import yaml_tree
    from torpor.values import WrongError

    text = annotations[NETWORK]
    try:
        tree = yaml_tree.read(f"annotation {NETWORK}", f"network: {text}".encode())
        found = networks.parse(tree.entries["network"][1])
    except WrongError as wrong:
        problem = f"annotation {NETWORK}: {wrong.problem}"
        raise DefinitionError(problem, wrong.hint) from wrong
    if not found.is_leased:
        raise DefinitionError(
            f"annotation {NETWORK}: a container that others run has that already",
            "Name a bridge: or a cni: network.",
        )
    return found.plan(is_mapped=True)
