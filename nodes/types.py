"""Types of the pack's own sockets."""

from comfy_api.latest import io

LSR = io.Custom("LOUPE_LSR")
Regions = io.Custom("LOUPE_REGIONS")
