"""What a board is made of, and how it becomes Grafana's JSON through Grafana's own builders.

A panel is a title in plain words, a sentence of description, a unit, its PromQL, and a bound or the reason why it has none.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    GridPos,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.bounds import BLUE, GREEN, GREY, RED, Levels

SOURCE: Final = DataSourceRef("prometheus", "${datasource}")
OF_ROUTE: Final = 'route=~"$route"'
CHOSEN: Final = f'{OF_ROUTE}, version=~"$version", variant=~"$variant"'
SPAN: Final = "$__rate_interval"
VERSION: Final = "{{variant}} (version {{version}})"
STATUS: Final = "http://${gateway:raw}/status"  # of the gateway's own page, where details are
_WIDTH: Final = 24  # of a row, in Grafana's columns
Meanings = tuple[tuple[float, str, str], ...]  # a value, what it means, its colour


class Kind(enum.Enum):
    """How a panel shows its numbers: over time, as one number each, as states over time, or as a table of what is now."""

    GRAPH = "graph"
    NUMBER = "number"
    STATES = "states"
    TABLE = "table"


class Unbounded(enum.Enum):
    """Why a panel has no bound."""

    AMOUNT = "how much there is of something, which is neither good nor bad"
    PARTS = "how a whole divides"
    COMPARED = "what is good depends on the model: its versions or segments are compared with each other"
    RECORD = "what happened, and when"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its series; `is_bound` where it is the line that the panel's others are held to."""

    expression: str
    legend: str
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. It has levels, or meanings, or a query that is the bound, or says why nothing bounds it; only one of them.

    Attributes:
        unit: Grafana's name of it, e.g. `reqps`, `s`, `percentunit`.
        width, height: In Grafana's columns and rows; panels fill a row from the left.
        levels: Thresholds, and what they are; a graph has dashed lines there.
        below: The colour under the first of them.
        meanings: What single values mean.
        columns: Of a table: label → heading, in order; the value comes last, under the title.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.GRAPH
    width: int = 12
    height: int = 8
    levels: Levels = ()
    below: str = GREEN
    meanings: Meanings = ()
    unbounded: Unbounded | None = None
    columns: tuple[tuple[str, str], ...] = ()
    is_stacked: bool = False
    is_signed: bool = False

    def __post_init__(self) -> None:
        bounds = (self.levels, self.meanings, any(query.is_bound for query in self.queries), self.unbounded)
        if sum(map(bool, bounds)) != 1:
            raise ValueError(f"{self.title}: a panel has one kind of bound, or says why there is none")


@dataclass(frozen=True, slots=True)
class Board:
    """One board."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def number(
    title: str,
    description: str,
    unit: str,
    expression: str,
    *,
    levels: Levels = (),
    meanings: Meanings = (),
    unbounded: Unbounded | None = None,
) -> Panel:
    """Return one big number, a sixth of the width."""
    queries = (Query(expression, title),)
    bound = {"levels": levels, "meanings": meanings, "unbounded": unbounded}
    return Panel(title, description, unit, queries, Kind.NUMBER, width=4, height=4, **bound)


def rate(metric: str, chosen: str = "", *, by: str = "") -> str:
    """Return a counter's sum a second."""
    selector = f"{metric}{{{chosen}}}" if chosen else metric
    return f"sum{f' by ({by})' if by else ''} (rate({selector}[{SPAN}]))"


def quantile(share: float, metric: str, chosen: str = "", *, by: str) -> str:
    """Return a quantile of a histogram; what had nothing in the span is left out."""
    return f"(histogram_quantile({share}, {rate(metric + '_bucket', chosen, by='le, ' + by)}) >= 0)"


def built(board: Board) -> dashboard.Dashboard:
    """Return a board with its variables, its annotations and its panels in their places."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["headgate"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .variables([dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"), *_variables()])
        .link(_other_boards())
        .link(dashboard.DashboardLink("Status page").type(DashboardLinkType.LINK).url(STATUS).target_blank(True))
        .annotation(_RouteChanges())
    )
    x = y = row = 0
    for at, panel in enumerate(board.panels, start=1):
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        made.with_panel(_panel(panel, at, GridPos(h=panel.height, w=panel.width, x=x, y=y)))
        x, row = x + panel.width, max(row, panel.height)
    return made


def _variables() -> list[dashboard.QueryVariable]:
    everything = VariableOption(selected=True, text="All", value="$__all")
    narrowing = [
        _variable(name, metric, name).label(name.capitalize()).multi(True).include_all(True).all_value(".*").current(everything)
        for name, metric in (
            ("route", "gateway_route_info"),
            ("version", f"gateway_predictions_total{{{OF_ROUTE}}}"),
            ("variant", f"gateway_predictions_total{{{OF_ROUTE}}}"),
        )
    ]
    return [*narrowing, _variable("gateway", "gateway_registry_up", "instance").hide(VariableHide.HIDE_VARIABLE)]


def _variable(name: str, metric: str, label: str) -> dashboard.QueryVariable:
    query = {"query": f"label_values({metric}, {label})", "refId": name}
    made = dashboard.QueryVariable(name).datasource(SOURCE).query(query)
    return made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def _other_boards() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Headgate").type(DashboardLinkType.DASHBOARDS).tags(["headgate"])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


class _RouteChanges(dashboard.AnnotationQuery):
    """The last changes of each route, at the times that they carry as their values; Grafana wants milliseconds."""

    def build(self) -> AnnotationQuery:
        return _PrometheusAnnotation(
            name="Route changes",
            datasource=SOURCE,
            enable=True,
            hide=False,
            icon_color=BLUE,
            expr=f"gateway_route_change_timestamp_seconds{{{OF_ROUTE}}} * 1000",
        )


class _PrometheusAnnotation(AnnotationQuery):
    """With what Grafana's Prometheus data source reads beside the common fields."""

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "useValueForTime": "on",
            "titleFormat": "{{route}}: {{action}} by the {{by}}",
            "textFormat": "audit entry {{audit_entry}}",
            "tagKeys": "route,action,by",
        }


def _panel(panel: Panel, at: int, place: GridPos) -> dashboard.Panel:
    made = _of_kind(panel)
    made.id(at).title(panel.title).description(described(panel)).datasource(SOURCE).grid_pos(place).unit(panel.unit)
    made.thresholds(_thresholds(panel))
    if route := _route_of(panel):
        url = f"{STATUS}/routes/${{{route}:percentencode}}"
        made.data_links([dashboard.DashboardLink("This route's status page").url(url).target_blank(True)])
    if panel.meanings:
        found = {
            f"{value:g}": ValueMappingResult(text, colour, index=i) for i, (value, text, colour) in enumerate(panel.meanings)
        }
        made.mappings([ValueMap(found)])
    for index, query in enumerate(panel.queries):
        made.with_target(_target(panel, query, chr(ord("A") + index)))
        if query.is_bound:
            made.override_by_query(chr(ord("A") + index), _DASHED)
    return made


_DASHED: Final = [
    DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
    DynamicConfigValue("color", {"mode": "fixed", "fixedColor": RED}),
]


def _route_of(panel: Panel) -> str:
    """Return where Grafana finds the route that a value speaks of; empty where it speaks of none."""
    if panel.kind is Kind.TABLE:
        return f"__data.fields.{heading}" if (heading := dict(panel.columns).get("route")) else ""
    return "__field.labels.route" if "{{route}}" in panel.queries[0].legend else ""


def described(panel: Panel) -> str:
    """Return what a panel shows, and from which values on it is coloured."""
    if not panel.levels:
        return panel.description
    (first, _), *_ = panel.levels
    coloured = [f"{colour} from {_said(value, panel.unit)}" for value, colour in panel.levels if colour != GREEN]
    under = [] if panel.below == GREEN else [f"{_COLOURS.get(panel.below, panel.below)} below {_said(first, panel.unit)}"]
    said = ", ".join((*under, *coloured))
    return f"{panel.description} {said[0].upper()}{said[1:]}."


_COLOURS: Final = {GREY: "grey"}


def _said(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{100 * value:g} %"
        case "bytes":
            return f"{value / 2**30:g} GiB"
        case "s":
            return f"{value:,g} s"
        case "reqps" | "wps":
            return f"{value:g} a second"
        case _:
            return f"{value:,.12g}"


def _of_kind(panel: Panel) -> dashboard.Panel:
    match panel.kind:
        case Kind.GRAPH:
            return _graph(panel)
        case Kind.NUMBER:
            mode = BigValueColorMode.BACKGROUND if panel.levels or panel.meanings else BigValueColorMode.NONE
            shown = stat.Panel().graph_mode(BigValueGraphMode.NONE).color_mode(mode)
            return shown.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        case Kind.STATES:
            return statetimeline.Panel().show_value(VisibilityMode.AUTO).merge_values(True).row_height(0.8)
        case Kind.TABLE:
            return _table(panel)


def _graph(panel: Panel) -> dashboard.Panel:
    graph = (
        timeseries.Panel()
        .fill_opacity(25 if panel.is_stacked else 8)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL if panel.is_stacked else StackingMode.NONE))
        .legend(
            common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if not panel.is_signed:
        graph.min(0)
    if panel.levels:
        graph.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    return graph


def _table(panel: Panel) -> dashboard.Panel:
    order = {label: index for index, (label, _) in enumerate(panel.columns)}
    names = {**dict(panel.columns), "Value": panel.title}
    organised = {"includeByName": dict.fromkeys(names, True), "indexByName": order, "renameByName": names}
    sorting = {"sort": [{"field": panel.title, "desc": True}]}
    shown = table.Panel().with_transformation(DataTransformerConfig("organize", options=organised))
    return shown.with_transformation(DataTransformerConfig("sortBy", options=sorting))


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    below = panel.below if panel.levels else GREY
    steps = [Threshold(None, below), *(Threshold(value, colour) for value, colour in panel.levels)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _target(panel: Panel, query: Query, ref_id: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(SOURCE).expr(query.expression).legend_format(query.legend).ref_id(ref_id)
    if panel.kind is Kind.TABLE:
        return target.instant().format(PromQueryFormat.TABLE)
    return target.instant() if panel.kind is Kind.NUMBER else target.range()
