"""Groups of inputs that several nodes have: their ranges and defaults; what each node says about them it says itself."""

from comfy_api.latest import io

from ..engine.sigmas import PAPER_SCHEDULE, SCHEDULES
from ..engine.sizes import MOST
from ..methods.regions import BLENDS

LARGEST_SEED = 0xFFFFFFFFFFFFFFFF


def size(*, scale_by: str, width: str, height: str, least: float = 1.0, step: int | None = 8) -> list[io.Input]:
    """The size of a result: a factor, or pixels."""
    return [
        io.Float.Input("scale_by", default=2.0, min=least, max=16.0, step=0.01, tooltip=scale_by),
        io.Int.Input("width", default=0, min=0, max=65536, step=step, tooltip=width),
        io.Int.Input("height", default=0, min=0, max=65536, step=step, tooltip=height),
    ]


def region_side(name: str, tooltip: str) -> io.Input:
    """Pixels; see `engine.sizes.Grid.cells`."""
    return io.Int.Input(name, default=0, min=0, max=MOST, step=8, tooltip=tooltip)


def regions(*, overlap: str, blend: str, defaults: tuple[float, str] = (0.25, "gaussian"), advanced: bool | None = None) -> list[io.Input]:
    """How a canvas is cut. `defaults`: of overlap and blend, docs/cost.md. `advanced`: both, which a method or a preset decides."""
    return [
        region_side("region_width", "Region width in pixels. 0: the model's native side."),
        region_side("region_height", "Region height in pixels. 0: the model's native side."),
        io.Float.Input("overlap", default=defaults[0], min=0.0, max=0.95, step=0.01, advanced=advanced, tooltip=overlap),
        io.Combo.Input("blend", options=list(BLENDS), default=defaults[1], advanced=advanced, tooltip=blend),
    ]


def jitter(tooltip: str, advanced: bool | None = None) -> io.Input:
    return io.Boolean.Input("jitter", default=True, advanced=advanced, tooltip=tooltip)


def jitter_until(default: float) -> io.Input:
    return io.Float.Input(
        "jitter_until", default=default, min=0.0, max=1.0, step=0.01, advanced=True, optional=True,
        tooltip="Fraction of the steps in which regions move. Paper: 1.",
    )


def regions_per_call(tooltip: str) -> io.Input:
    """0: as many as fit in memory."""
    return io.Int.Input("regions_per_call", default=0, min=0, max=256, advanced=True, tooltip=tooltip)


def seed(tooltip: str) -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=True, tooltip=tooltip)


def own_seed(name: str, tooltip: str) -> io.Input:
    """Of something that the sampler's seed does not change."""
    return io.Int.Input(name, default=0, min=0, max=LARGEST_SEED, advanced=True, tooltip=tooltip)


def cfg(tooltip: str) -> io.Input:
    return io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def strength(default: float, tooltip: str) -> io.Input:
    """Of a denoise; see `methods.schedules.start_for`."""
    return io.Float.Input("strength", default=default, min=0.01, max=1.0, step=0.01, tooltip=tooltip)


def sampling(*, steps: int, steps_of: str, default: float, strength_of: str, seed_of: str) -> list[io.Input]:
    """A run of `steps` steps from the noise level of a strength, `default`."""
    return [
        io.Int.Input("steps", default=steps, min=1, max=1000, tooltip=steps_of),
        strength(default, strength_of),
        cfg("Guidance scale. Paper: 7.5."),
        seed(seed_of),
    ]


def scheduler(tooltip: str, default: str = PAPER_SCHEDULE) -> io.Input:
    return io.Combo.Input("scheduler", options=SCHEDULES, default=default, advanced=True, tooltip=tooltip)


def added_noise(*, flat: str, edges: str, most: float = 1.2) -> list[io.Input]:
    """Noise added in flat parts and at edges."""
    return [
        io.Float.Input("noise_flat", default=0.0, min=0.0, max=10.0, step=0.01, tooltip=flat),
        io.Float.Input("noise_edges", default=most, min=0.0, max=10.0, step=0.01, tooltip=edges),
    ]


def canny(*, canny_low: str, canny_high: str) -> list[io.Input]:
    return [
        io.Int.Input("canny_low", default=0, min=0, max=2000, advanced=True, tooltip=canny_low),
        io.Int.Input("canny_high", default=255, min=0, max=2000, advanced=True, tooltip=canny_high),
    ]
