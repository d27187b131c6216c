"""What a run of the bench says: goals, a table in Markdown, and a plot."""

import statistics
from dataclasses import dataclass
from pathlib import Path

Samples = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Goal:
    """A ratio of two medians that is not to be exceeded."""

    what: str
    peer: str
    limit: float
    ours: str = "torpor"
    note: str = ""


GOALS = (
    Goal("start", "unit with runc", 1.05),
    Goal("start", "quadlet", 0.5),
    Goal("sleep 8 MiB", "runc", 0.7, note="not durable; see its two modes below"),
    Goal("sleep 8 MiB", "podman", 0.45, note="not durable"),
    Goal("wake 8 MiB", "runc", 0.85, note="not verified"),
    Goal("wake 8 MiB", "podman", 0.5, note="not verified"),
    Goal("sleep 1024 MiB", "runc, fsync", 0.7),
    Goal("sleep 1024 MiB", "dd, fsync", 1.1),
    Goal("sleep 1024 MiB", "podman", 0.6, note="not durable"),
    Goal("wake 1024 MiB, cold", "runc", 0.9, note="not verified"),
    Goal("sleep of 20", "podman, best", 0.7),
    Goal("wake of 20", "podman, best", 0.9),
    Goal("memory", "podman", 1.0, note="of conmon"),
    Goal("image", "memory", 0.6, note="of which one half is zeroes"),
    Goal("hook", "python3 -I -S -c pass", 1.3, ours="hook, on disk"),
)
_BEST = ", best"


def judge(samples: Samples) -> list[tuple[Goal, float]]:
    """Each goal that was measured, and the ratio that was found."""
    found = []
    for goal in GOALS:
        by_whom = samples.get(goal.what, {})
        peer = _median_of(by_whom, goal.peer)
        if peer and goal.ours in by_whom:
            found.append((goal, statistics.median(by_whom[goal.ours]) / peer))
    return found


def _median_of(by_whom: dict[str, list[float]], whom: str) -> float:
    """Its median; of the best of its ways where it has several. 0 where it was not measured."""
    kind = whom.removesuffix(_BEST)
    medians = [
        statistics.median(values)
        for name, values in by_whom.items()
        if name == whom or (whom.endswith(_BEST) and name.startswith(f"{kind}, "))
    ]
    return min(medians, default=0.0)


def markdown(samples: Samples, machine: str) -> str:
    """The whole report."""
    lines = [f"Measured on {machine}", ""]
    lines += ["| goal | limit | found | |", "|---|---|---|---|"]
    for goal, ratio in judge(samples):
        note = f" ({goal.note})" if goal.note else ""
        verdict = "holds" if ratio <= goal.limit else "does not hold"
        lines.append(
            f"| {goal.what}: {goal.ours} / {goal.peer}{note} "
            f"| {goal.limit:.2f} | {ratio:.2f} | {verdict} |"
        )
    for what, by_whom in samples.items():
        unit = "KiB" if what.startswith(("memory", "image")) else "ms"
        lines += ["", f"| {what} | median, {unit} | range | samples |", "|---|---|---|---|"]
        lines += [_row(whom, values) for whom, values in by_whom.items()]
    return "\n".join(lines) + "\n"


def _row(whom: str, values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"| {whom} | {statistics.median(values):.1f} | {low:.1f}-{high:.1f} | {len(values)} |"


# What is drawn: of whom there are figures for the same question.
_DRAWN = ("start", "sleep 8 MiB", "wake 8 MiB", "sleep 1024 MiB", "wake 1024 MiB, cold")


def plot(samples: Samples, path: Path) -> None:
    """Medians and ranges of the main questions, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    drawn = [what for what in _DRAWN if what in samples]
    figure, axes = pyplot.subplots(len(drawn), 1, figsize=(8, 1.9 * len(drawn)), squeeze=False)
    for axis, what in zip(axes[:, 0], drawn, strict=True):
        whom = [name for name in samples[what] if "polled" not in name]
        whom.sort(key=lambda name: -statistics.median(samples[what][name]))
        medians = [statistics.median(samples[what][name]) for name in whom]
        pairs = [*zip(medians, whom, strict=True)]
        below = [median - min(samples[what][name]) for median, name in pairs]
        above = [max(samples[what][name]) - median for median, name in pairs]
        colours = ["tab:blue" if name == "torpor" else "lightgrey" for name in whom]
        axis.barh(whom, medians, xerr=[below, above], color=colours, height=0.7)
        axis.set_title(f"{what}, ms", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    mpl.rcParams["svg.hashsalt"] = "torpor"
    figure.savefig(path, metadata={"Date": None})
