"""Which nodes the browser draws a panel in, below their widgets."""

from collections.abc import Callable
from typing import NamedTuple

from ..nodes.demofusion import DemoFusion, DemoFusionSampler
from ..nodes.latent_adjustment import LatentAdjustmentNode
from ..nodes.pixelsmith import PixelSmithSampler
from ..nodes.region_layout import RegionLayoutNode
from ..nodes.region_prompts import RegionPrompts
from ..nodes.structure_prior import StructurePriorNode
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

PANELS = {
    RegionLayoutNode: REGION_MAP,
    RegionPrompts: REGION_MAP,
    DemoFusion: schedule_plot(curves.demofusion),
    DemoFusionSampler: schedule_plot(curves.demofusion_sampler),
    StructurePriorNode: schedule_plot(curves.structure_prior),
    PixelSmithSampler: schedule_plot(curves.pixelsmith),
    LatentAdjustmentNode: schedule_plot(curves.latent_adjustment),
}


def panels() -> dict[str, dict]:
    """Kind and height of the panel of each node that has one, by node id."""
    return {node.define_schema().node_id: {"kind": panel.kind, "height": panel.height} for node, panel in PANELS.items()}


def plots() -> dict[str, tuple[type, Callable[..., dict]]]:
    """Each node with a plot, and the plot, by node id."""
    return {node.define_schema().node_id: (node, panel.plot) for node, panel in PANELS.items() if panel.plot}
