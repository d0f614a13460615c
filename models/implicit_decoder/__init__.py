from .file import load, save
from .network import HybridDecoder, ImplicitDecoder

__all__ = ["HybridDecoder", "ImplicitDecoder", "load", "save"]
