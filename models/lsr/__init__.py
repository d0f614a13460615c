from .file import load, save
from .network import LSR

__all__ = ["LSR", "load", "save"]
