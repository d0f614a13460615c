"""Numbers about schedules: noise levels in words of the server, the denoise that starts like another one, equal time."""

import math

NEAR = 0.03  # of the time to match


def noise_levels(text):
    """The levels of a tensor as PreviewAny shows it."""
    inside = text.partition("[")[2].partition("]")[0]
    return [float(part) for part in inside.split(",") if part.strip()]


def nearest_denoise(start, starts):
    """The denoise of `starts`, {denoise: first noise level}, that begins at the level `start`."""
    return min(starts, key=lambda denoise: (abs(math.log(max(starts[denoise], 1e-9) / start)), denoise))


def nearest_time(measured, seconds):
    """The (steps, seconds) of `measured` whose time is nearest."""
    return min(measured, key=lambda one: abs(one[1] - seconds))


def next_steps(measured, seconds):
    """Steps to measure next for a run of `seconds`, None when there are no better ones. measured: [(steps, seconds)]."""
    steps, nearest = nearest_time(measured, seconds)
    if abs(nearest - seconds) <= NEAR * seconds:
        return None
    guess = steps * seconds / nearest
    if len(measured) > 1:
        (steps_a, seconds_a), (steps_b, seconds_b) = measured[-2:]
        each = (seconds_b - seconds_a) / (steps_b - steps_a)
        if each > 0:
            guess = steps + (seconds - nearest) / each
    guess = max(1, round(guess))
    return None if guess in [steps for steps, _ in measured] else guess
