"""Charts as SVG, drawn by the server: no script, no inline style, a text alternative in each.

Colours come from the style sheet by class, so that they follow light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from appliance_protocol.local_models import ScorePoint
from appliance_protocol.verdict import CheckResult
from local_portal.controls import Standing, standing
from local_portal.moments import DAY, local, plural

_CLASS = {
    Standing.MET: "s-met", Standing.NOT_MET: "s-not-met", Standing.NOT_KNOWN: "s-not-known",
    Standing.OUT_OF_DATE: "s-out-of-date", Standing.EXEMPT: "s-exempt",
}


@dataclass(frozen=True)
class Part:
    """One piece of a bar: how much, and which class of the style sheet gives it its colour."""

    label: str
    amount: int
    css: str


def bar(parts: Sequence[Part], label: str, height: int = 10) -> Markup:
    """Proportions as one bar of 400 units; every part that is there gets at least 3 of them."""
    shown = [part for part in parts if part.amount > 0]
    total = sum(part.amount for part in shown)
    if not total:
        return Markup('<svg class="bar" viewBox="0 0 400 {h}" preserveAspectRatio="none" role="img" '
                      'aria-label="{label}"><rect class="track" width="400" height="{h}"/></svg>'
                      ).format(h=height, label=label)
    spare = 400 - 3 * len(shown)
    pieces, left = [Markup()], 0.0
    for part in shown:
        width = 3 + spare * part.amount / total
        pieces.append(Markup('<rect class="{}" x="{:.1f}" width="{:.1f}" height="{}"/>').format(
            part.css, left, max(width - 1.5, 1), height))
        left += width
    return Markup('<svg class="bar" viewBox="0 0 400 {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
                  ).format(height, label, Markup().join(pieces))


def sparkline(history: Sequence[CheckResult], now: float, length: int = 30) -> Markup:
    """The last results of one check, oldest left: met is tall and green, everything else stands out by height too.

    A past result is judged as of its own time: being old does not make it out of date in a history.
    """
    recent = list(reversed(history[:length]))
    if not recent:
        return Markup('<span class="quiet">no history</span>')
    height = {Standing.MET: 8, Standing.NOT_MET: 18, Standing.NOT_KNOWN: 13, Standing.EXEMPT: 4,
              Standing.OUT_OF_DATE: 13}
    pieces = [Markup()]
    for place, result in enumerate(recent):
        kind = standing(result, result.checked_at)
        pieces.append(Markup('<rect class="{}" x="{}" y="{}" width="4" height="{}" rx="1"/>').format(
            _CLASS[kind], place * 6, 20 - height[kind], height[kind]))
    met = sum(standing(result, result.checked_at) is Standing.MET for result in recent)
    label = f"{met} of the last {plural(len(recent), 'result')} met"
    return Markup('<svg class="spark" viewBox="0 0 {w} 20" width="{w}" height="20" role="img" aria-label="{label}">'
                  "{pieces}</svg>").format(w=len(recent) * 6 - 2, label=label, pieces=Markup().join(pieces))


def score_chart(points: Sequence[ScorePoint], now: float, days: int = 30) -> Markup:
    """The share of checks passed over the last days, as steps; hours without a score are left empty.

    Empty when there is no point in that time.
    """
    width, height, top, left = 640, 168, 10, 58
    begin = now - days * DAY
    inside = sorted((p for p in points if begin <= p.at <= now and p.counted > 0), key=lambda p: p.at)
    if not inside:
        return Markup()

    def x(at: float) -> float:
        return left + (width - left - 6) * (at - begin) / (days * DAY)

    def y(point: ScorePoint) -> float:
        share = min(1.0, max(0.0, point.conforming / point.counted))
        return top + (height - top - 24) * (1 - share)

    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{grid}{steps}{ticks}</svg>'
    ).format(w=width, h=height, label=_score_label(inside, days), grid=_grid(width, height, top, left),
             steps=_steps(inside, now, x, y, height - 24), ticks=_ticks(begin, days, x, height))


def _score_label(inside: Sequence[ScorePoint], days: int) -> str:
    last = inside[-1]
    lowest = min(inside, key=lambda p: p.conforming / p.counted)
    return (f"Checks passed over {days} days: now {last.conforming} of {last.counted}, "
            f"lowest {lowest.conforming} of {lowest.counted}.")


def _grid(width: int, height: int, top: int, left: int) -> Markup:
    lines = [Markup()]
    for share in (100, 50, 0):
        level = top + (height - top - 24) * (1 - share / 100)
        lines.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                            '<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{} %</text>').format(
            left, width - 6, level, level, left - 6, level + 4, share))
    return Markup().join(lines)


def _steps(inside: Sequence[ScorePoint], now: float, x: object, y: object, floor: float) -> Markup:
    """One filled stair; a gap of more than six hours breaks it."""
    assert callable(x) and callable(y)
    runs: list[list[tuple[float, float]]] = []
    for place, point in enumerate(inside):
        following = inside[place + 1].at if place + 1 < len(inside) else now
        until = min(following, point.at + 6 * 3600)
        piece = [(x(point.at), y(point)), (x(until), y(point))]
        if runs and abs(runs[-1][-1][0] - piece[0][0]) < 0.01:
            runs[-1] += piece
        else:
            runs.append(piece)
    drawn = [Markup()]
    for run in runs:
        line = " L".join(f"{a:.1f},{b:.1f}" for a, b in run)
        drawn.append(Markup('<path class="area" d="M{:.1f},{} L{} L{:.1f},{} Z"/><path class="line" d="M{}"/>').format(
            run[0][0], floor, line, run[-1][0], floor, line))
    return Markup().join(drawn)


def _ticks(begin: float, days: int, x: object, height: int) -> Markup:
    assert callable(x)
    marks = [Markup()]
    for day in range(0, days + 1, 7):
        when = local(begin + day * DAY)
        if when is not None:
            marks.append(Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x(begin + day * DAY), height - 6, "start" if day == 0 else "middle", escape(f"{when.day} {when:%b}")))
    return Markup().join(marks)
