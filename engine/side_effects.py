"""Which functions remember something from one call to the next, read from their code."""

import collections
import dis
import functools
import types
from collections.abc import Callable

from comfy.patcher_extension import WrappersMP

GUIDANCE = ("sampler_cfg_function", "sampler_calc_cond_batch_function")
NOTHING = ("", None)
LIBRARIES = ("comfy", "torch", "numpy", "builtins")
STORES = ("STORE_ATTR", "STORE_SUBSCR")
ADDING = ("append", "extend", "update", "add", "insert", "appendleft")
MUTATING = (*ADDING, "setdefault", "pop", "popleft", "popitem", "remove", "clear")
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
    return getattr(_function(thing), "__code__", None)


def written(thing, depth: int = 2) -> set:
    """Ids of the cells and objects outside itself in which a call of `thing` leaves something, also through functions
    and methods of its own pack that it calls."""
    code, found, loads = code_of(thing), set(), []
    for instruction in dis.get_instructions(code) if code else ():
        name, kind = instruction.argval, instruction.opname
        if kind == "STORE_DEREF" and name in _cells(thing):
            found.add(id(_cells(thing)[name]))
        elif kind == "STORE_GLOBAL":
            found.add((id(_globals(thing)), name))
        elif kind in STORES:
            found |= set(map(id, _objects(thing, _path(loads[: _target(loads, kind)]))))
        elif kind in ATTRIBUTES and (name in MUTATING or (name.endswith("_") and not name.startswith("_"))):
            found |= set(map(id, _objects(thing, _path(loads))))
        elif kind == "LOAD_GLOBAL" and name == "setattr":
            found |= reads(thing, 0)
        loads += _loads_of(instruction)
    return found.union(*(written(called, depth - 1) for called in (_called(thing) if depth else ())))


def recorded(thing) -> set:
    """Ids of the lists and dicts that a call of `thing` only adds to: records for others, no memory of its own."""
    code, uses, additions, loads = code_of(thing), collections.Counter(), collections.Counter(), []
    for instruction in dis.get_instructions(code) if code else ():
        if instruction.opname == "STORE_SUBSCR":
            additions[_path(loads[: _target(loads, instruction.opname)])] += 1
        adds = instruction.opname in ATTRIBUTES and instruction.argval in ADDING
        additions[_path(loads)] += adds
        loads += _loads_of(instruction)
        uses[_path(loads)] += not adds
    found = set()
    for path, count in additions.items():
        if count and uses[path] <= count:
            found |= {id(one) for one in _objects(thing, path) if isinstance(one, (list, dict, set, collections.deque))}
    return found


def _cells(thing):
    holder = _plain(thing)
    return dict(zip(holder.__code__.co_freevars, holder.__closure__ or ())) if isinstance(holder, types.FunctionType) else {}


def _content(cell):
    try:
        return (cell.cell_contents,)
    except ValueError:  # nothing in it yet
        return ()


def _function(thing):
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = getattr(thing, "__func__", thing)
    return thing if isinstance(thing, types.FunctionType) else getattr(type(thing), "__call__", None)


def _globals(thing):
    return getattr(_function(thing), "__globals__", {})


def _given(thing):
    """Values of arguments that a call does not give: defaults, and those of partial."""
    given, partial = {}, thing
    while isinstance(partial, functools.partial):
        given.update(partial.keywords)
        partial = partial.func
    function, code = _function(thing), code_of(thing)
    if not isinstance(function, types.FunctionType):
        return given
    names = code.co_varnames[: code.co_argcount]
    given.update(zip(reversed(names), reversed(function.__defaults__ or ())), **(function.__kwdefaults__ or {}))
    if isinstance(thing, functools.partial):
        given.update(zip(names, thing.args))
    return given


def _objects(thing, path):
    """What a path of loads stands for: one object or none."""
    kind, name, attribute = path
    if kind == "LOAD_DEREF":
        found = _content(_cells(thing)[name]) if name in _cells(thing) else ()
    elif _is_self(kind, name, code_of(thing), _plain(thing)):
        found = (_plain(thing),)
    elif kind.startswith("LOAD_FAST"):
        found = (_given(thing)[name],) if name in _given(thing) else ()
    else:
        found = (_globals(thing)[name],) if kind == "LOAD_GLOBAL" and name in _globals(thing) else ()
    found = tuple(one for one in found if one is not None and not isinstance(one, (types.ModuleType, type)))
    if attribute is None or attribute in MUTATING:
        return found
    return tuple(getattr(one, attribute) for one in found if getattr(one, attribute, None) is not None)


def _called(thing):
    """Functions and bound methods of `thing`'s own module, or on objects that it holds, that its code names."""
    code, module = code_of(thing), _globals(thing).get("__name__")
    found, loads = [], []
    for instruction in dis.get_instructions(code) if code else ():
        name, kind = instruction.argval, instruction.opname
        if kind in ATTRIBUTES:
            for one in _objects(thing, _path(loads)):
                method = getattr(type(one), name, None)
                if isinstance(method, types.FunctionType) and method.__module__.split(".")[0] not in LIBRARIES:
                    found.append(types.MethodType(method, one))
        elif kind in ("LOAD_DEREF", "LOAD_GLOBAL"):
            found += [one for one in _objects(thing, (kind, name, None)) if isinstance(one, types.FunctionType) and (kind == "LOAD_DEREF" or one.__module__ == module)]
        loads += _loads_of(instruction)
    return [one for one in found if code_of(one) is not code]


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


def _path(loads):
    """(kind, name, first attribute or None) of what the last of `loads` stand for."""
    end = len(loads)
    while end and loads[end - 1][0] in ATTRIBUTES:
        end -= 1
    kind, name = loads[end - 1] if end else NOTHING
    return kind, name, loads[end][1] if end < len(loads) else None


def _is_self(kind, name, code, holder):
    return kind.startswith("LOAD_FAST") and code.co_varnames[:1] == (name,) and not isinstance(holder, types.FunctionType)


def reads(thing, depth: int = 2) -> set:
    """Ids of the cells and objects outside itself that a call of `thing` can look at."""
    holder, code, module = _plain(thing), code_of(thing), _globals(thing)
    if code is None:
        return {id(holder)}
    found = {id(one) for cell in _cells(thing).values() for one in (cell, *_content(cell))} | set(map(id, _given(thing).values()))
    if not isinstance(holder, types.FunctionType):
        found |= {id(holder), *map(id, getattr(holder, "__dict__", {}).values())}
    for name in code.co_names:
        if name in module and not isinstance(module[name], (types.ModuleType, types.FunctionType, type)):
            found |= {(id(module), name), id(module[name])}
    return found.union(*(reads(called, depth - 1) for called in (_called(thing) if depth else ())))


def with_wrappers(model) -> dict:
    """Options of a run of `model` (ModelPatcher), which ComfyUI gives its wrappers when it samples."""
    options = model.model_options["transformer_options"]
    wrappers = {kind: {**options.get("wrappers", {}).get(kind, {}), **added} for kind, added in model.wrappers.items()}
    return {**model.model_options, "transformer_options": {**options, "wrappers": {**options.get("wrappers", {}), **wrappers}}}


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
    left = set().union(*(written(one) - recorded(one) for one in [*functions, *network_patches]))
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
