"""`train mini-captioner`: the detector goes on with crops, whose border cuts things, and learns the ground."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ...models.files import Metadata
from ...models.mini import file
from ...models.mini.captioner import Captioner
from ...models.mini.detector import STRIDE
from ..command_line import launch, options_parser, provenance
from ..images import to_tensor
from ..loop import Loop
from .detector import SIZE, losses, targets
from .scenes import COLORS, GROUNDS, SHAPES, crop_sights, sample_scene
from .shards import Images

SEEN = 0.2  # share of a thing from which on it is to be found; those near the limit of a caption are told apart by their place


def crop_of(rng: np.random.RandomState, image: np.ndarray, x: float, y: float, side: float, pixels: int) -> np.ndarray:
    """That square of a 512 px image at `pixels`, as often as not by way of a small image, noisy or blurred."""
    if rng.rand() < 0.6:
        small = int(rng.uniform(112, 256))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    size = len(image)
    left, top, span = round(x * size), round(y * size), max(8, round(side * size))
    crop = image[top:top + span, left:left + span]
    shrinks = crop.shape[0] > pixels
    crop = cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC).astype(np.float32)
    if rng.rand() < 0.4:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.4))
    if rng.rand() < 0.4:
        crop = crop + rng.randn(*crop.shape).astype(np.float32) * rng.uniform(0, 8)
    return crop.clip(0, 255)


def training_view(rng: np.random.RandomState, large: Images):
    """A crop somewhere on gray, 128 px, where it is (in cells), its things as `detector.targets` takes them, and its ground."""
    i = rng.randint(len(large))
    scene = sample_scene(large.seed(i))
    side = 1.0 if rng.rand() < 0.2 else math.exp(rng.uniform(math.log(0.25), 0))
    pixels = STRIDE * rng.randint(32 // STRIDE, SIZE // STRIDE + 1)
    x, y = rng.uniform(0, 1 - side, 2) if side < 1 else (0.0, 0.0)
    if rng.rand() < 0.5:  # a thing at the border of the crop
        thing = scene.things[rng.randint(len(scene.things))]
        near = np.array([thing.x, thing.y]) - rng.rand(2) * side
        near[rng.randint(2)] += rng.uniform(-0.5, 0.5) * thing.radius
        x, y = near.clip(0, 1 - side)
    left, top = STRIDE * rng.randint(0, (SIZE - pixels) // STRIDE + 1, 2)
    view = np.full((SIZE, SIZE, 3), 127.5, np.float32)
    view[top:top + pixels, left:left + pixels] = crop_of(rng, large[i], x, y, side, pixels)
    inside = np.zeros((1, SIZE // STRIDE, SIZE // STRIDE), np.float32)
    inside[:, top // STRIDE:(top + pixels) // STRIDE, left // STRIDE:(left + pixels) // STRIDE] = 1
    things = [
        (SHAPES.index(s.shape), list(COLORS).index(s.color), left + s.x * pixels, top + s.y * pixels, s.wide * pixels)
        for s in crop_sights(scene, x, y, side) if s.share > SEEN * min(1, 4 * s.wide * s.high)
    ]
    return view, inside, things, GROUNDS.index(scene.ground)


def train(rank: int, options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    large = Images(options.out / "scenes", "large")
    net = Captioner()
    net.detector.load_state_dict({k: v.float() for k, v in file.load("detector")[0].items()})
    net = net.to(options.device, memory_format=torch.channels_last)
    loop = Loop("mini-captioner", {"captioner": net}, rank, options, lr=1e-3, warmup=50, ema=0.98)
    for step, generator in loop:
        rng = np.random.RandomState(torch.randint(1 << 31, (), generator=generator).item())
        views, insides, things, grounds = zip(*(training_view(rng, large) for _ in range(options.batch)))
        x = to_tensor(np.stack(views)).to(options.device)
        inside = torch.from_numpy(np.stack(insides)).to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            maps, ground = net(x, inside)
        focal, attributes = losses(maps.float(), [targets(each) for each in things])
        told = F.cross_entropy(ground.float(), torch.tensor(grounds, device=options.device))
        loop.update(focal + attributes + told, focal=focal.item(), attributes=attributes.item(), ground=told.item())
    if rank == 0:
        made = provenance("mini-captioner", options, loop.seconds)
        file.save("captioner", {k[10:]: v for k, v in loop.averaged().items()}, Metadata(notes=made), options.save)


def main(argv: list[str]) -> None:
    launch(train, options_parser("mini-captioner", __doc__, steps=1000, batch=24).parse_args(argv))
