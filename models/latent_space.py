"""The latents that a network was trained on."""

from typing import NamedTuple


class LatentSpace(NamedTuple):
    """name: a class of comfy.latent_formats, or any word beside a scale factor of its own (scaled = unscaled * scale_factor)."""

    name: str
    channels: int
    scale_factor: float | None = None


def latent_format(space: LatentSpace | None, name: str):
    """ComfyUI's latent format for the space of the file `name`.

    Raises ValueError naming the file when it tells no space, or one that this ComfyUI does not know.
    """
    import comfy.latent_formats  # reading a file needs no ComfyUI

    if space is None:
        raise ValueError(f"{name} does not say which latents it was trained on. Choose another file, or train it again.")
    if space.scale_factor is not None:
        latent = comfy.latent_formats.LatentFormat()
        latent.scale_factor, latent.latent_channels = space.scale_factor, space.channels
        return latent
    known = vars(comfy.latent_formats).get(space.name)
    if not isinstance(known, type) or not issubclass(known, comfy.latent_formats.LatentFormat):
        raise ValueError(f"{name} was trained on {space.name!r} latents, which this ComfyUI does not know. Update ComfyUI or load another file.")
    latent = known()
    if latent.latent_channels != space.channels:
        raise ValueError(f"{name} has weights for {space.channels} latent channels; {space.name} latents have {latent.latent_channels}. The file is damaged or mislabeled.")
    return latent
