"""What a board is made of, and how it becomes Grafana's JSON through Grafana's own builders.

A panel is a title in plain words, a sentence of description, a unit, thresholds that mean something, and its PromQL.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
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
    GridPos,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef("prometheus", "${datasource}")
OF_ROUTE: Final = 'route=~"$route"'
CHOSEN: Final = f'{OF_ROUTE}, version=~"$version", variant=~"$variant"'
SPAN: Final = "$__rate_interval"
VERSION: Final = "{{variant}} (version {{version}})"
GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#8e8e8e"
_WIDTH: Final = 24  # of a row, in Grafana's columns
Levels = tuple[tuple[float, str], ...]  # from which value on, which colour; below the first it is green
Meanings = tuple[tuple[float, str, str], ...]  # a value, what it means, its colour


class Kind(enum.Enum):
    """How a panel shows its numbers: over time, as one number each, as states over time, or as a table of what is now."""

    GRAPH = "graph"
    NUMBER = "number"
    STATES = "states"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its series."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of it, e.g. `reqps`, `s`, `percentunit`.
        width, height: In Grafana's columns and rows; panels fill a row from the left.
        levels: Thresholds; a graph has dashed lines there.
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
    meanings: Meanings = ()
    columns: tuple[tuple[str, str], ...] = ()
    is_stacked: bool = False
    is_signed: bool = False


def number(title: str, description: str, unit: str, expression: str, *, levels: Levels = (), meanings: Meanings = ()) -> Panel:
    """Return one big number, a sixth of the width."""
    return Panel(
        title, description, unit, (Query(expression, title),), Kind.NUMBER, width=4, height=4, levels=levels, meanings=meanings
    )


def rate(metric: str, chosen: str = "", *, by: str = "") -> str:
    """Return a counter's sum a second."""
    selector = f"{metric}{{{chosen}}}" if chosen else metric
    return f"sum{f' by ({by})' if by else ''} (rate({selector}[{SPAN}]))"


def quantile(share: float, metric: str, chosen: str = "", *, by: str) -> str:
    """Return a quantile of a histogram; what had nothing in the span is left out."""
    return f"(histogram_quantile({share}, {rate(metric + '_bucket', chosen, by='le, ' + by)}) >= 0)"


def board(uid: str, title: str, description: str, panels: Sequence[Panel]) -> dashboard.Dashboard:
    """Return a board with its variables, its annotations and its panels in their places."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["headgate"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .variables([dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"), *_variables()])
        .link(_other_boards())
        .annotation(_RouteChanges())
    )
    x = y = row = 0
    for at, panel in enumerate(panels, start=1):
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        built.with_panel(_built(panel, at, GridPos(h=panel.height, w=panel.width, x=x, y=y)))
        x, row = x + panel.width, max(row, panel.height)
    return built


def _variables() -> list[dashboard.QueryVariable]:
    return [
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {name})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
        for name, metric in (
            ("route", "gateway_route_info"),
            ("version", f"gateway_predictions_total{{{OF_ROUTE}}}"),
            ("variant", f"gateway_predictions_total{{{OF_ROUTE}}}"),
        )
    ]


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


def _built(panel: Panel, at: int, place: GridPos) -> dashboard.Panel:
    made = _of_kind(panel)
    made.id(at).title(panel.title).description(panel.description).datasource(SOURCE).grid_pos(place).unit(panel.unit)
    made.thresholds(_thresholds(panel.levels))
    if panel.meanings:
        found = {
            f"{value:g}": ValueMappingResult(text, colour, index=i) for i, (value, text, colour) in enumerate(panel.meanings)
        }
        made.mappings([ValueMap(found)])
    for index, query in enumerate(panel.queries):
        made.with_target(_target(panel, query, chr(ord("A") + index)))
    return made


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


def _thresholds(levels: Levels) -> dashboard.ThresholdsConfig:
    steps = [Threshold(None, GREEN if levels else GREY), *(Threshold(value, colour) for value, colour in levels)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _target(panel: Panel, query: Query, ref_id: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(SOURCE).expr(query.expression).legend_format(query.legend).ref_id(ref_id)
    if panel.kind is Kind.TABLE:
        return target.instant().format(PromQueryFormat.TABLE)
    return target.instant() if panel.kind is Kind.NUMBER else target.range()
