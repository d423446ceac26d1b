"""Scores on the NAB corpus in words, for a terminal of 80 columns."""

from collections.abc import Mapping, Sequence

from holdover.evaluate.nab import NO_ALERTS, PROFILES
from holdover.evaluate.nab_card import Final, Outcome
from holdover.evaluate.scorecard_text import cell

HEADINGS = {"standard": "standard", "reward_low_FP_rate": "low FP", "reward_low_FN_rate": "low FN"}
WIDTH = 32

Published = Mapping[str, Mapping[str, float]]
"""Final scores, by detector and profile."""


def nab_text(name: str, outcomes: Sequence[Outcome], published: Published) -> str:
    """All outcomes, each by data folder, and the first beside the published scores, the best first."""
    first = outcomes[0]
    windows = first.final(PROFILES[0]).windows
    parts = [
        f"{name}: {len(first.labels)} series, {windows} labelled windows\n"
        "scores: 0 without any alert, 100 with each window found at its first row;\n"
        "windows found and rows with a false alert are those of the standard profile",
        *map(_outcome, outcomes),
    ]
    if published:
        parts.append(_table(name, first, published))
    return "\n\n".join(parts) + "\n"


def _outcome(outcome: Outcome) -> str:
    lines = [outcome.title, _heading() + f"{'found':>9}{'false':>7}"]
    lines += [_row(folder, outcome, folder) for folder in outcome.folders]
    lines.append(_row("all", outcome, None))
    if outcome.thresholds is not None:
        values = (outcome.thresholds[profile.name] for profile in PROFILES)
        lines.append(
            f"{'threshold':{WIDTH}}" + "".join(f"{'none' if v == NO_ALERTS else f'{v:.6g}':>9}" for v in values)
        )
    return "\n".join(lines)


def _heading() -> str:
    return " " * WIDTH + "".join(f"{HEADINGS[profile.name]:>9}" for profile in PROFILES)


def _row(title: str, outcome: Outcome, folder: str | None) -> str:
    finals: list[Final] = [outcome.final(profile, folder) for profile in PROFILES]
    scores = "".join(f"{cell(final.score):>9}" for final in finals)
    return f"{title:{WIDTH}}{scores}{f'{finals[0].found}/{finals[0].windows}':>9}{finals[0].false:>7}"


def _table(name: str, outcome: Outcome, published: Published) -> str:
    ours = {profile.name: outcome.final(profile).score for profile in PROFILES}
    rows = [(f"> {name}", ours), *((f"  {detector}", scores) for detector, scores in published.items())]
    rows.sort(key=lambda row: -(row[1].get(PROFILES[0].name) or 0))
    scores = ("".join(f"{cell(row.get(profile.name)):>9}" for profile in PROFILES) for _, row in rows)
    return "\n".join(
        ["beside the published scores, thresholds optimised", _heading()]
        + [f"{title:{WIDTH}.{WIDTH}}{text}" for (title, _), text in zip(rows, scores, strict=True)]
    )
