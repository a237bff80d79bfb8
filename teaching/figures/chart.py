"""Charts as files: Vega-Lite specifications, the report's own among them, drawn without a browser.

The specifications come from `batchnorm.report.charts`, or are made with its helpers; here they get
a size that suits a page of text, and lose what only a pointer can find.
"""

import copy
import json
from collections.abc import Sequence

import altair as alt
import vl_convert

from batchnorm.report.charts.figure import Figure, Row, Spec

from . import svg

PANEL = 215
VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_AXIS = {"labelFontSize": 13, "titleFontSize": 13.5, "titleFontWeight": 500, "titlePadding": 8}
_TEXT = {"labelColor": "var(--ink-2)", "titleColor": "var(--ink)"}
_LINES = {"domainColor": "var(--rule)", "tickColor": "var(--rule)", "gridColor": "var(--grid)"}
CONFIG: Spec = {
    "background": None,
    "font": svg.FONT,
    "view": {"stroke": None},
    "axis": {**_AXIS, **_TEXT, **_LINES},
    "header": {
        "labelColor": "var(--ink)",
        "labelFontSize": 14,
        "labelFontWeight": 600,
        "labelLimit": 420,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "orient": "top",
        "labelFontSize": 13.5,
        "labelLimit": 320,
        "symbolSize": 90,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 0,
        "columnPadding": 22,
        "offset": 12,
    },
    "text": {"color": "var(--ink)", "fontSize": 13},
    "facet": {"spacing": {"column": 18, "row": 22}},
}


def of_figure(
    figure: Figure, *, columns: int = 2, width: int = PANEL, height: int | None = None
) -> Spec:
    """Take a chart of the report, panels of this size beside each other."""
    return of_rows(figure.spec, figure.rows, columns=columns, width=width, height=height)


def of_rows(
    spec: Spec,
    rows: Sequence[Row],
    *,
    columns: int = 2,
    width: int = PANEL,
    height: int | None = None,
) -> Spec:
    """Complete a specification made with `style.side_by_side`."""
    whole = copy.deepcopy(spec)
    inner = whole["spec"]
    inner["layer"] = [layer for layer in inner["layer"] if not _is_invisible(layer)]
    for layer in inner["layer"]:
        layer["encoding"].pop("tooltip", None)
    inner["width"] = width
    if height is not None:
        inner["height"] = height
    panels = len({row["panel"] for row in rows})
    if panels == 1 and rows[0]["panel"] == "":
        whole["facet"]["header"] = {"labels": False}
    return {
        **whole,
        "columns": min(columns, panels),
        "datasets": {"rows": [{k: v for k, v in row.items() if k != "key"} for row in rows]},
        "config": CONFIG,
    }


def drawn(spec: Spec) -> str:
    """Draw a specification as SVG, its colors still variables."""
    return str(vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VERSION))


def _is_invisible(layer: Spec) -> bool:
    mark = layer["mark"]
    return isinstance(mark, dict) and mark.get("opacity") == 0
