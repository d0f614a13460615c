"""Pairs for arbitrary-scale upsampling on the mini world: latents of 256 px images and of their low-resolution versions.

As in the paper (Kim & Kim, CVPR 2024) the low-resolution image is resized (bilinear) to the size of the
high-resolution one and encoded by the same autoencoder. Its true side is drawn between 64 and 128 px for each image.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from ..images import shrink, to_tensor
from .denoiser import encode, load_vae
from .scenes import caption, crop_caption, mirrored, sample_scene
from .shards import Images
from .text import Vocabulary

SIDE = 256  # pixels; 32 x 32 latent cells
LOW_SIDES = (64, 128)
VIEWS = 4  # of a scene: as it is, mirrored, two zoom crops
WITHOUT_CAPTION = 0.2
WITHOUT_IMAGE = 0.1


def low_resolution(image: np.ndarray, side: int) -> np.ndarray:
    """The image reduced to `side` (area average) and enlarged again (bilinear), as the encoder gets it."""
    return cv2.resize(shrink(image, side), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def views(image: np.ndarray, seed: int):
    """A 512 px scene as `VIEWS` 256 px images, each as (image, side, y, x, full caption, visible caption)."""
    rng, scene = np.random.RandomState(seed), sample_scene(seed)
    whole, words = shrink(image, SIDE), caption(scene)
    yield whole, SIDE, 0, 0, words, words
    yield whole[:, ::-1], SIDE, 0, 0, mirrored(words), mirrored(words)
    for _ in range(VIEWS - 2):
        side = 8 * rng.randint(SIDE // 8 + 1, 65)
        y, x = rng.randint(0, side - SIDE + 1, 2)
        crop = shrink(image, side)[y:y + SIDE, x:x + SIDE]
        yield crop, side, y, x, words, crop_caption(scene, x / side, y / side, SIDE / side)


def prepare(options) -> None:
    """Encode the large images and their low-resolution versions once to `arbitrary.safetensors`."""
    path = options.out / "arbitrary.safetensors"
    if path.exists():
        return
    torch.set_num_threads(1)
    vae, scale = load_vae()
    vae.to(options.device)
    large = Images(options.out / "scenes", "large")
    high, low, places, full, visible = [], [], [], [], []
    for i in tqdm(range(min(options.count, len(large))), desc="encoding", mininterval=10):
        images, *told = zip(*views(large[i], large.seed(i)))
        sides = np.random.RandomState(large.seed(i) + 1).randint(LOW_SIDES[0], LOW_SIDES[1] + 1, len(images))
        reduced = [low_resolution(image, side) for image, side in zip(images, sides)]
        z = encode(vae, [*images, *reduced], options.device).mul(scale).half()
        high.append(z[:len(images)])
        low.append(z[len(images):])
        places += zip(*told[:3])
        full += told[3]
        visible += told[4]
    vocabulary = Vocabulary()
    tensors = {
        "high": torch.cat(high), "low": torch.cat(low), "place": torch.tensor(places),
        "rows": vocabulary.rows(full), "visible_rows": vocabulary.rows(visible), "empty_rows": vocabulary.rows([""]),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def gather(data: dict[str, torch.Tensor], i: torch.Tensor, g: torch.Generator):
    """Latents and low-resolution latents (B, 4, 32, 32), caption rows (B, 32), sizes (B, 6) as in `mini-unet`, of the pairs `i`."""
    count = len(i)
    either = torch.rand(count, 1, generator=g) < 0.5
    rows = torch.where(either, data["rows"][i], data["visible_rows"][i])
    rows = torch.where(torch.rand(count, 1, generator=g) < WITHOUT_CAPTION, data["empty_rows"], rows)
    seen = torch.rand(count, 1, 1, 1, generator=g) >= WITHOUT_IMAGE
    side, y, x = data["place"][i].T
    target = torch.where(torch.rand(count, generator=g) < 0.5, side, SIDE)
    return data["high"][i].float(), data["low"][i].float() * seen, rows, torch.stack([side, side, y, x, target, target], 1)


def draw(data: dict[str, torch.Tensor], count: int, g: torch.Generator):
    """`gather` of random pairs."""
    return gather(data, torch.randint(len(data["high"]), (count,), generator=g), g)


def draw_whole(data: dict[str, torch.Tensor], count: int, g: torch.Generator):
    """Random pairs of whole scenes only: their indices, and `gather`'s tensors."""
    scene, flip = torch.randint(len(data["high"]) // VIEWS, (count,), generator=g), torch.randint(2, (count,), generator=g)
    return VIEWS * scene + flip, *gather(data, VIEWS * scene + flip, g)


def target(images: Images, i: int, side: int) -> torch.Tensor:
    """The true image (1, 3, side, side) in [-1, 1] of a pair that `draw_whole` names."""
    image = shrink(images[i // VIEWS], side)
    return to_tensor((image[:, ::-1] if i % VIEWS else image)[None])
