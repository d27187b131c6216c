"""Time spans as systemctl(1) prints them, and those that a unit has."""

from torpor import process
from torpor.container import Container

_DEFAULT_S = 90.0  # of units: DefaultTimeoutStopSec= of systemd-system.conf(5)
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_INFINITY_S = 365 * 86400.0


def of_unit(container: Container, name: str) -> float:
    """A property of the container's unit, such as TimeoutStopUSec, in seconds."""
    argv = ["systemctl", "show", f"--property={name}", "--value", container.unit]
    _, text = process.output(argv)
    return parse_s(text.strip())


def parse_s(text: str) -> float:
    """A time span (systemd.time(7)); "infinity" is a year."""
    if text == "infinity":
        return _INFINITY_S
    total_s = 0.0
    for word in text.split():
        number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = word[len(number) :]
        try:
            total_s += float(number) * _UNITS_S[unit]
        except (ValueError, KeyError):
            return _DEFAULT_S
    return total_s or _DEFAULT_S
