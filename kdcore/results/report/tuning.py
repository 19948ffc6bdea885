"""The searches of a report: the score of every trial over each parameter, and which parameters matter."""

from dataclasses import dataclass
from typing import Any

from kdcore.results import tuning
from kdcore.results.report.charts import Key
from kdcore.results.report.svg import Axis, Chart, Style, linear, powers

WIDTH, HEIGHT = 300, 240
COMPLETE, EARLY, BEST = Style(0, 0, 0), Style(1, 0, 0), Style(2, 0, 3)
QUOTE = "'"
SCORE = "Validation accuracy (%)"
KEYS = (Key("Complete", COMPLETE), Key("Stopped early", EARLY, is_hollow=True), Key("Best", BEST))


@dataclass(frozen=True)
class Search:
    """One search on the page."""

    title: str
    text: str
    keys: tuple[Key, ...]
    charts: list[Chart]
    importances: list[tuple[str, int]]
    """Parameter, and how much of the scores' variance it explains, in percent; the largest first."""


def searches(card: dict[str, Any]) -> list[Search]:
    """Draw the searches that chose variants of the matrix.

    Args:
        card: of stage tables.
    """
    return [_search(variant, found) for variant, found in card.get("tuning", {}).items()]


def _search(variant: str, found: dict[str, Any]) -> Search:
    shown = [trial for trial in found["trials"] if trial["score"] is not None]
    states = {trial["state"] for trial in shown}
    keys = tuple(key for key in KEYS if key.label != "Stopped early" or "pruned" in states)
    return Search(
        f"{variant}: {tuning.label(found)}",
        f"Chosen by {tuning.protocol(found)}; test images were not used.",
        keys,
        [_chart(variant, key, found, shown) for key in found["protocol"]["space"]],
        [(key, round(100 * share)) for key, share in found["importances"].items()],
    )


def _chart(variant: str, key: str, found: dict[str, Any], shown: list[dict[str, Any]]) -> Chart:
    """Draw the score of every trial over the values of one parameter."""
    values = [trial["values"][key] for trial in shown]
    axis, places = _axis(key, found["protocol"]["space"][key], values)
    text = f"Scatter plot of {len(shown)} trials, one mark each. Best: {key} {found['best']['values'][key]}."
    y = linear(SCORE, [trial["score"] for trial in shown])
    chart = Chart(f"{variant}: {SCORE} over {key}", text, axis, y, WIDTH, HEIGHT)
    for trial, value in zip(shown, values, strict=True):
        is_best = trial["number"] == found["best"]["trial"]
        style = BEST if is_best else COMPLETE if trial["state"] == "complete" else EARLY
        early = ", stopped early" if trial["state"] == "pruned" else ""
        label = f"trial {trial['number']}: {key} {value}, {trial['score']:.2f}%{early}"
        place = places.get(repr(value), value)
        chart.mark(label, style, place, trial["score"], radius=6 if is_best else 4, is_hollow=bool(early))
    return chart


def _axis(key: str, space: str, values: list[Any]) -> tuple[Axis, dict[str, int]]:
    """Make the axis of a parameter; choices stand side by side, at numbers from 1 on.

    Returns:
        The axis; and the place of each choice that was tried, as `repr` writes it.
    """
    if not space.startswith("one of "):
        return (powers if space.startswith("log ") else linear)(key, values), {}
    names = sorted({repr(value) for value in values})
    places = {name: number for number, name in enumerate(names, 1)}
    listed = ", ".join(f"{number}: {name.strip(QUOTE)}" for name, number in places.items())
    return Axis(f"{key} ({listed})", 0.5, len(names) + 0.5, tuple(places.values())), places
