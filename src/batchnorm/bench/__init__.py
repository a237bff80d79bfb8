"""Time batch normalization side by side with PyTorch's, oneDNN's and a plain copy."""

from .plan import Plan, make_plan
from .run import Progress, recording, run

__all__ = ["Plan", "Progress", "make_plan", "recording", "run"]
