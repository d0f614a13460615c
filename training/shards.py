"""Training data on disk: safetensors shards that are written once, in any order, by any rank, and read by slices."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from .images import UNREADABLE, ImageFile

IMAGES_PER_SHARD = 32


class Entry(NamedTuple):
    """One square of an image: its shard, the prefix of its tensors' names there, and what `make` said about it."""

    shard: int
    key: str
    facts: dict


class Shards:
    """`folder/index.json` says how the data were made and which images each shard holds; `folder/NNNNN.safetensors`
    holds the tensors, and its metadata the entries. A shard that exists is kept. Images that came to the user's
    folder later get shards of their own."""

    def __init__(self, folder: Path, settings: dict):
        self.folder, self.settings, self.handles = folder, settings, {}
        self.entries: list[Entry] = []

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.safetensors"

    def prepare(self, images: dict[str, ImageFile], make: Callable, rank: int = 0, ranks: int = 1) -> None:
        """Write what is missing: `make(image, uint8 (H, W, 3))` yields (facts, tensors) for each square of an image."""
        plan = self._plan(list(images), rank, ranks)
        missing = [shard for shard in range(rank, len(plan), ranks) if not self.path(shard).exists()]
        with tqdm(total=sum(len(plan[shard]) for shard in missing), desc="encoding", unit="image", disable=rank > 0 or not missing) as bar:
            for shard in missing:
                self._write(shard, plan[shard], images, make, bar)
        if ranks > 1:
            dist.barrier()
        for shard in range(len(plan)):
            with safe_open(self.path(shard), "pt") as f:
                self.entries += [Entry(shard, key, facts) for key, facts in json.loads(f.metadata()["entries"]).items()]

    def read(self, entry: Entry, name: str, window: tuple[slice, ...] = ()) -> torch.Tensor:
        """The tensor `name` of an entry, or the part of it inside `window`."""
        if entry.shard not in self.handles:
            self.handles[entry.shard] = safe_open(self.path(entry.shard), "pt")
        return self.handles[entry.shard].get_slice(f"{entry.key}.{name}")[window or ...]

    def _plan(self, names: list[str], rank: int, ranks: int) -> list[list[str]]:
        index = self.folder / "index.json"
        if rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {"settings": self.settings, "shards": []}
            self._check(known["settings"])
            old = {name for shard in known["shards"] for name in shard}
            new = [name for name in names if name not in old]
            known["shards"] += [new[i:i + IMAGES_PER_SHARD] for i in range(0, len(new), IMAGES_PER_SHARD)]
            partial = index.with_suffix(".partial")
            partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
            os.replace(partial, index)
        if ranks > 1:
            dist.barrier()
        return json.loads(index.read_text(encoding="utf-8"))["shards"]

    def _check(self, before: dict) -> None:
        if different := [key for key in self.settings if before.get(key) != self.settings[key]]:
            said = ", ".join(f"{key} {before.get(key)} (now {self.settings[key]})" for key in different)
            raise SystemExit(f"{self.folder} holds data made with {said}. Name another --data folder, or delete this one.")

    def _write(self, shard: int, names: list[str], images: dict[str, ImageFile], make: Callable, bar: tqdm) -> None:
        entries, tensors = {}, {}
        for name in names:
            bar.update()
            if name not in images:
                continue  # taken away before its shard was written
            try:
                pixels = images[name].read()
            except UNREADABLE:
                bar.write(f"skipped, cannot be read: {name}")
                continue
            for facts, parts in make(name, pixels):
                key = str(len(entries))
                entries[key] = {"image": name, **facts}
                tensors.update((f"{key}.{part}", value.contiguous()) for part, value in parts.items())
        partial = self.path(shard).with_suffix(".partial")
        save_file(tensors, partial, {"entries": json.dumps(entries)})
        os.replace(partial, self.path(shard))
