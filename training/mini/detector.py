"""`train mini-detector`: the center-heatmap detector that the evaluation counts things with."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.detector import RADIUS_UNIT, STRIDE, Detector
from ..command_line import launch, options_parser, provenance
from ..images import to_tensor
from ..loop import Loop
from .scenes import COLORS, SHAPES, sample_scene
from .shards import Images

SIZE = 128
LARGEST_RADIUS = 44


def training_view(rng: np.random.RandomState, base: Images, large: Images):
    """A 128 px view and its things as (shape, color, x, y, radius) in pixels: whole, shrunk with reflected borders, or a zoom crop."""
    if rng.rand() < 0.55:
        i = rng.randint(len(base))
        image, scene = base[i], sample_scene(base.seed(i))
        side = int(SIZE * rng.uniform(0.55, 1.0)) if rng.rand() < 0.5 else SIZE
        pad = (SIZE - side) // 2
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = cv2.copyMakeBorder(image, pad, SIZE - side - pad, pad, SIZE - side - pad, cv2.BORDER_REFLECT)
        x0 = y0 = -pad
    else:
        i = rng.randint(len(large))
        scene, side = sample_scene(large.seed(i)), int(rng.uniform(SIZE, 300))
        x0, y0 = rng.randint(0, side - SIZE + 1, 2)
        image = cv2.resize(large[i], (side, side), interpolation=cv2.INTER_AREA)[y0:y0 + SIZE, x0:x0 + SIZE]
    things = [(SHAPES.index(t.shape), list(COLORS).index(t.color), t.x * side - x0, t.y * side - y0, t.radius * side) for t in scene.things]
    image = image.astype(np.float32)
    if rng.rand() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.rand() < 0.5:
        image = image + rng.randn(*image.shape).astype(np.float32) * rng.uniform(0, 8)
    return image, things


def targets(things) -> tuple[np.ndarray, list]:
    """Heatmaps (8, 32, 32) and the attribute targets (row, column, color, log radius) at the centers."""
    cells = SIZE // STRIDE
    heat = np.zeros((len(SHAPES), cells, cells), np.float32)
    rows, columns = np.mgrid[:cells, :cells]
    attributes = []
    for shape, color, x, y, radius in things:
        if not (0 <= x < SIZE and 0 <= y < SIZE) or radius > LARGEST_RADIUS:
            continue
        cx, cy, spread = x / STRIDE - 0.5, y / STRIDE - 0.5, max(0.8, radius / STRIDE / 4)
        heat[shape] = np.maximum(heat[shape], np.exp(-((columns - cx) ** 2 + (rows - cy) ** 2) / (2 * spread * spread)))
        column, row = (int(np.clip(round(c), 0, cells - 1)) for c in (cx, cy))
        heat[shape, row, column] = 1
        attributes.append((row, column, color, math.log(radius / RADIUS_UNIT)))
    return heat, attributes


def losses(maps: torch.Tensor, wanted: list[tuple[np.ndarray, list]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the centers and of what stands at them, for the detector's maps and the `targets` of each."""
    heat = torch.from_numpy(np.stack([h for h, _ in wanted])).to(maps.device)
    shapes = heat.shape[1]
    p = maps[:, :shapes].sigmoid().clamp(1e-5, 1 - 1e-5)
    center = (heat == 1).float()
    focal = -(center * (1 - p) ** 2 * p.log() + (1 - center) * (1 - heat) ** 4 * p ** 2 * (1 - p).log()).sum() / center.sum().clamp(min=1)
    spots = [(b, *a) for b, (_, attributes) in enumerate(wanted) for a in attributes]
    b, row, column = (torch.tensor([s[i] for s in spots], device=maps.device) for i in range(3))
    at = maps[b, :, row, column]
    color = torch.tensor([s[3] for s in spots], device=maps.device)
    radius = torch.tensor([s[4] for s in spots], device=maps.device)
    return focal, F.cross_entropy(at[:, shapes:-1], color) + (at[:, -1] - radius).abs().mean()


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    base, large = Images(options.out / "scenes", "base"), Images(options.out / "scenes", "large")
    net = Detector().to(options.device, memory_format=torch.channels_last)
    loop = Loop("mini-detector", {"detector": net}, rank, options, lr=2e-3, warmup=50, ema=0.99)
    for step, generator in loop:
        rng = np.random.RandomState(torch.randint(1 << 31, (), generator=generator).item())
        views = [training_view(rng, base, large) for _ in range(options.batch)]
        wanted = [targets(things) for _, things in views]
        x = to_tensor(np.stack([image for image, _ in views])).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            maps = net(x)
        focal, attributes = losses(maps.float(), wanted)
        loop.update(focal + attributes, focal=focal.item(), attributes=attributes.item())
    if rank == 0:
        notes = {"shapes": ",".join(SHAPES), "colors": ",".join(COLORS), **provenance("mini-detector", options, loop.seconds)}
        file.save("detector", {k[9:]: v for k, v in loop.averaged().items()}, Metadata(notes=notes), options.save)


def main(argv: list[str]) -> None:
    launch(train, options_parser("mini-detector", __doc__, steps=1500, batch=24).parse_args(argv))
