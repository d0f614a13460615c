"""Images to learn from: those of a user's folder, what is skipped and why; made smaller, and as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageFile(NamedTuple):
    """A file, or a row of a stack of images (.npy, uint8 (N, H, W, 3))."""

    path: Path
    row: int | None = None

    def name(self, folder: Path) -> str:
        name = self.path.relative_to(folder).as_posix()
        return name if self.row is None else f"{name}#{self.row}"

    def read(self) -> np.ndarray:
        """uint8 RGB (H, W, 3), turned as its EXIF data says. Raises one of `UNREADABLE` for a damaged file."""
        if self.row is not None:
            return np.asarray(np.load(self.path, mmap_mode="r")[self.row])
        with Image.open(self.path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


class Folder(NamedTuple):
    usable: dict[str, ImageFile]
    unreadable: list[str]
    small: int


def scan(folder: Path, smallest: int) -> Folder:
    """The images under `folder`, by name in order, whose sides have at least `smallest` pixels."""
    if not folder.is_dir():
        raise SystemExit(f"--images {folder}: there is no such folder.")
    usable, unreadable, small = {}, [], 0
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*EXTENSIONS, ".npy")):
        try:
            images, side = _look(path)
        except UNREADABLE:
            unreadable.append(path.relative_to(folder).as_posix())
            continue
        if side < smallest:
            small += len(images)
        else:
            usable.update((image.name(folder), image) for image in images)
    return Folder(usable, unreadable, small)


def _look(path: Path) -> tuple[list[ImageFile], int]:
    """The images in a file and their smaller side, without decoding them."""
    if path.suffix.lower() == ".npy":
        shape = np.load(path, mmap_mode="r").shape
        if len(shape) != 4 or shape[3] != 3:
            raise ValueError
        return [ImageFile(path, row) for row in range(shape[0])], min(shape[1:3])
    with Image.open(path) as image:
        return [ImageFile(path)], min(image.size)


def report(folder: Path, found: Folder, smallest: int) -> None:
    """Say what was found; raises SystemExit when there is nothing to learn from."""
    for name in found.unreadable:
        print(f"skipped, cannot be read: {name}")
    if found.small:
        print(f"skipped, smaller than {smallest} pixels: {found.small} images")
    if not found.usable:
        if found.small:
            raise SystemExit(f"--images {folder}: none of its {found.small} images has {smallest} pixels on both sides. Use larger images, or a smaller --square.")
        raise SystemExit(f"--images {folder}: no readable images ({', '.join(EXTENSIONS)}, or .npy stacks of uint8 RGB) in it or below it.")
    print(f"{len(found.usable)} images to learn from")


def shrink_bicubic(image: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (H, W, 3) to (H / factor, W / factor, 3): antialiased bicubic (a = -0.5) with symmetric borders, values
    truncated to 8 bit, as in LSRNA's data preparation."""
    margin = 2 * factor
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
    y = F.interpolate(x, (padded.shape[0] // factor, padded.shape[1] // factor), mode="bicubic", antialias=True)
    return y[0, :, 2:-2, 2:-2].clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) to (side, side, 3) by area averages."""
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1], channels last."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def to_unit_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) to float (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
