"""Numbers that every processor rounds in its own way."""

import torch


def close(actual, expected, rel):
    """Asserts that nothing differs by more than `rel` times the largest magnitude in `expected`."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=rel * float(expected.abs().max()))
