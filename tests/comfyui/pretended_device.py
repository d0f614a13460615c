"""A second device, made of tensors on the CPU: it refuses what a GPU refuses, and counts what makes the host wait for one.

It is the strictest of them all: it takes no tensors of the CPU, has no autocast (DirectML), no float64 and no pooling to
sizes that are no divisors (Apple), and nothing whose order is not fixed (CUDA with deterministic algorithms).
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from comfy import model_management
from comfy.cli_args import args as options
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE, CPU = torch.device("privateuseone", 0), torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("engine", "patches", "methods", "models", "nodes")

MOVES = {"to", "cpu", "tensor", "as_tensor", "copy_"}
WAITS = {"__bool__", "__float__", "__int__", "__index__", "__format__", "__contains__", "item", "tolist", "nonzero", "argwhere", "masked_select", "equal", "allclose", "unique"}
REFUSED = {"numpy", "__array__"}
UNORDERED = {"index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"}
INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}  # indices of the CPU are let in


class Pretended(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl  # PretendedDevice sees every call


class PretendedDevice(TorchFunctionMode):
    """While it is entered. waits: places of the pack, "room/file.py:line", where the host stands still for a value of
    the device, with how often; copies: where it does for a tensor on its way there. Of the pack's own; not ComfyUI's."""

    def __init__(self):
        super().__init__()
        self.waits, self.copies = Counter(), Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func is torch.device or name == "_parse_to":
            return func(*args, **kwargs)
        if name == "__get__" and func.__self__ is torch.Tensor.device:
            return DEVICE if isinstance(args[0], Pretended) else func(*args)
        leaves, tree = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
        if name == "_has_compatible_shallow_copy_type" and len(here) == 1:
            return False  # modules that move get new parameters
        if here and _place() is not None:
            _refuse(name, args, kwargs)
        if here and name in REFUSED:
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")

        source, target = bool(here), _target(name, args, leaves, here)
        if name in MOVES:
            source = bool(here) and (name != "copy_" or isinstance(args[1], Pretended))
            if source != target and not (kwargs.get("non_blocking") or name != "tensor" and any(value is True for value in args[2:])):
                self._count(self.waits if source else self.copies)
        elif name in INDEXING:
            self._index(func, args)
        elif here:
            if any(not isinstance(tensor, Pretended) and tensor.ndim for tensor in tensors):
                raise RuntimeError(f"Expected all tensors to be on the same device, but {name} has some on {DEVICE} and some on the CPU")
            if name in WAITS or name == "where" and len(tensors) == 1 or name == "repeat_interleave" and len(tensors) == 2:
                self._count(self.waits)

        if any(map(_is_device, leaves)):
            args, kwargs = tree_unflatten([CPU if _is_device(leaf) else leaf for leaf in leaves], tree)
        out = func(*args, **kwargs)
        if name in MOVES and name != "copy_" and source != target:
            out = out.as_subclass(torch.Tensor).clone()  # no memory is shared between devices
        if not target:
            return out.as_subclass(torch.Tensor) if isinstance(out, Pretended) else out
        pretended = lambda made: made if isinstance(made, Pretended) else made.as_subclass(Pretended)
        return tree_map_only(torch.Tensor, pretended, out, is_leaf=lambda part: isinstance(part, torch.Size))

    def _index(self, func, args):
        """Indexing by masks waits, by tensors of the CPU copies; a value of the CPU is copied to a place without them."""
        keys = [leaf for leaf in tree_flatten(args[1])[0] if isinstance(leaf, torch.Tensor)]
        if not isinstance(args[0], Pretended):
            if any(isinstance(key, Pretended) for key in keys):
                raise RuntimeError(f"indices should be on the CPU, as the indexed tensor is, and not on {DEVICE}")
            if len(args) > 2 and isinstance(args[2], Pretended):
                self._count(self.waits)
            return
        if any(isinstance(key, Pretended) and key.dtype in (torch.bool, torch.uint8) for key in keys):
            self._count(self.waits)
        value = args[2] if len(args) > 2 else None
        foreign = isinstance(value, torch.Tensor) and not isinstance(value, Pretended) and value.ndim
        if foreign and keys:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func.__name__} has some on {DEVICE} and some on the CPU")
        if foreign or any(not isinstance(key, Pretended) for key in keys):
            self._count(self.copies)

    def _count(self, kind):
        place = _place()
        if place is not None:
            kind[place] += 1


def _refuse(name, args, kwargs):
    """What some GPUs do not have."""
    if name in UNORDERED:
        raise RuntimeError(f"{name} does not have a deterministic implementation")
    if any(value is torch.float64 for value in (*args, *kwargs.values())):
        raise TypeError("the device does not support float64")
    size = args[1:2] or [kwargs.get("size", kwargs.get("output_size"))]
    if name.startswith("adaptive_avg_pool") or name == "interpolate" and kwargs.get("mode") == "area":
        sides = size[0] if isinstance(size[0], (tuple, list, torch.Size)) else size
        if any(own % side for own, side in zip(args[0].shape[-len(sides) :], sides)):
            raise RuntimeError("Adaptive pool: input sizes must be divisible by output sizes")


def _target(name, args, leaves, here):
    """Whether what comes out is on the pretended device."""
    if name == "cpu":
        return False
    if name in ("copy_", *INDEXING):
        return isinstance(args[0], Pretended)
    if name == "to" and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return isinstance(args[1], Pretended)
    asked = next(filter(_is_device, leaves), None)
    return bool(here) and name != "tensor" if asked is None else torch.device(asked) == DEVICE


def _is_device(leaf):
    return isinstance(leaf, torch.device) or isinstance(leaf, str) and leaf in ("cpu", str(DEVICE))


def _place():
    """Where in the pack the running operation was asked for; None where ComfyUI asks."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and "site-packages" not in path.parts:
            inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS
            return f"{path.relative_to(ROOT).as_posix()}:{frame.f_lineno}" if inside else None
        frame = frame.f_back


STATES = {"normal": model_management.VRAMState.NORMAL_VRAM, "novram": model_management.VRAMState.NO_VRAM, "gpu_only": model_management.VRAMState.HIGH_VRAM}


@contextmanager
def pretended_device(state="normal"):
    """ComfyUI finds the pretended device in this machine, and runs as it would with --novram or --gpu-only in those states."""
    of_the_machine = model_management.get_free_memory

    def room(device=None, torch_free_too=False):
        free = of_the_machine(CPU) if device == CPU else 8 * 2**30
        return (free, free) if torch_free_too else free

    new = {
        "cpu_state": model_management.CPUState.GPU,
        "vram_state": STATES[state],
        "is_nvidia": lambda: False,
        "get_torch_device": lambda: DEVICE,
        "get_free_memory": room,
        "get_total_memory": room,
        "should_use_fp16": lambda *args, **kwargs: False,
        "should_use_bf16": lambda *args, **kwargs: False,
    }
    with mock.patch.multiple(model_management, **new), mock.patch.multiple(options, cpu=False, gpu_only=state == "gpu_only"), PretendedDevice() as device:
        model_management.current_loaded_models.clear()
        try:
            yield device
        finally:
            model_management.current_loaded_models.clear()
