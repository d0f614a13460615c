"""EasyCache beside images of several sizes."""

import contextlib


class SizedCache:
    """Gives images of each size an EasyCache of their own, in place of one that forgets all at every change.

    The first size of a run keeps the model's own, which is what ComfyUI reports at the end.
    """

    def __init__(self, model_options: dict):
        self.cache = model_options["transformer_options"].get("easycache")
        self.fresh = None if self.cache is None else _copied(vars(self.cache))
        self.first, self.others = None, {}

    def begin(self) -> None:
        """A new evaluation: each size decides anew whether it skips."""
        for state in self.others.values():
            state["skip_current_step"] = False

    @contextlib.contextmanager
    def of(self, size: tuple[int, ...]):
        """While the network is shown images of `size`."""
        if self.cache is None:
            yield
            return
        if self.first is None:
            self.first = size
        if size == self.first:
            yield
            return
        own, state = dict(vars(self.cache)), self.others.get(size) or _copied(self.fresh)
        vars(self.cache).update(state)
        try:
            yield
        finally:
            self.others[size] = dict(vars(self.cache))
            vars(self.cache).update(own)


def _copied(state):
    return {name: value.copy() if isinstance(value, (dict, list)) else value for name, value in state.items()}
