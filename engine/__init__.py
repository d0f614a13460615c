"""What a run is. Knows no method: methods are Parts, and come from patches/."""

from .call import Call
from .evaluation import parts_of, with_parts, without_parts
from .part import Part, Predictions
from .run import Run
from .step_edits import Edits
from .views import Canvas, ViewPatch
from .work import Work

__all__ = ["Call", "Canvas", "Edits", "Part", "Predictions", "Run", "ViewPatch", "Work", "parts_of", "with_parts", "without_parts"]
