from .file import load, save
from .network import ClearSR, Config

__all__ = ["ClearSR", "Config", "load", "save"]
