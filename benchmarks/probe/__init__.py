"""A node pack that `bench peers` installs in its server: what happens between its two nodes is counted and timed.

Every sampler calls the network through the model that Start gives, also those that other packs call themselves.
"""

import time

from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

Count = io.Custom("LOUPE_BENCHMARK_COUNT")


class Counter:
    """rows: images and guidance branches that the network saw. area: the same, each by its area, a native image being 1."""

    def __init__(self, native_cells):
        self.native_cells = native_cells
        self.rows, self.area = 0, 0.0
        self.started = time.process_time(), time.monotonic()

    def __call__(self, executor, x, *args, **kwargs):
        self.rows += len(x)
        self.area += len(x) * x.shape[-2] * x.shape[-1] / self.native_cells**2
        return executor(x, *args, **kwargs)

    def found(self):
        seconds, wall = (now - then for now, then in zip((time.process_time(), time.monotonic()), self.started))
        return {"rows": [self.rows], "area": [self.area], "seconds": [seconds], "wall": [wall]}


class Start(io.ComfyNode):
    """What a way begins with goes through here, so that nothing of it is done before."""

    @classmethod
    def define_schema(cls):
        kinds = io.Image, io.Model, io.Vae, io.Conditioning, io.Conditioning
        names = "image", "model", "vae", "positive", "negative"
        return io.Schema(
            node_id="LoupeBenchmarkStart", category="Loupe/benchmark",
            inputs=[*(kind.Input(name) for kind, name in zip(kinds, names)), io.Int.Input("native_cells", default=16)],
            outputs=[*(kind.Output(display_name=name) for kind, name in zip(kinds, names)), Count.Output(display_name="count")],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # never from the cache, and so nothing after it

    @classmethod
    def execute(cls, image, model, vae, positive, negative, native_cells):
        model, counter = model.clone(), Counter(native_cells)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark", counter)
        return io.NodeOutput(image, model, vae, positive, negative, counter)


class Stop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeBenchmarkStop", category="Loupe/benchmark", is_output_node=True,
            inputs=[io.Image.Input("image"), Count.Input("count")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image, count):
        return io.NodeOutput(image, ui=count.found())


class Probe(ComfyExtension):
    async def get_node_list(self):
        return [Start, Stop]


async def comfy_entrypoint():
    return Probe()
