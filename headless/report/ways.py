"""Runs the ways of one report after each other, and counts their network rows."""

import math
import secrets
import statistics
from dataclasses import dataclass, field

import aiohttp

from ..client import Client, Refused, ServerLost, WorkflowError, find_node
from . import facts, graphs
from .measure import measure
from .schedule import nearest_denoise, nearest_time, next_steps, noise_levels

MOST_RUNS = 3  # of a way whose steps are fitted
LARGEST_NUMBER = 4096  # of runs, as ImageFromBatch takes them
LOUPE, CORE, TILED = "Loupe", "ComfyUI, whole canvas", "Ultimate SD Upscale"


@dataclass
class Way:
    """How one way did. rows: images of `row` (width, height) pixels times guidance branches that its network saw, as `counted` says."""

    name: str
    steps: int
    denoise: float
    seconds: float | None = None
    runs: list = field(default_factory=list)
    rows: int | None = None
    row: tuple | None = None
    counted: str = "computed"
    memory: int | None = None
    error: str | None = None
    image: object = None

    def numbers(self):
        return {key: value for key, value in vars(self).items() if key != "image"}


class Ways:
    """client: of the server. graph: of `graphs.loupe`. image: name on the server. runs: of each way, the first unmeasured. say: for progress."""

    def __init__(self, url, graph, image, runs, say):
        self.client, self.graph, self.image, self.runs, self.say = Client(url), graph, image, runs, say
        self.number = secrets.randbelow(LARGEST_NUMBER)
        sampling = graph[find_node(graph, graphs.SAMPLER)]["inputs"]
        self.seed, self.cfg = sampling["noise_seed"], sampling["cfg"]
        self.branches = 1 if self.cfg == 1 else 2

    def ask(self):
        """What all ways share: the enlarged image, the steps, and the denoise of core that starts at Creativity's noise."""
        self.say("the enlarged image and its noise levels")
        run = self.client.run(graphs.about_canvas(self.graph, self.image))
        self.canvas = self.client.images(run, graphs.CANVAS)[0].convert("RGB")
        levels = noise_levels(run.outputs[graphs.SCHEDULE]["text"][0])
        self.steps = len(levels) - 1
        run = self.client.run(graphs.about_denoise(self.graph, self.steps))
        starts = {denoise: noise_levels(run.outputs[str(denoise)]["text"][0])[0] for denoise in graphs.DENOISES}
        self.denoise = nearest_denoise(levels[0], starts)

    def measured(self, name, graph, seed):
        self.number = self.number % LARGEST_NUMBER + 1
        found = measure(self.client, graphs.fresh(graph, self.image, seed, self.number))
        self.say(f"{name}: {found.seconds:.1f} s")
        return found

    def attempt(self, way, run):
        """What `run` measures. A failure is a result of the way, unless there is nothing of Loupe to tell."""
        try:
            last = run()
        except (WorkflowError, OSError, aiohttp.ClientError) as error:
            in_a_node = isinstance(error, WorkflowError) and not isinstance(error, (Refused, ServerLost))
            if getattr(error, "interrupted", False) or (way.name == LOUPE and not in_a_node):
                raise
            way.error = facts.without_paths(str(error))
            self.say(f"{way.name} failed: {error}")
            return None
        way.image = last.images[0].convert("RGB")
        return last

    def repeated(self, way, graph):
        """Runs with one seed after the other; the last is the graph's own."""
        measured = [self.measured(f"{way.name}, run {run + 1} of {self.runs}", graph, self.seed + self.runs - 1 - run) for run in range(self.runs)]
        way.runs = [one.seconds for one in measured[1:]]
        way.seconds = statistics.median(way.runs)
        way.memory = max((one.memory for one in measured[1:] if one.memory is not None), default=None)
        return measured[-1]

    def loupe(self):
        way = Way(LOUPE, self.steps, self.denoise, counted="counted by Loupe")
        self.seen = self.attempt(way, lambda: self.repeated(way, self.graph))
        if self.seen and self.seen.views:
            way.rows, way.row = self.seen.views * self.branches, self.region()
        return way

    def region(self):
        """Pixels (width, height) of one region of Loupe's."""
        pixels = self.canvas.width // self.seen.canvas[1]
        return self.seen.region[1] * pixels, self.seen.region[0] * pixels

    def core(self):
        way = Way(CORE, self.steps, self.denoise)
        graph = graphs.core(self.graph, self.steps, self.denoise)
        self.attempt(way, lambda: self.repeated(way, graph))
        if self.seen and self.seen.evaluations and not way.error:
            way.rows, way.row = self.seen.evaluations * self.branches, self.canvas.size
        return way

    def tiled(self, definition, seconds):
        """At the time of Loupe: its steps are changed until its seconds come near `seconds`."""
        tile = tuple(max(math.ceil(side / 8) * 8, 64) for side in self.region())
        way = Way(TILED, self.steps, graphs.TILED_DENOISE, row=tile)
        found = {}

        def run():
            self.measured(f"{TILED}, warm-up", graphs.tiled(self.graph, definition, self.steps, tile), self.seed + 1)
            steps = self.steps
            while steps is not None and len(found) < MOST_RUNS:
                found[steps] = self.measured(f"{TILED}, {steps} steps", graphs.tiled(self.graph, definition, steps, tile), self.seed)
                steps = next_steps([(each, one.seconds) for each, one in found.items()], seconds)
            way.steps, way.seconds = nearest_time([(each, one.seconds) for each, one in found.items()], seconds)
            way.runs, way.memory = [way.seconds], found[way.steps].memory
            return found[way.steps]

        self.attempt(way, run)
        if self.seen.evaluations and not way.error:
            tiles = math.ceil(self.canvas.width / tile[0]) * math.ceil(self.canvas.height / tile[1])
            way.rows = round(tiles * way.steps * self.seen.evaluations / self.steps) * self.branches
        return way
