"""Sizes in pixels, as nodes and the page take them, and what they are in latent cells."""

from typing import NamedTuple

from .families import family_of
from .views import patch_size

PIXELS_PER_CELL = 8  # where nothing says
LEAST, MOST = 64, 65536  # pixels to the side of a region


class Grid(NamedTuple):
    """What a side in pixels is in latents. pixels_per_cell: to the side of a cell; patch: cells to the side of a token;
    native: pixels to the native side of the model, None where none is known."""

    pixels_per_cell: int = PIXELS_PER_CELL
    patch: int = 1
    native: int | None = None

    @classmethod
    def of(cls, model) -> "Grid":
        """Of the latents and the network of `model` (BaseModel)."""
        return cls(model.latent_format.spacial_downscale_ratio, patch_size(model.diffusion_model), family_of(model).native)

    @classmethod
    def of_latent(cls, latent: dict) -> "Grid":
        """Of a LATENT alone, which may say nothing."""
        return cls(latent.get("downscale_ratio_spacial") or PIXELS_PER_CELL)

    def cells(self, name: str, pixels: int, multiple: int = 1) -> int:
        """Cells of the input `name`, rounded down to a `multiple`, at least one; 0 pixels are the native side.

        Where regions may cover the canvas, whole tokens are left to `RegionLayout.from_overlap`, which knows it.
        Raises ValueError for sizes that no region has.
        """
        if not pixels and self.native is None:
            raise ValueError(f"{name} is 0, the model's native side; expected a model to be connected, or a size. Connect model, or type a size in pixels.")
        if pixels and not LEAST <= pixels <= MOST:
            zero = f"0 (the model's native side, {self.native}) or " if self.native else ""
            raise ValueError(f"{name} is {pixels} pixels; expected {zero}{LEAST} to {MOST}. Type another size in pixels.")
        return max((pixels or self.native) // self.pixels_per_cell // multiple, 1) * multiple
