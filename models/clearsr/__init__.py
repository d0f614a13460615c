from .file import ClearSRFile, load, save
from .network import ClearSR, Config

__all__ = ["ClearSR", "ClearSRFile", "Config", "load", "save"]
