"""Which nodes the browser draws a panel in, below their widgets."""

from collections.abc import Callable
from typing import NamedTuple

from ..nodes import NODES
from . import curves


class Panel(NamedTuple):
    """kind: one of those of js/loupe.js. height: its least, in pixels. plot: the curves of a schedule plot; its
    parameters are widgets of the node."""

    kind: str
    height: int
    plot: Callable[..., dict] | None = None


def schedule_plot(plot: Callable[..., dict]) -> Panel:
    return Panel("schedule plot", 130, plot)


REGION_MAP = Panel("region map", 260)
TEXT = Panel("text", 130)

PANELS = {  # by node id
    "LoupePlan": TEXT,
    "LoupeCaptionRegions": TEXT,
    "LoupeRegionLayout": REGION_MAP,
    "LoupeRegionPrompts": REGION_MAP,
    "LoupeDemoFusion": schedule_plot(curves.demofusion),
    "LoupeDemoFusionSampler": schedule_plot(curves.demofusion_sampler),
    "LoupeStructurePrior": schedule_plot(curves.structure_prior),
    "LoupePixelSmithSampler": schedule_plot(curves.pixelsmith),
    "LoupeLatentAdjustment": schedule_plot(curves.latent_adjustment),
}


def panels() -> dict[str, dict]:
    """Kind and height of the panel of each node that has one, by node id."""
    return {node_id: {"kind": panel.kind, "height": panel.height} for node_id, panel in PANELS.items()}


def plots() -> dict[str, tuple[type, Callable[..., dict]]]:
    """Each node with a plot, and the plot, by node id."""
    nodes = {node.define_schema().node_id: node for node in NODES}
    return {node_id: (nodes[node_id], panel.plot) for node_id, panel in PANELS.items() if panel.plot and node_id in nodes}
