"""How many channels there are at a place in a network, and whether they are on axis 1."""

from torch import nn

from ...errors import SurgeryError
from ..kinds import ELEMENTWISE, SPATIAL, dim_of, num_features_of, runs_as
from .walk import Site


def channels_at(site: Site, layer: Site, rest: tuple[Site, ...]) -> tuple[int, int]:
    """Dimension (1, 2, 3) of the normalization behind a site, and its number of channels.

    Args:
        site: The layer itself, or one of the calls behind it.
        layer: The linear or convolutional layer that feeds the site.
        rest: The calls behind the layer, in order.

    Raises:
        SurgeryError: The channels are not axis 1 there, or their number cannot be known.
    """
    require_channels_second(layer, layer.output_shape)
    if site is not layer:
        between = rest[: rest.index(site)]
        _require_channels_in_place(site, layer, between)
        if site.output_shape is not None:
            return _observed(site, site.output_shape)
        _require_channels_kept(site, layer, between)
    return dim_of(layer.module), num_features_of(layer.module)


def require_channels_second(layer: Site, shape: tuple[int, ...] | None) -> None:
    """Refuse values of a layer whose channels are not axis 1, or that have no batch axis.

    Args:
        layer: A linear or convolutional layer.
        shape: Of its input or output; None if it was not seen.

    Raises:
        SurgeryError: The shape is not (N, C) for a linear layer, (N, C, *S) for a convolution.
    """
    if shape is None or len(shape) == _num_axes(layer.module):
        return
    if isinstance(layer.module, nn.Linear) and len(shape) > 2:
        raise SurgeryError(
            f"{layer}: runs on shape {shape}, where batch normalization would take axis 1 for the "
            "features, which are the last axis. It wants (N, C) here: put nn.Flatten(0, -2) "
            "before the layer, or put normalization in by hand."
        )
    raise SurgeryError(
        f"{layer}: runs on shape {shape}, without a batch axis. Give insert a batch as example, "
        "for example example.unsqueeze(0)."
    )


def _require_channels_in_place(site: Site, layer: Site, between: tuple[Site, ...]) -> None:
    watched = [str(other) for other in between if other.seen_harmless]
    if watched:
        raise SurgeryError(
            f"{', '.join(watched)}, between {layer} and {site}, may move the channels to another "
            "axis. Use where='before_activation', or put batch normalization in by hand."
        )


def _require_channels_kept(site: Site, layer: Site, between: tuple[Site, ...]) -> None:
    keeping = ELEMENTWISE if isinstance(layer.module, nn.Linear) else ELEMENTWISE + SPATIAL
    changing = [str(other) for other in between if not runs_as(other.module, keeping)]
    if isinstance(site.module, nn.GLU):
        changing.append(str(site))
    if changing:
        raise SurgeryError(
            f"{', '.join(changing)} changes the number of channels that {site} gives out. Give "
            "insert an example input, so that it can be seen: insert(model, example)."
        )


def _observed(site: Site, shape: tuple[int, ...]) -> tuple[int, int]:
    if not 2 <= len(shape) <= 5:
        raise SurgeryError(
            f"{site} gives out shape {shape}; batch normalization is for (N, C) and (N, C, *S) "
            "with at most three spatial axes. Put normalization in by hand."
        )
    return max(1, len(shape) - 2), shape[1]


def _num_axes(layer: nn.Module) -> int:
    return 2 if isinstance(layer, nn.Linear) else dim_of(layer) + 2
