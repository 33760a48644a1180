"""What all dashboards have in common: variables, annotations, links, and the two forms of panel.

A panel has a number that never changes within its dashboard: its place in the code. Widths are in Grafana's 24 columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.promql import TARGET

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS: Final = "/public/runbooks"
"""Where links to runbooks begin unless somebody says otherwise (variable `runbooks`): see GRAFANA.md."""
FOLDER: Final = "freshfetch"
TAG: Final = "freshfetch"
WIDTH: Final = 24

GREEN, YELLOW, RED, PURPLE, BLUE = "green", "yellow", "red", "purple", "blue"
OUTCOMES: Final = {"processed": GREEN, "skipped": YELLOW, "failed": RED, "lost": PURPLE}
Steps = Mapping[float, str]
"""From which value on a panel has which colour; below the first it is green."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, and how its series are called."""

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: a time series, or one number for the whole range (`number`). `alerts`: whose symptom it shows."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str
    width: int = 8
    height: int = 8
    number: bool = False
    stacked: bool = False
    steps: Steps | None = None
    below: str = GREEN
    """The colour below the first step."""
    words: Mapping[str, tuple[str, str]] | None = None
    """Value → the word and the colour that stand for it."""
    colours: Mapping[str, str] | None = None
    """Series → colour."""
    alerts: Sequence[str] = ()
    totals: bool = False
    """Show mean, greatest and sum of each series beside it."""
    highest: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


def board(uid: str, title: str, description: str, rows: Sequence[Row], *, hours: int) -> dashboard.Dashboard:
    """A dashboard of these rows, showing the last `hours`."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .refresh("30s")
        .time(f"now-{hours}h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(build.DashboardLink("Freshfetch").type(dashboard.DashboardLinkType.DASHBOARDS)
              .tags([TAG]).as_dropdown(True).include_vars(True).keep_time(True))
    )  # fmt: skip
    for variable in _variables():
        made.with_variable(variable)
    for annotation in _annotations():
        made.annotation(annotation)
    number, top = 0, 0
    for row in rows:
        number += 1
        made.with_row(build.Row(row.title).id(number).grid_pos(dashboard.GridPos(1, WIDTH, 0, top)))
        top += 1
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            place = dashboard.GridPos(panel.height, panel.width, left, top)
            made.with_panel(_number(panel, number, place) if panel.number else _series(panel, number, place))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return made.build()


def as_json(made: dashboard.Dashboard) -> str:
    """The file of a dashboard, the same on every machine."""
    return JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n"


# Variables, annotations, links


def _variables() -> list[Builder[dashboard.VariableModel]]:
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _labels("job", "Job", "toolkit_build_info"),
        _labels("instance", "Instance", 'toolkit_build_info{job=~"$job"}'),
        _labels("queue", "Queue", f"job_queue_depth{{{TARGET}}}"),
        build.TextBoxVariable("runbooks").label("Runbooks").default_value(RUNBOOKS)
        .description("Where links to runbooks begin.").hide(dashboard.VariableHide.HIDE_VARIABLE),
    ]  # fmt: skip


def _labels(name: str, label: str, metric: str) -> build.QueryVariable:
    """Any of a label's values, all of them at first."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


class _Annotation(dashboard.AnnotationQuery, Builder[dashboard.AnnotationQuery]):
    """An annotation with what the Prometheus data source wants to know besides."""

    def __init__(self, name: str, expr: str, colour: str, title: str, text: str) -> None:
        super().__init__(name, SOURCE, icon_color=colour, expr=expr)
        self._more = {"step": "60s", "titleFormat": title, "textFormat": text, "useValueForTime": False}

    def to_json(self) -> dict[str, object]:
        return super().to_json() | self._more

    def build(self) -> dashboard.AnnotationQuery:
        return self


def _annotations() -> list[_Annotation]:
    """What was not there five minutes before: a release that begins to run, a toggle's new state."""
    release = f"max by (release) (toolkit_build_info{{{TARGET}}})"
    began = f"{release} unless max by (release) (toolkit_build_info{{{TARGET}}} offset 5m)"
    state = f"max by (toggle, variant, version) (toggle_info{{{TARGET}}})"
    flipped = f"{state} unless max by (toggle, variant, version) (toggle_info{{{TARGET}}} offset 5m)"
    return [
        _Annotation("Deployments", began, BLUE, "Release {{release}}", "began to run"),
        _Annotation("Flips", flipped, PURPLE, "{{toggle}} is {{variant}}", "version {{version}}"),
    ]


def _links(alerts: Sequence[str]) -> list[Builder[dashboard.DashboardLink]]:
    return [
        build.DashboardLink(f"Runbook: {alert}")
        .type(dashboard.DashboardLinkType.LINK)
        .url(f"${{runbooks}}/{alert}.md")
        .target_blank(True)
        for alert in alerts
    ]


# Panels


def _target(query: Query, place: int, *, instant: bool) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .ref_id("ABCDEFGH"[place])
        .expr(query.expr)
        .legend_format(query.legend)
        .format(PromQueryFormat.TIME_SERIES)
    )
    if instant:
        return target.instant()
    return target.range().exemplar(query.exemplars)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = [dashboard.Threshold(None, panel.below)]
    steps += [dashboard.Threshold(value, colour) for value, colour in sorted((panel.steps or {}).items())]
    return build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _mappings(panel: Panel) -> list[dashboard.ValueMapping]:
    words = panel.words or {}
    options = {
        value: dashboard.ValueMappingResult(text=word, color=colour)
        for value, (word, colour) in words.items()
    }
    return [dashboard.ValueMap(options=options)] if options else []


def _number(panel: Panel, number: int, place: dashboard.GridPos) -> stat.Panel:
    made = (
        stat.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .grid_pos(place)
        .datasource(SOURCE)
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
        .mappings(_mappings(panel))
        .links(_links(panel.alerts))
        .reduce_options(look.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME if any("{{" in q.legend for q in panel.queries)
                   else common.BigValueTextMode.VALUE)
    )  # fmt: skip
    for at, query in enumerate(panel.queries):
        made.with_target(_target(query, at, instant=True))
    return made


def _series(panel: Panel, number: int, place: dashboard.GridPos) -> timeseries.Panel:
    shown = ["mean", "max", "sum"] if panel.totals else []
    legend = (
        look.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE if shown else common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(shown)
    )
    lines = common.GraphThresholdsStyleMode.DASHED if panel.steps else common.GraphThresholdsStyleMode.OFF
    made = (
        timeseries.Panel()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .grid_pos(place)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .thresholds(_thresholds(panel))
        .thresholds_style(look.GraphThresholdsStyleConfig().mode(lines))
        .mappings(_mappings(panel))
        .links(_links(panel.alerts))
        .legend(legend)
        .tooltip(look.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .fill_opacity(30 if panel.stacked else 10)
        .show_points(common.VisibilityMode.NEVER)
    )  # fmt: skip
    if panel.highest is not None:
        made.max(panel.highest)
    if panel.stacked:
        made.stacking(look.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    for name, colour in (panel.colours or {}).items():
        made.override_by_name(
            name, [dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})]
        )
    for at, query in enumerate(panel.queries):
        made.with_target(_target(query, at, instant=False))
    return made
