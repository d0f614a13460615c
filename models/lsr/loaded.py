"""The LSR network under ComfyUI's memory manager."""

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from . import LSR
from .file import LatentSpace, load


class LatentUpscaler:
    """What a LOUPE_LSR socket carries: the network and the latent format of its file."""

    def __init__(self, network: LSR, space: LatentSpace, name: str):
        self.name = name
        self.latent_format = latent_format(space, name)
        self.space = space
        # plain ModelPatcher: dynamic loading would stream comfy.ops layers, and spandrel's are torch.nn
        self.patcher = comfy.model_patcher.ModelPatcher(
            network,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    @classmethod
    def from_file(cls, path: str, name: str) -> "LatentUpscaler":
        return cls(*load(path), name)

    def upscale(self, samples: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Unscaled (B, C, ..., h, w) to (B, C, ..., height, width), picture by picture and frame by
        frame, float32 on ComfyUI's intermediate device. The same size returns `samples`."""
        if samples.shape[1] != self.space.channels:
            raise ValueError(f"samples has {samples.shape[1]} channels; {self.name} was trained on {self.space.name} latents with {self.space.channels}. Connect a latent of that kind or load another LSR file.")
        h, w = samples.shape[-2:]
        if (h, w) == (height, width):
            return samples
        network = self.patcher.model
        smallest = network.args["window"] // 2 + 1
        if min(h, w) < smallest:
            raise ValueError(f"samples is {w}x{h} latent cells; {self.name} needs at least {smallest} in each direction.")

        device = self.patcher.load_device
        rows = network.chunk_rows(1, width)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=network.memory(h, w, height, width, rows))
        network.to(device)  # ComfyUI leaves torch.nn layers behind when it loads a model in part
        while rows > 1 and network.memory(h, w, height, width, rows) > comfy.model_management.get_free_memory(device):
            rows //= 2

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


def latent_format(space: LatentSpace, name: str) -> comfy.latent_formats.LatentFormat:
    """ComfyUI's latent format for the latent space of the LSR file `name`."""
    if space.scale_factor is not None:
        latent = comfy.latent_formats.LatentFormat()
        latent.scale_factor, latent.latent_channels = space.scale_factor, space.channels
        return latent
    known = vars(comfy.latent_formats).get(space.name)
    if not isinstance(known, type) or not issubclass(known, comfy.latent_formats.LatentFormat):
        raise ValueError(f"{name} was trained on {space.name!r} latents, which this ComfyUI does not know. Update ComfyUI or load another LSR file.")
    latent = known()
    if latent.latent_channels != space.channels:
        raise ValueError(f"{name} has weights for {space.channels} latent channels; {space.name} latents have {latent.latent_channels}. The file is damaged or mislabelled.")
    return latent
