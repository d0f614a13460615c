"""Types of the pack's own sockets."""

from comfy_api.latest import io

ImplicitDecoder = io.Custom("LOUPE_IMPLICIT_DECODER")
LSR = io.Custom("LOUPE_LSR")
Regions = io.Custom("LOUPE_REGIONS")
