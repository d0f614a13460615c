"""What nodes ask of their inputs before they work.

ComfyUI holds what a widget says to the node's schema, but not what comes by link.
"""

import functools
import inspect
from numbers import Integral, Real
from typing import Any

import torch

KINDS = {"INT": int, "FLOAT": float, "BOOLEAN": bool, "STRING": str, "COMBO": str}  # of widgets, by io type
ACCEPTED = {int: Integral, float: Real}


def checked(execute):
    """A node's `execute` that raises ValueError for values outside the node's schema, and for sockets that carry None."""
    assigned = inspect.signature(execute).bind

    @functools.wraps(execute)
    def checked_execute(cls, *args, **kwargs):
        given = assigned(cls, *args, **kwargs).arguments
        for declared in cls.define_schema().inputs:
            if declared.id in given:
                check_input(declared, given[declared.id])
        return execute(cls, *args, **kwargs)

    return checked_execute


def check_input(declared, value) -> None:
    """Raises ValueError where `value` is none for the input `declared` (io.Input). A lazy one may be left out."""
    if value is None and declared.lazy:
        return
    if declared.get_io_type() in KINDS:
        try:
            widget_value(declared, value)
        except ValueError as error:
            raise ValueError(f"{error} Change it, or what is connected to it.") from None
    elif value is None and not declared.optional:
        raise ValueError(
            f"{declared.id} is None; expected {declared.get_io_type()}. "
            "The node that it comes from gave nothing: connect another one."
        )


def widget_value(widget, value):
    """`value`, checked against the type, the range and the options of `widget` (io.Input)."""
    limits = {name: getattr(widget, limit, None) for name, limit in (("least", "min"), ("most", "max"), ("options", "options"))}
    return value_of(widget.id, value, KINDS[widget.get_io_type()], **limits)


def verdict(node, check, **values) -> bool | str:
    """What `validate_inputs` of `node` answers on widgets: True, or why `check(**values)` refuses them, which the browser
    then shows there before the run. A value of None comes by link and is left to the run.

    ComfyUI leaves ranges and options of these widgets to the node.
    """
    widgets = {declared.id: declared for declared in node.define_schema().inputs}
    try:
        for name, value in values.items():
            if value is not None:
                widget_value(widgets[name], value)
        if None not in values.values():
            check(**values)
    except ValueError as error:
        return str(error)
    return True


def value_of(name: str, value, kind: type, least=None, most=None, options=None) -> Any:
    """`value`, checked to be a `kind` from `least` to `most`, or one of `options`."""
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, ACCEPTED.get(kind, kind)):
        raise ValueError(f"{name} is {value!r:.60}; expected {kind.__name__}.")
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        raise ValueError(f"{name} is {value}; expected {least} to {most}.")
    if options is not None and value not in options:
        raise ValueError(f"{name} is {value!r:.60}; expected one of {', '.join(map(str, options))}.")
    return value


def check_image(image: torch.Tensor, socket: str, least: int = 1) -> None:
    """Raises ValueError where an IMAGE is not (B, H, W, C) with at least `least` pixels a side."""
    if image.ndim != 4 or not image.numel() or min(image.shape[1:3]) < least:
        raise ValueError(
            f"{socket} has the shape {tuple(image.shape)}; expected images, heights, widths and colors with at least "
            f"{least} x {least} pixels. Connect a larger image."
        )


def rgb(image: torch.Tensor, socket: str, least: int = 1) -> torch.Tensor:
    """The colors of an IMAGE, (B, H, W, 3): gray three times, alpha left out. Raises as `check_image` does."""
    check_image(image, socket, least)
    if image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{socket} has {image.shape[-1]} channels; expected 1 (gray), 3 (RGB) or 4 (with alpha). Convert the image."
        )
    if not image.is_floating_point() or not image.isfinite().all():
        raise ValueError(
            f"{socket} holds values of {image.dtype} that are no colors; expected 0 to 1, without NaN or infinity. "
            "Look at the node that it comes from."
        )
    return image[..., :3].expand(*image.shape[:-1], 3)
