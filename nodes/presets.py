"""Presets of nodes: what they set their widgets to. Those of the samplers are measured in docs/cost.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from ..engine.sigmas import PAPER_SCHEDULE
from ..methods import latent_adjustment

CUSTOM = "custom"

Presets = Mapping[str, Mapping[str, Any]]

DEMOFUSION: Presets = {
    "balanced": {
        "mode": "direct", "steps": 8, "strength": 0.5, "noise_edges": 0.0, "overlap": 0.5, "blend": "gaussian", "jitter": True,
        "jitter_until": 0.5, "scheduler": "simple",
    },
    "fast": {
        "mode": "direct", "steps": 4, "strength": 0.5, "noise_edges": 0.0, "overlap": 0.25, "blend": "gaussian", "jitter": True,
        "jitter_until": 0.5, "scheduler": "simple",
    },
    "LSRNA paper": {
        "mode": "direct", "steps": 30, "strength": 0.6, "noise_edges": 1.2, "overlap": 0.5, "blend": "uniform", "jitter": True,
        "jitter_until": 1.0, "scheduler": PAPER_SCHEDULE,
    },
    "DemoFusion paper": {
        "mode": "progressive", "steps": 50, "strength": 1.0, "noise_edges": 0.0, "overlap": 0.5, "blend": "uniform", "jitter": True,
        "jitter_until": 1.0, "scheduler": PAPER_SCHEDULE,
    },
}

PIXELSMITH: Presets = {
    "balanced": {"steps": 8, "strength": 0.5, "order": "cover", "scheduler": "simple"},
    "fast": {"steps": 4, "strength": 0.5, "order": "cover", "scheduler": "simple"},
    "PixelSmith paper": {"steps": 50, "strength": 1.0, "order": "random", "scheduler": PAPER_SCHEDULE},
    "LSRNA paper": {"steps": 30, "strength": 0.6, "order": "random", "scheduler": PAPER_SCHEDULE},
}

LATENT_ADJUSTMENT: Presets = {name: {"alpha": alpha, "beta": beta} for name, (alpha, beta) in latent_adjustment.PRESETS.items()}


def preset_input(presets: Presets, tooltip: str) -> io.Input:
    """The browser writes a chosen preset into the widgets and locks them."""
    return io.Combo.Input("preset", options=[*presets, CUSTOM], default=next(iter(presets)), tooltip=tooltip, extra_dict={"presets": presets})


def default(presets: Presets, widget: str):
    """What `widget` shows before anyone chooses."""
    return next(iter(presets.values()))[widget]


def decided(presets: Presets, preset: str, widgets: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the `widgets` that presets decide; None is one that was not given.

    Raises ValueError where a widget was changed under a preset, which would not use it. The values of another preset may
    stand there: one that is named in a graph has no browser to write its own.
    """
    given = {name: value for name, value in widgets.items() if value is not None}
    if preset == CUSTOM or _any_of(presets.values(), given):
        return {**next(iter(presets.values())), **given, **presets.get(preset, {})}
    name = next(name for name, value in given.items() if not _same(presets[preset][name], value))
    raise ValueError(f"{name} is {given[name]}, but preset is '{preset}', which sets it to {presets[preset][name]}. Set preset to '{CUSTOM}' to use your own value.")


def _any_of(presets: Iterable[Mapping[str, Any]], widgets: Mapping[str, Any]) -> bool:
    return any(all(_same(preset[name], value) for name, value in widgets.items()) for preset in presets)


def _same(a, b) -> bool:
    return abs(a - b) < 1e-6 if isinstance(a, float) and isinstance(b, float | int) else a == b
