"""Images of what a run will do."""

import torch

from ..methods.regions import RegionLayout

SIDE = 1024  # pixels


def draw(layout: RegionLayout) -> torch.Tensor:
    """Image (1, h, w, 3) of the regions: gray by the number of regions on a cell, outlines in turn
    orange, blue and green."""
    zoom = max(1, SIDE // max(layout.height, layout.width))
    count = torch.zeros(layout.height * zoom, layout.width * zoom)
    boxes = [[side * zoom for side in region] for region in layout.regions]
    for y, x, height, width in boxes:
        count[y : y + height, x : x + width] += 1
    image = (0.15 + 0.45 * count / count.max())[..., None].repeat(1, 1, 3)
    for i, (y, x, height, width) in enumerate(boxes):
        color = torch.tensor([(1.0, 0.6, 0.1), (0.3, 0.6, 1.0), (0.4, 0.9, 0.4)][i % 3])
        image[y : y + height, [x, x + width - 1]] = color
        image[[y, y + height - 1], x : x + width] = color
    return image[None]
