"""The levels of a run as the page gives them back, which the engine has told it (`engine.progress.Browser.began`)."""

import math

from ..engine.progress import MOST_LEVELS
from ..methods.schedules import Levels, RunLevels
from ..nodes.checks import value_of


def run_levels(told) -> RunLevels:
    """Raises ValueError for what is none."""
    if not isinstance(told, dict):
        raise ValueError(f"run is {told!r:.60}; expected an object with timesteps and table.")
    timesteps, table = numbers("timesteps", told.get("timesteps"), 2, 0, 999), told.get("table")
    if table is not None:
        table = tuple(numbers("table", table, 2, 0, math.inf))
        if table[0] <= 0 or any(low >= high for low, high in zip(table, table[1:])):
            raise ValueError("table does not rise from above 0.")
    return RunLevels(timesteps, Levels(table=table))


def numbers(name: str, values, count: int, least: float, most: float) -> list[float]:
    """`values`, checked to be from `count` to MOST_LEVELS finite numbers from `least` to `most`."""
    if not isinstance(values, list) or not count <= len(values) <= MOST_LEVELS:
        raise ValueError(f"{name} is {values!r:.60}; expected a list of {count} to {MOST_LEVELS} numbers.")
    values = [float(value_of(name, value, float, least, most)) for value in values]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name} holds infinity.")
    return values
