"""What a run with the patches on a model will take: network rows, memory and, measured, time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import comfy.sample
import comfy.samplers
import torch

from ..methods.regions import RegionLayout
from .call import LARGEST_BATCH
from .conditioning import check_conditioning
from .evaluation import engine_of, without_parts
from .views import Canvas
from .work import Work, cells, in_parts, rows


def works(model, height: int, width: int, evaluations: int) -> list[Work]:
    """Work of `evaluations` of a canvas of `height` x `width` cells with the parts on `model` (ModelPatcher)."""
    found = engine_of(model).works(model.model, Canvas.of(model.model, height, width))
    return [work.times(evaluations) for work in found]


def layout(model, height: int, width: int) -> RegionLayout:
    """The regions of the parts on `model`; one region if there are none."""
    found = engine_of(model).works(model.model, Canvas.of(model.model, height, width))
    whole = RegionLayout(height, width, height, width, height, width)
    return next((work.layout for work in found if work.layout is not None), whole)


@dataclass(frozen=True)
class Plan:
    """A run on latents of `shape` (B, C, ..., H, W): `works` done for `branches` guidance branches.

    at_once: regions in one network call. weights, network, canvas: bytes of the model, of one network
    call by ComfyUI's estimate, and of the latents and what is kept. seconds: of the whole run, None if
    it was not measured.
    """

    shape: torch.Size
    works: list[Work]
    branches: int
    at_once: int
    weights: int
    network: int
    canvas: int
    seconds: float | None = None

    def lines(self, layout: RegionLayout, pixels: int) -> list[str]:
        """The plan in words; `pixels` of a latent cell."""
        batch, (height, width) = self.shape[0], self.shape[-2:]
        frames = self.shape[2:-2].numel()
        total = rows(self.works, self.branches, batch)
        native = layout.region_height * layout.region_width
        lines = [
            f"Canvas: {width} x {height} latent cells, {width * pixels} x {height * pixels} pixels" + (f", {frames} frames" if frames > 1 else "") + (f", {batch} images" if batch > 1 else ""),
            f"Regions: {layout.count} of {layout.region_width * pixels} x {layout.region_height * pixels} pixels, every {layout.stride_width * pixels} x {layout.stride_height * pixels}; {self.at_once} in one network call",
            *(f"{work.name}: {rows([work], self.branches, batch):,} rows of {work.width * pixels} x {work.height * pixels} pixels" + (f", keeps {_gigabytes(batch * work.kept)} during each evaluation" if work.kept else "") for work in self.works),
            f"Network rows: {total:,} with {self.branches} guidance branch{'es' * (self.branches > 1)} (equal to {cells(self.works, self.branches, batch) / native:,.0f} regions)",
            f"Memory: weights {_gigabytes(self.weights)}, one network call {_gigabytes(self.network)}, latents {_gigabytes(self.canvas)}",
        ]
        if self.seconds is not None:
            lines.append(f"Time: about {_minutes(self.seconds)}")
        return lines


def _gigabytes(count):
    return f"{count / 2**30:.2f} GiB"


def _minutes(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def plan(model, shape: Sequence[int], works: list[Work], branches: int) -> Plan:
    """Of `works` with the parts on `model`, on latents of `shape`."""
    shape = torch.Size(shape)
    engine = engine_of(model)
    evaluation = engine.works(model.model, Canvas.of(model.model, *shape[-2:]))
    free = model.get_free_memory(model.load_device) - max(model.model_size() - model.loaded_size(), 0)
    at_once, network = [], []
    for work in evaluation:
        one = model.model.memory_required([branches * shape[0], *shape[1:-2], work.height, work.width])
        fitting = engine.regions_per_call or min(max(int(free / (1.5 * one)), 1), LARGEST_BATCH)
        at_once.append(min(fitting, work.views))
        network.append(int(one * at_once[-1]))
    regions = next((count for count, work in zip(at_once, evaluation) if work.layout is not None), max(at_once))
    canvas = shape.numel() * 4 * (3 + 2 * branches) + shape[0] * sum(work.kept for work in works)
    return Plan(shape, works, branches, regions, model.model_size(), max(network), canvas)


def planned(model, shape: Sequence[int], evaluations: int, branches: int, positive: list | None = None) -> Plan:
    """The plan of `evaluations` of a latent of `shape` with the parts on `model`, timed where `positive` is given."""
    out = plan(model, shape, works(model, *shape[-2:], evaluations), branches)
    return out if positive is None else replace(out, seconds=measure(model, out, positive))


def measure(model, planned: Plan, positive: list) -> float:
    """Seconds of the run, from one network call of each kind of work, with `positive` as every branch's prompt."""
    canvas = Canvas.of(model.model, *planned.shape[-2:])
    if in_parts(engine_of(model).works(model.model, canvas), canvas.size):
        check_conditioning(model.model, {"positive": [keys for _, keys in positive]}, canvas)
    model = without_parts(model)
    return sum(_seconds(model, planned, work, positive) for work in planned.works)


def _seconds(model, planned, work, positive):
    together = min(planned.at_once, work.views)
    latent = torch.zeros(together * planned.shape[0], *planned.shape[1:-2], work.height, work.width)
    times = []

    def stop_the_clock(step, denoised, x, total):
        denoised.sum().item()  # the device is done
        times.append(time.perf_counter())

    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
    # guidance 1 runs one branch, 2 both
    branches = planned.branches if work.guided else 1
    comfy.sample.sample_custom(model, torch.zeros_like(latent), float(branches), sampler, sigmas, positive, positive, latent, callback=stop_the_clock, disable_pbar=True, seed=0)
    return (times[-1] - times[-2]) / together * work.views
