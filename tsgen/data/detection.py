"""The supports of the channels of a series: what its user says, or what its values show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_arguments
from tsgen.data.series import Series, SeriesBatch
from tsgen.data.support import REAL, Support, detect
from tsgen.data.transforms import Transform, fit_transform
from tsgen.storage.display import printable

logger = logging.getLogger(__name__)

ROWS = 8192
"""The most steps of a series, spread over it, from which supports and transforms are taken."""

VALUES = 2**20
"""The most values of them."""

AUTO = "auto"
"""The support that is read off the values."""


@check_arguments
def fit_transforms(
    series: Series,
    fit_on: Sequence[slice] | None = None,
    support: str | Mapping[str, str] = AUTO,
    transform: str | Mapping[str, str] | None = None,
) -> list[Transform]:
    """Returns the support of each channel and the map of its values to real numbers.

    Supports that are read off the values are logged, with what the values showed. If other stretches of the
    series contradict such a support, the values are taken as real numbers, which is logged too.

    Args:
        series: The series.
        fit_on: The stretches to read (those of the training split); the whole series if not given.
        support: The support of all channels, or of some by name; ``auto`` reads it off the values.
        transform: The name of the transform of all channels, or of some by name; the default of the support
            if not given.

    Raises:
        ValueError: If a channel is unknown, a text names no support or transform, the two do not belong
            together, or a value of the series lies outside a support that is given.
    """
    supports, names = (
        _by_channel(series.channels, support, "support"),
        _by_channel(series.channels, transform, "transform"),
    )
    found = _fitted(*_some_rows(series, fit_on), series.channels, supports, names, log=True)
    while (outside := _first_outside(series, found)) is not None:
        channel, place = outside
        name, said = series.channels[channel], found[channel].support
        if supports.get(name, AUTO) != AUTO:
            raise ValueError(
                f"values of {printable(name)} must be {said}, as data.support says; {place}. Set "
                "data.support to what holds, or correct the value."
            )
        logger.info(
            "%s: values are taken as real after all, not as %s, since %s.", printable(name), said, place
        )
        found[channel] = Transform()
    return found


def transforms_of_windows(
    batch: SeriesBatch, channels: Sequence[str], support: str | Mapping[str, str] = AUTO
) -> list[Transform]:
    """Returns the same as :func:`fit_transforms` for windows, from their context; nothing is logged.

    Args:
        batch: The windows.
        channels: The names of the channels.
        support: As in :func:`fit_transforms`.
    """
    values, context = batch.values.flatten(0, 1), batch.context.flatten(0, 1)
    supports = _by_channel(channels, support, "support")
    return _fitted(values, context, channels, supports, {}, log=False)


def _fitted(
    values: Float[Tensor, "rows nodes channels"],
    observed: Bool[Tensor, "rows nodes channels"],
    channels: Sequence[str],
    supports: Mapping[str, str],
    names: Mapping[str, str],
    log: bool,
) -> list[Transform]:
    """Returns the transform of each channel, with its support read off the values unless it is given."""
    found = []
    for channel, name in enumerate(channels):
        there, text = observed[..., channel], supports.get(name, AUTO)
        seen = text == AUTO
        chosen = _detected(name, values[..., channel][there], log) if seen else Support.parse(text)
        try:
            found.append(fit_transform(chosen, values[..., channel], there, names.get(name)))
        except ValueError as error:
            raise ValueError(f"data.transform of {printable(name)}: {error}") from error
    return found


def _by_channel(
    channels: Sequence[str], setting: str | Mapping[str, str] | None, option: str
) -> Mapping[str, str]:
    """Returns a setting of each channel that has one."""
    if setting is None or isinstance(setting, str):
        return {} if setting is None else dict.fromkeys(channels, setting)
    unknown = [name for name in setting if name not in channels]
    if unknown:
        raise ValueError(
            f"{option} must name channels of the data, {', '.join(map(printable, channels))}; got "
            f"{unknown[0]!r:.40}."
        )
    return setting


def _detected(name: str, values: Float[Tensor, "values"], log: bool) -> Support:
    """Returns the support that the values of a channel show; one other than the real line may be logged."""
    if not len(values):
        return REAL
    support, reason = detect(values.double())
    if log and not support.is_real:
        logger.info(
            "%s: values are taken as %s, since %s. Set support to change this.",
            printable(name),
            support,
            reason,
        )
    return support


def _some_rows(
    series: Series, fit_on: Sequence[slice] | None
) -> tuple[Float[Tensor, "rows nodes channels"], Bool[Tensor, "rows nodes channels"]]:
    """Returns steps that are spread over some stretches, one chunk in memory at a time."""
    stretches = [slice(0, len(series))] if fit_on is None else list(fit_on)
    total = sum(len(range(*stretch.indices(len(series)))) for stretch in stretches)
    rows = max(1, min(ROWS, VALUES // max(1, len(series.nodes) * len(series.channels))))
    every = max(1, -(-total // rows))
    chunks = [(chunk.values[::every], chunk.observed[::every]) for chunk in series.chunks(fit_on)]
    values, observed = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return values, observed


def _first_outside(series: Series, transforms: Sequence[Transform]) -> tuple[int, str] | None:
    """Returns channel and place of the first observed value outside its support, if any."""
    if all(one.values.is_real for one in transforms):
        return None
    start = 0
    for chunk in series.chunks():
        outside = [one.values.outside(x) for one, x in zip(transforms, chunk.values.unbind(-1), strict=True)]
        places = (torch.stack(outside, dim=-1) & chunk.observed).nonzero()
        if len(places):
            step, node, channel = places[0].tolist()
            time = "" if series.time is None else f"at {series.time[start + step]}, "
            value = float(chunk.values[step, node, channel])
            place = f"node {printable(series.nodes[node])} has {value:.6g} ({time}step {start + step})"
            return channel, place
        start += len(chunk)
    return None
