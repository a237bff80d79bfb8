"""What the pages measure beside the study; one measurement a file, with `SETTINGS` and `rows()`."""

from . import depth, hidden, mistakes, noise, placement, processor, running, start, variance

MEASUREMENTS = {
    "depth": depth,
    "hidden": hidden,
    "mistakes": mistakes,
    "noise": noise,
    "placement": placement,
    "processor": processor,
    "running": running,
    "start": start,
    "variance": variance,
}
