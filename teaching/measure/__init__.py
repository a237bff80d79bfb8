"""What the pages measure beside the study; one measurement a file, with `SETTINGS` and `rows()`."""

from . import depth, hidden, noise, placement, processor, running, variance

MEASUREMENTS = {
    "depth": depth,
    "hidden": hidden,
    "noise": noise,
    "placement": placement,
    "processor": processor,
    "running": running,
    "variance": variance,
}
