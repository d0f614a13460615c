"""The last feature map of a VAE's decoder, beside the image that it makes of it."""

from typing import NamedTuple

import torch
from torch import nn

from ..mini.vae import MiniVAE


class Decoded(NamedTuple):
    """features (B, C, h, w) of one decoding; image (B, 3, H, W) in about [-1, 1], None where there is
    no image but the head's."""

    features: torch.Tensor
    image: torch.Tensor | None


def is_wan(autoencoder: nn.Module) -> bool:
    """Whether this is a video VAE of Wan's layout: Wan 2.1's, which is Qwen-Image's, ends in `decoder.head`."""
    head = getattr(getattr(autoencoder, "decoder", None), "head", None)
    return isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Conv3d)


def last_layer(autoencoder: nn.Module) -> nn.Conv2d | nn.Conv3d:
    """The convolution that turns the last features into an image.

    Raises ValueError for autoencoders other than the AutoencoderKL family (SD 1.5, SDXL, SD3, Flux),
    Qwen-Image's and the mini world's.
    """
    if isinstance(autoencoder, MiniVAE):
        return autoencoder.decoder[-2]
    decoder = getattr(autoencoder, "decoder", None)
    conv = decoder.head[-1] if is_wan(autoencoder) else getattr(decoder, "conv_out", None)
    known = is_wan(autoencoder) or (hasattr(decoder, "norm_out") and isinstance(conv, nn.Conv2d))
    if not known or conv.out_channels != 3:
        raise ValueError(f"The VAE ({type(autoencoder).__name__}) has no feature map that an implicit decoder can read. Use an image VAE of the AutoencoderKL family (SD 1.5, SDXL, SD3, Flux) or Qwen-Image's, not another video VAE, an audio or a tiny (TAESD) one.")
    return conv


def decode(autoencoder: nn.Module, z: torch.Tensor) -> Decoded:
    """`autoencoder.decode(z)` of unscaled latents z (B, C, h, w), and the features before its last activation.

    All but the mini world's are normalized there: what comes before has an arbitrary scale, too large for
    half precision in SDXL's. Of a video VAE it is a single frame.
    """
    last_layer(autoencoder)
    if isinstance(autoencoder, MiniVAE):
        features = autoencoder.decoder[:-3](z)
        return Decoded(features, autoencoder.decoder[-3:](features))
    video = is_wan(autoencoder)
    norm = autoencoder.decoder.head[0] if video else autoencoder.decoder.norm_out
    seen = []
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        image = autoencoder.decode(z[:, :, None] if video else z)
    finally:
        handle.remove()
    return Decoded(seen[0][:, :, 0], image[:, :, 0]) if video else Decoded(seen[0], image)


def signature(autoencoder: nn.Module) -> torch.Tensor:
    """Sixteen weights of the last layer, float32 on the CPU, by which a head knows its VAE."""
    weight = last_layer(autoencoder).weight.detach().flatten()
    return weight[:: weight.numel() // 16][:16].float().cpu()
