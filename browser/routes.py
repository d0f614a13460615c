"""What the page, the demo and the templates ask the server for: panels, curves, region layouts, region prompts and unknown words, as runs
compute them."""

import asyncio
import inspect
import json

from aiohttp import web
from server import PromptServer

from ..engine.sizes import MOST, Grid
from ..methods.region_prompts import parse_prompts, replace_prompt
from ..models.mini.world import unknown_words, warning_of
from ..nodes.checks import value_of, widget_value
from ..nodes.region_layout import RegionLayoutNode, layout_of
from .curves import SCHEDULE
from .panels import panels, plots
from .run_levels import run_levels

LARGEST_SIDE = 65536  # latent cells
MOST_REGIONS = 4096


def add_routes() -> None:
    routes = PromptServer.instance.routes
    routes.get("/loupe/panels")(answered(lambda *_: panels()))
    for path, compute in (("/loupe/curves/{node}", curves_of), ("/loupe/regions", regions_of)):
        routes.get(path)(answered(compute))
        routes.post(path)(answered(compute))
    routes.post("/loupe/prompts")(answered(prompts_of))
    routes.post("/loupe/words")(answered(words_of))


def answered(compute):
    """A handler that answers with the JSON of `compute(node, values)`, or {"error": text of its ValueError}: widgets
    that do not go together are no failure of the page. It computes beside the server's loop."""

    async def handler(request):
        try:
            values = await request.json() if request.method == "POST" else json.loads(request.query.get("values", "{}"))
            if not isinstance(values, dict):
                raise ValueError(f"values is {values!r}; expected an object of values by name.")
            return web.json_response(await asyncio.to_thread(compute, request.match_info.get("node"), values))
        except ValueError as error:
            return web.json_response({"error": str(error)})

    return handler


def curves_of(node_id: str, values: dict) -> dict:
    """The plot for widget `values` (defaults where they are missing), the one for the defaults, the widgets
    that it depends on, and those of them that set the levels of a run. values["run"]: the levels of one, as the
    engine tells them (`engine.progress.Browser.began`)."""
    found = plots()
    if node_id not in found:
        raise ValueError(f"{node_id} has no plot; nodes with one: {', '.join(found)}.")
    node, plot = found[node_id]
    run = None if values.get("run") is None else run_levels(values["run"])
    given, defaults = arguments(node, plot, values), arguments(node, plot, {})
    return {
        **plot(**given, run=run),
        "default": plot(**defaults, run=run),
        "widgets": list(given),
        "schedule": [name for name in given if name in SCHEDULE and "scheduler" in given],
        "of_run": run is not None,
    }


def regions_of(_, values: dict) -> dict:
    """The layout of a canvas in pixels, from its `height` and `width` in latent cells, `grid` (see `engine.sizes.Grid`)
    and the widgets of Region Layout."""
    height, width = (value_of(name, values.get(name), int, 1, LARGEST_SIDE) for name in ("height", "width"))
    grid = grid_of(values.get("grid", []))
    layout = layout_of(grid, height, width, **arguments(RegionLayoutNode, layout_of, values))
    rows, columns = map(len, layout.starts)

    def pixels(*cells):
        return [side * grid.pixels_per_cell for side in cells]

    return {
        "canvas": pixels(height, width),
        "region": pixels(layout.region_height, layout.region_width),
        "overlap": pixels(layout.region_height - layout.stride_height, layout.region_width - layout.stride_width),
        "rows": rows,
        "columns": columns,
        "regions": [pixels(*region) for region in layout.regions] if layout.count <= MOST_REGIONS else [],
    }


def grid_of(told) -> Grid:
    """The grid that the page has been told, as the list that it is in JSON."""
    if not isinstance(told, list) or len(told) > len(Grid._fields):
        raise ValueError(f"grid is {told!r:.60}; expected a list of {', '.join(Grid._fields)}.")
    return Grid(*(value if value is None and name == "native" else value_of(name, value, int, 1, MOST) for name, value in zip(Grid._fields, told)))


def prompts_of(_, values: dict) -> dict:
    """The prompts in the widget's `text`, for `count` regions; with region `number` set to `prompt` where given."""
    text, count = value_of("text", values.get("text"), str), value_of("count", values.get("count"), int, 1, MOST_REGIONS)
    if "number" in values:
        text = replace_prompt(text, count, value_of("number", values["number"], int), value_of("prompt", values.get("prompt"), str))
    return {"text": text, "prompts": parse_prompts(text, count)}


def words_of(_, values: dict) -> dict:
    """The words of `prompt` that the mini world does not know, and what to say about them."""
    prompt = value_of("prompt", values.get("prompt"), str)
    return {"unknown": unknown_words(prompt), "warning": warning_of(prompt)}


def arguments(node, function, values: dict) -> dict:
    """The parameters of `function` that are widgets of `node`, from `values` or the widget's default."""
    widgets = {widget.id: widget for widget in node.define_schema().inputs}
    names = [name for name in inspect.signature(function).parameters if name in widgets]
    return {name: widget_value(widgets[name], values.get(name, widgets[name].default)) for name in names}
