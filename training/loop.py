"""What every training run shares: schedule, EMA, checkpoints, log, plot, a clean stop, the mean over ranks."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Iterator

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from .plots import plot_log

STOPPED = 130  # exit status of a run that was asked to stop


class Loop:
    """AdamW with warm-up and cosine decay, gradient clipping, EMA weights, resumable checkpoints and a CSV log.

    Iterate to get `(step, generator)`; the generator depends on seed, rank and step only, so that a resumed run draws
    what an uninterrupted one would. Call `update(loss, **figures)` once per step; gradients of `backward()` calls
    before it in the step add up. Ctrl-C and SIGTERM end the run after the current step with a checkpoint and exit
    status 130; a second Ctrl-C ends it at once. ema=0 keeps no average, clip=None leaves gradients as they are.
    tensorboard writes the log's figures to `NAME.tensorboard/` as well.
    """

    def __init__(self, name: str, modules: dict[str, nn.Module], rank: int, options: argparse.Namespace, *, lr: float,
                 weight_decay: float = 1e-4, warmup: int = 100, hold: float = 0.0, floor: float = 0.02, ema: float = 0.998,
                 betas: tuple[float, float] = (0.9, 0.99), clip: float | None = 1.0, log_every: int = 100, tensorboard: bool = False):
        self.name, self.modules, self.rank, self.options = name, modules, rank, options
        self.lr, self.warmup, self.hold, self.floor, self.decay, self.clip, self.log_every = lr, warmup, hold, floor, ema, clip, log_every
        self.named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
        self.parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds, self.figures, self.stopping = 0, 0.0, [], False
        self.minutes = getattr(options, "minutes", None)
        self.path = options.out / f"{name}.checkpoint.pt"
        self.log_path = options.out / f"{name}.csv"
        self.board = _tensorboard(options.out / f"{name}.tensorboard") if tensorboard and rank == 0 else None
        if self.path.exists():
            self._resume()
        self.clock, self.started = self.seconds, time.monotonic()  # the clock is the same on all ranks, and so is what follows from it
        if options.ranks > 1:
            for p in self.parameters:
                dist.broadcast(p.data, 0)

    def progress(self) -> float:
        return self.clock / (60 * self.minutes) if self.minutes else self.step / self.options.steps

    def rate(self) -> float:
        share = max(0.0, (self.progress() - self.hold) / (1 - self.hold))
        return self.lr * min(1, (self.step + 1) / self.warmup) * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1, share))))

    def __iter__(self) -> Iterator[tuple[int, torch.Generator]]:
        bar = tqdm(total=None if self.minutes else self.options.steps, initial=self.step, desc=self.name, disable=self.rank > 0, mininterval=10)
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.progress() < 1 and not self.stopping:
                self.started = time.monotonic()
                seed = (self.options.seed * self.options.ranks + self.rank) * 10_000_000 + self.step
                yield self.step, torch.Generator().manual_seed(seed)
                self.seconds += time.monotonic() - self.started
                self.step += 1
                bar.update()
                last = self.progress() >= 1 or self.stopping
                if self.rank == 0 and (self.step % self.log_every == 0 or last):
                    self._log(bar)
                if self.rank == 0 and (self.step % self.options.save_every == 0 or last):
                    self.save()
        finally:
            bar.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.progress() < 1:
            if self.rank == 0:
                whole = f", minute {self.seconds / 60:.0f} of {self.minutes:g}" if self.minutes else f" of {self.options.steps}"
                print(f"{self.name}: stopped after step {self.step}{whole}. The same command goes on from there.", file=sys.stderr)
            sys.exit(STOPPED)

    def _stop(self, number, frame) -> None:
        self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def update(self, loss: torch.Tensor, **figures: float) -> None:
        value = loss.item()
        if not math.isfinite(value):
            raise SystemExit(f"{self.name}: the loss is {value} at step {self.step}. Nothing was written since the last checkpoint (--save-every {self.options.save_every}); try a lower --lr.")
        loss.backward()
        self.clock = self.seconds + time.monotonic() - self.started
        if self.options.ranks > 1:
            self._average_gradients()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            keep = min(self.decay, (1 + self.step) / (20 + self.step))
            torch._foreach_lerp_(self.average, self.parameters, 1 - keep)
        self.figures.append({"loss": value, **figures})

    def _average_gradients(self) -> None:
        # the last numbers ask every rank to stop after this step, and keep one time
        flat = torch.cat([*(p.grad.reshape(-1) for p in self.parameters), self.parameters[0].new_tensor([float(self.stopping), self.clock])])
        dist.all_reduce(flat)
        self.stopping, self.clock = flat[-2].item() > 0, flat[-1].item() / self.options.ranks
        flat = flat[:-2] / self.options.ranks
        for p, mean in zip(self.parameters, flat.split([p.numel() for p in self.parameters])):
            p.grad.copy_(mean.view_as(p))

    def _log(self, bar: tqdm) -> None:
        mean = {k: sum(f[k] for f in self.figures) / len(self.figures) for k in self.figures[0]}
        self.figures.clear()
        bar.set_postfix({k: f"{v:.4f}" for k, v in mean.items()})
        fresh = not self.log_path.exists()
        with open(self.log_path, "a", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            if fresh:
                writer.writerow(["step", "seconds", "lr", *mean])
            writer.writerow([self.step, f"{self.seconds:.1f}", f"{self.rate():.3g}", *(f"{v:.5f}" for v in mean.values())])
        if self.board is not None:
            for key, value in {"lr": self.rate(), **mean}.items():
                self.board.add_scalar(key, value, self.step)
            self.board.flush()

    def averaged(self) -> dict[str, torch.Tensor]:
        """The EMA weights, keyed `module.parameter`."""
        return dict(zip(self.named, self.average))

    def load_average(self) -> None:
        """Put the EMA weights into the modules."""
        with torch.no_grad():
            for p, average in zip(self.parameters, self.average):
                p.copy_(average)

    def save(self) -> None:
        state = {"weights": {k: p.detach() for k, p in self.named.items()}, "average": self.averaged(),
                 "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds}
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)
        if self.log_path.exists():
            plot_log(self.log_path, self.log_path.with_suffix(".png"))

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location=self.options.device)
        with torch.no_grad():
            for key, p, average in zip(self.named, self.parameters, self.average):
                p.copy_(state["weights"][key])
                average.copy_(state["average"][key])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def require_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise SystemExit("--tensorboard needs the package tensorboard: install it in the Python that trains, or leave the option away; the CSV log and the plot are always written.")


def _tensorboard(folder: Path):
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)
