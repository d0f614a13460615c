"""PNG files of a running training: the curves of its log, sheets of labeled images."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import torch

WIDTH, HEIGHT, MARGIN = 900, 180, 60
INK, LINE, PAPER = (60, 60, 60), (180, 90, 20), 255
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_png(path: Path, image: np.ndarray) -> None:
    """Write RGB or gray uint8 (H, W, 3). imencode and a Python file, because cv2 cannot open every path on Windows."""
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def text(image: np.ndarray, words: str, x: int, y: int) -> None:
    cv2.putText(image, words, (x, y), FONT, 0.42, INK, 1, cv2.LINE_AA)


def curve(name: str, steps: list[float], values: list[float]) -> np.ndarray:
    """One figure over the steps, (HEIGHT, WIDTH, 3), its range written at the left."""
    panel = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    low, high = min(values), max(values)
    right, bottom = WIDTH - 20, HEIGHT - 30
    cv2.rectangle(panel, (MARGIN, 25), (right, bottom), INK, 1)
    x = np.interp(steps, [0, max(steps)], [MARGIN, right])
    y = np.interp(values, [low, high], [bottom - 4, 29]) if high > low else np.full(len(values), (25 + bottom) / 2)
    points = np.stack([x, y], 1).round().astype(np.int32)
    cv2.polylines(panel, [points[:, None]], False, LINE, 1, cv2.LINE_AA)
    cv2.circle(panel, points[-1].tolist(), 3, LINE, -1, cv2.LINE_AA)
    text(panel, f"{name}: {values[-1]:.4g} at step {steps[-1]:.0f}", MARGIN, 17)
    text(panel, f"{high:.4g}", 5, 37)
    text(panel, f"{low:.4g}", 5, bottom)
    text(panel, "0", MARGIN, bottom + 18)
    text(panel, f"{max(steps):.0f}", right - 40, bottom + 18)
    return panel


def plot_log(log: Path, path: Path) -> None:
    """Every figure of a training's CSV log against its steps, one under the other."""
    with open(log, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    panels = []
    for name in rows[0]:
        # rows of a run that went on with other options may lack a figure
        values = {float(row["step"]): float(row[name]) for row in rows if row[name]}
        if name not in ("step", "seconds") and values:
            panels.append(curve(name, list(values), list(values.values())))
    write_png(path, np.concatenate(panels))


def sheet(path: Path, columns: dict[str, torch.Tensor]) -> None:
    """A row an image: each column's name above its images (B, 3, H, W) in [0, 1], all enlarged to the largest size."""
    height = max(images.shape[-2] for images in columns.values())
    width = max(images.shape[-1] for images in columns.values())
    strips = []
    for name, images in columns.items():
        head = np.full((24, width, 3), PAPER, np.uint8)
        text(head, name, 3, 16)
        cells = (images.detach().float().clamp(0, 1) * 255).round().byte().cpu().movedim(1, -1).numpy()
        strips.append(np.concatenate([head, *(cv2.resize(cell, (width, height), interpolation=cv2.INTER_NEAREST) for cell in cells)]))
    write_png(path, np.concatenate(strips, 1))
