"""Where the moments come from, and what is made of them: every variant, composed of phases.

Masked positions are taken out first, then the batch is cut into virtual batches, whose chunks
become channels; each is normalized by its own moments, to which positions contribute by their
weights; renormalization is another scale and shift. None of them is a second normalizer.
"""

from .evaluate import evaluate
from .options import Correct, Limits, Options, Pair, options
from .together import train_together
from .train import train

__all__ = ["Correct", "Limits", "Options", "Pair", "evaluate", "options", "train", "train_together"]
