"""A report as one HTML file: plots as SVG, a table under each, no script, and nothing that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.core.audit import AuditEntry
from gateway.core.drift import PSI_BOUND, PSI_ROWS_MIN, Incident
from gateway.core.profiles import APART
from gateway.drawing import words
from gateway.drawing.markup import Cell, Markup, document, joined, table, tag
from gateway.drawing.plots import LINES_MAX, Line, Plot, figure
from gateway.drawing.style import STYLE, style_source
from gateway.report.build import Report
from gateway.report.features import FeatureCounts, Shape
from gateway.report.tallies import Tally

FEATURES_SHOWN: Final = 50  # of a version in a table, the furthest first
_RIGHT: Final = frozenset(
    {"predictions", "share", "failed", "median", "99 %", "mean loss", "outcomes", "coverage", "PSI", "rows", "usual", "alarms"}
    | {reason.value for reason in APART}
)
Named = tuple[str, Tally]


def page(report: Report) -> str:
    """Return the whole document."""
    spans, tallies = report.spans, report.tallies
    named = [(name, tallies.whole(name)) for name in _by_use(report)]
    title = f"Route {report.route}"
    policy = tag("meta", http_equiv="Content-Security-Policy", content=f"default-src 'none'; style-src {style_source()}")
    head = tag(
        "header",
        tag("span", "Headgate", class_="name"),
        tag("span", f"written {words.moment(report.made_at_s)}", class_="quiet small"),
    )
    content = joined(
        tag("h1", title),
        tag(
            "p",
            f"{words.moment(spans.since_s)} to {words.moment(spans.until_s)}, in spans of {_span(spans.step_s)}.",
            class_="quiet",
        ),
        tag("p", _about(report)),
        tag("p", f"Records before {words.moment(report.gone_until_s)} were dropped for their age.", class_="alarm")
        if report.gone_until_s > spans.since_s
        else None,
        tag("h2", "Usage"),
        _usage(report, named),
        tag("h2", "Quality by version"),
        _quality(report, named),
        tag("h2", "Latency"),
        _latency(report, named),
        tag("h2", "Drift and data quality"),
        *(_features(report, name) for name, _ in named if name in tallies.features),
        None if tallies.features else tag("p", "No version that answered has a reference to compare with.", class_="quiet"),
        tag("h2", "Incidents"),
        _incidents(report.incidents),
        tag("h2", "Changes"),
        _changes(report.changes),
    )
    foot = tag(
        "footer",
        "Every number is a count or a sum over the prediction log: docs/operations.md says how each is made. "
        "A refused request has no record there and is not counted here; the metrics have it.",
    )
    return document(f"{title} · Headgate", head, tag("main", content), foot, style=STYLE, more=[policy])


def _by_use(report: Report) -> list[str]:
    """Return the versions, the most used first."""
    versions = report.tallies.versions
    return sorted(versions, key=lambda name: (-sum(one.predictions for one in versions[name]), name))


def _about(report: Report) -> str:
    tallies = report.tallies
    kinds = ", ".join(f"{count:,} {kind.value}" for kind, count in sorted(tallies.kinds.items(), key=lambda one: one[0].value))
    if not kinds:
        return "Nothing was predicted."
    lost = tallies.truth.dropped_count
    dropped = f" {lost:,} answers were dropped before their ground truth came: they count as without." if lost else ""
    return f"Model {report.model}. Predictions: {kinds}.{dropped}"


def _usage(report: Report, named: Sequence[Named]) -> Markup:
    whole = sum(tally.predictions for _, tally in named)
    columns: dict[str, Cell[Named]] = {
        "version": lambda one: one[0],
        "predictions": lambda one: f"{one[1].predictions:,}",
        "share": lambda one: words.share(one[1].predictions / whole if whole else None),
        "failed": lambda one: words.share(one[1].fault_share),
        "median": lambda one: _ms(one[1].latency_ms(0.5)),
        "99 %": lambda one: _ms(one[1].latency_ms(0.99)),
        "mean loss": lambda one: words.number(one[1].mean_loss, ".4f"),
        "outcomes": lambda one: f"{one[1].truths:,}",
        "coverage": lambda one: words.share(one[1].truths / one[1].rows if one[1].rows else None),
    }
    lines = [Line(name, [float(one.predictions) for one in report.tallies.versions[name]]) for name, _ in named]
    says = "Live predictions in each span, by the version that answered."
    plot = Plot("Predictions", says, report.spans.begins(), _versions(lines), lambda value: f"{value:,.4g}")
    return joined(
        table(named, columns, empty="No version answered.", numbers=_RIGHT, caption="Live predictions"),
        figure(plot, id="usage", empty="Nothing was predicted."),
    )


def _quality(report: Report, named: Sequence[Named]) -> Markup:
    def lines(read: str) -> list[Line]:
        return _versions([Line(name, [getattr(one, read) for one in report.tallies.versions[name]]) for name, _ in named])

    times = report.spans.begins()
    losses = Plot(
        "Mean loss",
        "Mean loss of the answers made in each span whose ground truth is known, in [0, 1]; less is better.",
        times,
        lines("mean_loss"),
        lambda value: f"{value:.3g}",
    )
    faults = Plot(
        "Failed attempts",
        "Share of each version's own attempts that failed, those that the fallback answered among them.",
        times,
        lines("fault_share"),
        words.share,
    )
    unscored = report.tallies.unscored
    odd = tag("p", f"{unscored:,} values of ground truth fit no answer.", class_="quiet") if unscored else None
    return joined(
        figure(losses, id="loss", empty="No ground truth is known that could be scored."),
        odd,
        figure(faults, id="failed", empty="Nothing was tried."),
    )


def _latency(report: Report, named: Sequence[Named]) -> Markup:
    figures = []
    for id, title, level in (("median", "Median latency", 0.5), ("p99", "99 % latency", 0.99)):
        lines = [Line(name, [one.latency_ms(level) for one in report.tallies.versions[name]]) for name, _ in named]
        says = f"What {100 * level:g} % of each span's live predictions stayed within, request to record; to half a percent."
        figures.append(
            figure(Plot(title, says, report.spans.begins(), _versions(lines), _ms), id=id, empty="Nothing was predicted.")
        )
    return joined(*figures)


def _features(report: Report, version: str) -> Markup:
    counts, spans = report.tallies.features[version], report.spans
    shapes, step = counts.shapes(), counts.spans_together(spans.count)
    times = spans.begins()[::step]
    each = [{shape.name: shape for shape in counts.shapes(at, at + step)} for at in range(0, spans.count, step)]
    moved = sorted(shapes, key=lambda one: (-(one.psi or 0.0), one.name))
    odd = sorted(shapes, key=lambda one: (-(one.apart_share - one.usual), one.name))
    drift = Plot(
        f"Drift of version {version}",
        f"Population stability index of the {min(LINES_MAX, len(moved))} features furthest from training, in spans of "
        f"{_span(step * spans.step_s)} with at least {PSI_ROWS_MIN} rows; {PSI_BOUND:g} is usually called a moderate change. "
        "Upright lines are incidents.",
        times,
        [Line(shape.name, [one[shape.name].psi for one in each]) for shape in moved[:LINES_MAX]],
        lambda value: f"{value:.3g}",
        level=PSI_BOUND,
        marks=[one.opened_at_s for one in report.incidents],
    )
    quality = Plot(
        f"Values that version {version} was not trained on",
        "Share of values that are missing, infinite, out of the reference's range or of an unseen category.",
        times,
        [
            Line(shape.name, [one[shape.name].apart_share if one[shape.name].rows else None for one in each])
            for shape in odd[:LINES_MAX]
        ],
        words.share,
    )
    id = f"version{list(report.tallies.features).index(version)}"
    return joined(
        figure(drift, id=f"{id}-drift", empty="No span has enough rows."),
        figure(quality, id=f"{id}-data", empty="No row was read."),
        _feature_table(counts, moved, version),
    )


def _feature_table(counts: FeatureCounts, moved: Sequence[Shape], version: str) -> Markup:
    columns: dict[str, Cell[Shape]] = {
        "feature": lambda one: words.shortened(one.name),
        "rows": lambda one: f"{one.rows:,}",
        "PSI": lambda one: words.number(one.psi, ".4f"),
        **{reason.value: _apart(reason.value) for reason in APART},
        "usual": lambda one: words.share(one.usual if one.rows else None),
    }
    more = f", the {FEATURES_SHOWN} of {len(moved):,} furthest from training" if len(moved) > FEATURES_SHOWN else ""
    unread = f"; {counts.unreadable:,} predictions had other inputs, or not all of them are logged" if counts.unreadable else ""
    caption = f"Features of version {version} over the whole time{more}{unread}; usual is training's share of such values"
    return table(moved[:FEATURES_SHOWN], columns, empty="No feature.", numbers=_RIGHT, caption=caption)


def _apart(reason: str) -> Cell[Shape]:
    return lambda one: next(words.share(share if one.rows else None) for at, share in one.apart.items() if at.value == reason)


def _incidents(incidents: Sequence[Incident]) -> Markup:
    columns: dict[str, Cell[Incident]] = {
        "from": lambda one: words.moment(one.opened_at_s),
        "to": lambda one: words.moment(one.last_at_s),
        "attribution": lambda one: one.attribution.value.lower(),
        "subjects": lambda one: words.shortened(", ".join(one.subjects)),
        "alarms": lambda one: f"{one.alarms:,}",
        "why": lambda one: words.shortened(one.why),
    }
    caption = "As the monitor finds them when it begins at the first record of this report"
    return table(incidents, columns, empty="No incident.", numbers=_RIGHT, caption=caption)


def _changes(changes: Sequence[AuditEntry]) -> Markup:
    columns: dict[str, Cell[AuditEntry]] = {
        "when": lambda one: words.moment(one.time_s),
        "who": lambda one: words.shortened(one.principal),
        "what": lambda one: one.action,
        "why": lambda one: words.shortened(one.reason),
        "audit entry": lambda one: str(one.seq),
    }
    return table(changes, columns, empty="The route was not changed.", numbers=frozenset({"audit entry"}))


def _versions(lines: Sequence[Line]) -> list[Line]:
    return [Line(f"version {line.name}", line.values) for line in lines]


def _ms(value: float | None) -> str:
    return words.UNKNOWN if value is None else f"{value:.3g} ms"


def _span(seconds: float) -> str:
    for unit, name in ((604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"1 {name}" if count == 1 else f"{count} {name}s"
    return f"{seconds:g} s"
