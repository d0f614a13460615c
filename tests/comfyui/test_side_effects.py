"""What a function's code says about what it leaves behind."""

import functools

import pytest
import torch
from loupe.engine.side_effects import name_of, reads, recorded, written


class Patch:
    def __init__(self):
        self.seen, self.cache, self.last, self.size, self.mean = [], {}, None, 1, torch.zeros(1)

    def plain(self, x):
        out = [x]
        out[0] = x * self.size
        out[0] += self.size
        return out

    def record(self, x):
        self.seen.append(x)
        return x

    def look_back(self, x):
        self.seen.append(x)
        return self.seen[0]

    def keep(self, x):
        self.cache[x] = x
        return self.cache.get(0)

    def remember(self, x):
        self.last = x

    def call(self, x):
        return self.remember(x)

    def average(self, x):
        return self.mean.mul_(0.9).add_(x)


@pytest.mark.parametrize(("method", "what"), [("plain", None), ("record", None), ("look_back", "seen"), ("keep", "cache"), ("remember", ""), ("call", ""), ("average", "mean")])
def test_writing_to_an_object(method, what):
    patch = Patch()
    left = {None: set(), "": {id(patch)}}.get(what) if not what else {id(getattr(patch, what))}
    assert written(getattr(patch, method)) - recorded(getattr(patch, method)) == left
    assert left <= reads(getattr(patch, method))


@pytest.mark.parametrize(("method", "kept"), [("plain", None), ("record", "seen"), ("look_back", None), ("keep", None), ("remember", None)])
def test_a_list_that_is_only_added_to_is_a_record(method, kept):
    patch = Patch()
    assert recorded(getattr(patch, method)) == (set() if kept is None else {id(getattr(patch, kept))})


def closures():
    last, state, seen, size = None, {"n": 0}, [], 2

    def rebind(x):
        nonlocal last
        last = x

    def count(x):
        state["n"] = state["n"] + 1

    def store(x):
        state[x] = x

    def record(x):
        seen.append(x)

    def look_back(x):
        return seen[-1], last

    def nested(x):
        rebind(x)

    def by_default(x, store=state):
        store.update(n=x)
        return store["n"]

    def local(x):
        out = {}
        out[size] = x
        return out

    return {"rebind": rebind, "count": count, "store": store, "record": record, "look_back": look_back, "nested": nested, "by_default": by_default, "local": local}, state, seen


def test_writing_to_variables_of_the_function_around():
    functions, state, seen = closures()
    assert {name for name, function in functions.items() if written(function) - recorded(function)} == {"rebind", "count", "nested", "by_default"}
    assert id(state) in written(functions["count"])
    assert recorded(functions["record"]) == {id(seen)} and recorded(functions["store"]) == {id(state)}
    assert not recorded(functions["count"]) and not recorded(functions["look_back"])
    assert written(functions["rebind"]) & reads(functions["look_back"])
    assert not written(functions["rebind"]) & reads(functions["local"])


def test_names_are_those_that_a_person_would_look_for():
    functions, *_ = closures()
    assert name_of(Patch()) == name_of(Patch().record) == "Patch"
    assert name_of(functions["record"]) == name_of(functools.partial(functions["record"], 1)) == "closures.record"
