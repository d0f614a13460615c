"""What benchmarks have measured, kept in benchmarks/cache/results.json and never measured twice.

By world and its weights, then by arm (one way to make an image) and scale: metric -> one number an image, in the order of
the held-out scenes, seed after seed. An arm of other weights or of another RESULTS starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..models.mini import file

PATH = Path(__file__).parent / "cache" / "results.json"
RESULTS = 1  # goes up when a method, a sampler or a metric gives other numbers than before

Values = dict[str, list[float]]


def key_of(arm: object) -> str:
    """A dataclass as a call with what differs from its defaults, so that new fields leave old keys as they are."""
    changed = [f"{field.name}={getattr(arm, field.name)!r}" for field in fields(arm) if getattr(arm, field.name) != field.default]
    return f"{type(arm).__name__}({', '.join(changed)})"


def name_of(arm: object, scale: int) -> str:
    return f"{key_of(arm)} @ {scale}x"


def arrays(results: dict[str, Values], arm: object, scale: int, metrics: Sequence[str], most: int | None = None) -> dict[str, np.ndarray]:
    """What is known of all `metrics`, of the same first images."""
    found = results.get(name_of(arm, scale), {})
    count = min(len(found.get(metric, [])) for metric in metrics)
    return {metric: np.array(found.get(metric, [])[:count][:most]) for metric in metrics}


def digest(weights: Sequence[str]) -> str:
    """Of RESULTS and the bundled files `weights`."""
    found = hashlib.sha256(b"".join(file.path_of(name).read_bytes() for name in weights))
    found.update(str(RESULTS).encode())
    return found.hexdigest()[:16]


def read(path: Path = PATH) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


class Cache:
    def __init__(self, world: str, weights: Sequence[str], path: Path = PATH):
        self.path, self.world = path, world
        self.all = read(path)
        self.touched: set[str] = set()
        if self.all.get(world, {}).get("weights") != digest(weights):
            self.all[world] = {"weights": digest(weights), "results": {}}

    def of(self, arm: object, scale: int) -> Values:
        """To be added to, and written."""
        self.touched.add(name_of(arm, scale))
        return self.results.setdefault(name_of(arm, scale), {})

    @property
    def results(self) -> dict[str, Values]:
        """By `name_of`."""
        return self.all[self.world]["results"]

    def write(self) -> None:
        """Leaves what other runs have written since, of other arms."""
        found = read(self.path)
        mine = self.all[self.world]
        if found.get(self.world, {}).get("weights") == mine["weights"]:
            mine["results"] = found[self.world]["results"] | {name: self.results[name] for name in self.touched}
        self.all = found | {self.world: mine}
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(compact(self.all), encoding="utf-8")
        os.replace(partial, self.path)


def compact(value) -> str:
    """JSON, a list in one line."""
    text = json.dumps(value, indent=1)
    lines, inside = [], False
    for line in text.split("\n"):
        lines.append(line.strip() if inside else ("\n" + line))
        inside = line.rstrip().endswith("[") or (inside and "]" not in line)
    return "".join(lines).lstrip("\n") + "\n"
