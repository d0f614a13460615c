"""The LSR network under ComfyUI's memory manager."""

import os

import comfy.model_management
import comfy.utils
import torch

from ..latent_space import LatentSpace, latent_format
from ..loaded import Loaded, fitting_rows
from .file import load
from .network import LSR


class LatentUpscaler(Loaded[LSR]):
    """What a LOUPE_LSR socket carries: the network and the latent format of its file."""

    def __init__(self, network: LSR, space: LatentSpace | None, name: str):
        super().__init__(network, name, comfy.model_management.unet_offload_device())
        self.latent_format = latent_format(space, name)
        self.space = space

    @classmethod
    def from_file(cls, path: str, name: str | None = None) -> "LatentUpscaler":
        network, metadata = load(path)
        return cls(network, metadata.latents, name or os.path.basename(path))

    @property
    def pixels_per_cell(self) -> int:
        return self.latent_format.spacial_downscale_ratio

    def upscale(self, samples: torch.Tensor, height: int, width: int, socket: str = "samples") -> torch.Tensor:
        """Unscaled (B, C, ..., h, w) to (B, C, ..., height, width), image by image and frame by
        frame, float32 on ComfyUI's intermediate device. The same size returns `samples`."""
        if samples.shape[1] != self.space.channels:
            raise ValueError(f"{socket} has {samples.shape[1]} channels; {self.name} was trained on {self.space.name} latents with {self.space.channels}. Connect a latent of that kind or load another LSR file.")
        h, w = samples.shape[-2:]
        if (h, w) == (height, width):
            return samples
        network, device = self.network, self.device
        smallest = network.args["window"] // 2 + 1
        if min(h, w) < smallest:
            raise ValueError(f"{socket} is {w}x{h} latent cells; {self.name} needs at least {smallest} in each direction.")

        def memory(rows):
            return network.memory(h, w, height, width, rows)

        rows = network.chunk_rows(1, width, device)
        self.load(memory(rows))
        rows = fitting_rows(rows, memory, device)

        scaled = self.latent_format.process_in(samples.float())
        frames = scaled.movedim(1, -3).flatten(0, -4)
        bar = comfy.utils.ProgressBar(len(frames) * height)

        def progress(done, total):
            bar.update_absolute(i * total + done)
            comfy.model_management.throw_exception_if_processing_interrupted()

        out = frames.new_empty(*frames.shape[:2], height, width, device=comfy.model_management.intermediate_device())
        for i, frame in enumerate(frames):
            out[i] = network(frame[None].to(device), (height, width), rows, progress)[0]
        out = out.reshape(*scaled.movedim(1, -3).shape[:-2], height, width).movedim(-3, 1)
        return self.latent_format.process_out(out)
