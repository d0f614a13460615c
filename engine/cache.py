"""What a run has computed and may need again."""

from collections.abc import Callable, Hashable


class StepCache:
    """Values of the current step and the one before, by key.

    What comes back at every step is computed once a run; what a moving layout leaves behind is let go.
    Keys may hold the id of an object that their value keeps alive.
    """

    def __init__(self):
        self.step = None
        self.values, self.older = {}, {}

    def begin(self, step: int) -> None:
        if step != self.step:
            self.step, self.values, self.older = step, {}, self.values

    def get(self, key: Hashable, make: Callable):
        if key not in self.values:
            self.values[key] = self.older[key] if key in self.older else make()
        return self.values[key]
