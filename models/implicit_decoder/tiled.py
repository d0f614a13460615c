"""Feature maps of latents too large to decode in one call."""

from collections.abc import Callable

import torch

from ...methods.regions import Region, axis_starts
from .tap import Decoded


def tile_count(height: int, width: int, tile: int, overlap: int) -> int:
    """How many tiles cover a latent; see `decode_tiled`."""
    return len(axis_starts(height, tile, tile - overlap)) * len(axis_starts(width, tile, tile - overlap))


def decode_tiled(decode: Callable[[torch.Tensor], Decoded], z: torch.Tensor, tile: int, overlap: int, device: torch.device | str, progress: Callable[[], None]) -> Decoded:
    """`decode(z)` of z (B, C, h, w), in square tiles of `tile` latent cells that share `overlap` cells.

    The tiles' features and images are put together on `device`, in float32; a latent that fits one
    tile is decoded as it is. progress() is called after each tile.
    """
    size = z.shape[-2:]
    starts = [axis_starts(length, tile, tile - overlap) for length in size]
    stitched: list[tuple[torch.Tensor, int, list[torch.Tensor], list[torch.Tensor]]] = []
    for i, y in enumerate(starts[0]):
        for j, x in enumerate(starts[1]):
            region = Region(y, x, min(tile, size[0]), min(tile, size[1]))
            part = decode(region.crop(z))
            progress()
            if len(starts[0]) == len(starts[1]) == 1:
                return part
            pieces = [piece.float() for piece in part if piece is not None]
            if not stitched:
                for piece in pieces:
                    scale = piece.shape[-1] // region.width
                    canvas = torch.zeros(*piece.shape[:2], size[0] * scale, size[1] * scale, device=device)
                    stitched.append((canvas, scale, *(axis_windows(length * scale, tile * scale, overlap * scale) for length in size)))
            for piece, (canvas, scale, rows, columns) in zip(pieces, stitched):
                window = (rows[i][:, None] * columns[j]).to(piece.device)
                Region(y * scale, x * scale, *piece.shape[-2:]).crop(canvas).add_((piece * window).to(device))
    return Decoded(*(canvas for canvas, *_ in stitched), *[None] * (2 - len(stitched)))


def axis_windows(length: int, tile: int, overlap: int) -> list[torch.Tensor]:
    """Weights of the tiles along one axis, which add up to one everywhere.

    The outer three eighths of an overlap, where a tile has seen its own border, weigh nothing; in the
    middle quarter one tile fades into the next.
    """
    starts = axis_starts(length, tile, tile - overlap)
    tile = min(tile, length)
    center = torch.arange(tile) + 0.5
    total, windows = torch.zeros(length), []
    for start in starts:
        inside = torch.full((tile,), torch.inf)
        if start > 0:
            inside = torch.minimum(inside, center)
        if start + tile < length:
            inside = torch.minimum(inside, tile - center)
        windows.append(((inside - overlap * 3 / 8) / max(overlap / 4, 1e-6)).clamp(0, 1))
        total[start : start + tile] += windows[-1]
    return [window / total[start : start + tile] for start, window in zip(starts, windows)]
