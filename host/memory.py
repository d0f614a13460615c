"""Which functions remember something from one call to the next, read from their code."""

import collections
import dis
import functools
import types
from collections.abc import Callable

from comfy.patcher_extension import WrappersMP

GUIDANCE = ("sampler_cfg_function", "sampler_calc_cond_batch_function")
NOTHING = ("", None)
STORES = ("STORE_ATTR", "STORE_SUBSCR")
ADDING = ("append", "extend", "update", "add", "insert", "setdefault")
ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
GUIDANCE_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")


def top_module(thing) -> str:
    """Name of the module that a callable or object comes from."""
    thing = _plain(thing)
    return (thing.__module__ if isinstance(thing, (types.FunctionType, type)) else type(thing).__module__) or ""


def name_of(thing) -> str:
    """What a person would call a callable or object: its class, or its function with the one around it."""
    thing = _plain(thing)
    if isinstance(thing, types.FunctionType):
        return thing.__qualname__.replace(".<locals>", "")
    return type(thing).__name__


def _plain(thing):
    while isinstance(thing, (functools.partial, types.MethodType)):
        thing = thing.func if isinstance(thing, functools.partial) else thing.__self__
    return thing


def code_of(thing) -> types.CodeType | None:
    """Code that runs when `thing` is called."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, types.MethodType):
        thing = thing.__func__
    elif not isinstance(thing, types.FunctionType):
        thing = getattr(type(thing), "__call__", None)
    return getattr(thing, "__code__", None)


def written(thing) -> set[int]:
    """Ids of the cells and objects outside itself in which a call of `thing` leaves something."""
    code, cells, holder = code_of(thing), _cells(thing), _plain(thing)
    found, loads = set(), []
    for instruction in dis.get_instructions(code) if code else ():
        if instruction.opname == "STORE_DEREF" and instruction.argval in cells:
            found.add(id(cells[instruction.argval]))
        elif instruction.opname in STORES:
            kind, name = _loaded(loads[: _target(loads, instruction.opname)])
            if kind == "LOAD_DEREF" and name in cells:
                found |= {id(cells[name]), *map(id, _content(cells[name]))}
            elif _is_self(kind, name, code, holder):
                found.add(id(holder))
        loads += _loads_of(instruction)
    return found


def recorded(thing) -> set[int]:
    """Ids of the lists and dicts that a call of `thing` only adds to: records for others, no memory of its own."""
    code, cells, holder = code_of(thing), _cells(thing), _plain(thing)
    uses, additions, loads = collections.Counter(), collections.Counter(), []
    for instruction in dis.get_instructions(code) if code else ():
        if instruction.opname == "STORE_SUBSCR":
            additions[_path(loads[: _target(loads, instruction.opname)])] += 1
        adds = instruction.opname in ATTRIBUTES and instruction.argval in ADDING
        additions[_path(loads)] += adds
        loads += _loads_of(instruction)
        uses[_path(loads)] += not adds
    found = set()
    for path, count in additions.items():
        kind, name, attribute = path
        if uses[path] > count:
            continue
        if kind == "LOAD_DEREF" and name in cells and attribute is None:
            found |= set(map(id, _content(cells[name])))
        elif _is_self(kind, name, code, holder) and attribute is not None and hasattr(holder, attribute):
            found.add(id(getattr(holder, attribute)))
    return found


def _cells(thing):
    holder = _plain(thing)
    return dict(zip(holder.__code__.co_freevars, holder.__closure__ or ())) if isinstance(holder, types.FunctionType) else {}


def _content(cell):
    try:
        return (cell.cell_contents,)
    except ValueError:  # nothing in it yet
        return ()


def _loads_of(instruction):
    pair = instruction.opname.startswith(("LOAD_FAST_LOAD", "LOAD_FAST_BORROW_LOAD"))  # of Python 3.13
    return [(instruction.opname, name) for name in (instruction.argval if pair else (instruction.argval,))]


def _target(loads, store):
    """How many of `loads` there were when what `store` writes to was loaded. Of a key only a constant, a variable or
    an attribute of one is passed over."""
    end = len(loads)
    if store == "STORE_SUBSCR":
        while end and loads[end - 1][0] in ATTRIBUTES:
            end -= 1
        end = end - 1 if end and loads[end - 1][0].startswith("LOAD_") else 0
    return end


def _loaded(loads):
    """The variable that the last of `loads` begin with."""
    end = len(loads)
    while end and loads[end - 1][0] in ATTRIBUTES:
        end -= 1
    return loads[end - 1] if end else NOTHING


def _path(loads):
    """(kind, name, first attribute or None) of what the last of `loads` stand for."""
    end = len(loads)
    while end and loads[end - 1][0] in ATTRIBUTES:
        end -= 1
    kind, name = loads[end - 1] if end else NOTHING
    return kind, name, loads[end][1] if end < len(loads) else None


def _is_self(kind, name, code, holder):
    return kind.startswith("LOAD_FAST") and code.co_varnames[:1] == (name,) and not isinstance(holder, types.FunctionType)


def reads(thing) -> set[int]:
    """Ids of the cells and objects outside itself that a call of `thing` can look at."""
    holder = _plain(thing)
    if not isinstance(holder, types.FunctionType):
        return {id(holder), *map(id, vars(holder).values())} if hasattr(holder, "__dict__") else {id(holder)}
    return {id(one) for cell in holder.__closure__ or () for one in (cell, *_content(cell))}


def guidance(model_options: dict) -> list[Callable]:
    """What makes one prediction out of those of the guidance branches."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.PREDICT_NOISE, {})
    functions = [model_options[name] for name in GUIDANCE if name in model_options]
    functions += [function for name in GUIDANCE_LISTS for function in model_options.get(name, ())]
    return functions + [wrapper for added in wrappers.values() for wrapper in added]


def guidance_that_remembers(model_options: dict, network_patches: list[Callable]) -> list[str]:
    """Names of guidance functions on a model that look at what an earlier evaluation left behind, written by
    themselves or by one of `network_patches`."""
    functions, options = guidance(model_options), model_options.get("transformer_options", {})
    left = set().union(*map(written, [*functions, *network_patches]))
    found = [name_of(function) for function in functions if left & reads(function) and not _is_off(function)]
    if "easycache" in options:
        found.append(getattr(options["easycache"], "name", "EasyCache"))
    return list(dict.fromkeys(found))


def guidance_by_the_last_call(model_options: dict, network_patches: list[Callable]) -> list[str]:
    """Names of guidance functions on a model that look at what one of `network_patches` left in the network's last call."""
    left = set().union(*map(written, network_patches))
    return list(dict.fromkeys(name_of(function) for function in guidance(model_options) if left & reads(function)))


def _is_off(function):
    """Adaptive Projected Guidance keeps its average even where its momentum is 0."""
    holder = _plain(function)
    if not isinstance(holder, types.FunctionType) or "momentum" not in holder.__code__.co_freevars:
        return False
    return holder.__closure__[holder.__code__.co_freevars.index("momentum")].cell_contents == 0
