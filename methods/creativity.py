"""One dial between keeping an image and inventing detail in it: what it sets, by a table."""

from typing import NamedTuple


class Settings(NamedTuple):
    """strength: where the denoise starts (`schedules.start_for`). structure: weight of the Structure Prior in its mode
    `kappa`. fidelity: how far Latent Adjustment takes the first half of the steps, all together, to the enlarged image."""

    strength: float
    structure: float
    fidelity: float


# measured in docs/one-dial.md
TABLE = {
    0.0: Settings(0.15, 0.4, 0.18),
    0.25: Settings(0.35, 0.4, 0.18),
    0.5: Settings(0.55, 0.3, 0.12),
    0.75: Settings(0.7, 0.2, 0.06),
    1.0: Settings(0.8, 0.1, 0.0),
}

PRESETS = {"balanced": 8, "fast": 4, "thorough": 20}  # steps that run


def settings(creativity: float) -> Settings:
    """TABLE at `creativity`, 0..1, linear between its rows. Raises ValueError outside."""
    if not 0 <= creativity <= 1:
        raise ValueError(f"creativity is {creativity}; expected 0 to 1.")
    rows = list(TABLE)
    below = max(row for row in rows[:-1] if row <= creativity)
    above = rows[rows.index(below) + 1]
    share = (creativity - below) / (above - below)
    return Settings(*(low + share * (high - low) for low, high in zip(TABLE[below], TABLE[above])))


def alpha(fidelity: float, steps: int) -> float:
    """Latent Adjustment's alpha in each step of the first half of `steps`, which together go `fidelity` of the way."""
    return 1 - (1 - fidelity) ** (1 / max(steps // 2, 1))
