"""What the pages measure beside the study; one measurement a file, with `SETTINGS` and `rows()`."""

from . import depth, hidden, noise, placement, running, variance

MEASUREMENTS = {
    "depth": depth,
    "hidden": hidden,
    "noise": noise,
    "placement": placement,
    "running": running,
    "variance": variance,
}
