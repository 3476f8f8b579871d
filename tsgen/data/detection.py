"""The supports of the channels of a series: what its user says, or what its values show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_arguments
from tsgen.data.series import Series
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

    Supports that are read off the values are logged, with what the values showed.

    Args:
        series: The series.
        fit_on: The stretches to read (those of the training split); the whole series if not given.
        support: The support of all channels, or of some by name; ``auto`` reads it off the values.
        transform: The name of the transform of all channels, or of some by name; the default of the support
            if not given.

    Raises:
        ValueError: If a channel is unknown, a text names no support or transform, the two do not belong
            together, or a value of the series lies outside a support.
    """
    supports, names = _by_channel(series, support, "support"), _by_channel(series, transform, "transform")
    values, observed = _some_rows(series, fit_on)
    found = []
    for channel, name in enumerate(series.channels):
        there, text = observed[..., channel], supports.get(name, AUTO)
        if text == AUTO:
            chosen = _detected(series, channel, values[..., channel][there])
        else:
            chosen = Support.parse(text)
        try:
            found.append(fit_transform(chosen, values[..., channel], there, names.get(name)))
        except ValueError as error:
            raise ValueError(f"data.transform of {printable(name)}: {error}") from error
    _check_inside(series, found, supports)
    return found


def _by_channel(series: Series, setting: str | Mapping[str, str] | None, option: str) -> Mapping[str, str]:
    """Returns a setting of each channel that has one."""
    if setting is None or isinstance(setting, str):
        return {} if setting is None else dict.fromkeys(series.channels, setting)
    unknown = [name for name in setting if name not in series.channels]
    if unknown:
        raise ValueError(
            f"{option} must name channels of the data, {', '.join(map(printable, series.channels))}; got "
            f"{unknown[0]!r:.40}."
        )
    return setting


def _detected(series: Series, channel: int, values: Float[Tensor, "values"]) -> Support:
    """Returns the support that the values of a channel show, and logs it unless it is the real line."""
    if not len(values):
        return REAL
    support, reason = detect(values.double())
    if not support.is_real:
        logger.info(
            "%s: values are taken as %s (%s). Set data.support to change this.",
            printable(series.channels[channel]),
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


def _check_inside(series: Series, transforms: Sequence[Transform], said: Mapping[str, str]) -> None:
    """Raises ``ValueError`` with the place of the first observed value outside its support."""
    if all(one.values.is_real for one in transforms):
        return
    start = 0
    for chunk in series.chunks():
        outside = [one.values.outside(x) for one, x in zip(transforms, chunk.values.unbind(-1), strict=True)]
        places = (torch.stack(outside, dim=-1) & chunk.observed).nonzero()
        if len(places):
            step, node, channel = places[0].tolist()
            name = series.channels[channel]
            source = "the training split shows" if said.get(name, AUTO) == AUTO else "data.support says"
            time = "" if series.time is None else f"at {series.time[start + step]}, "
            raise ValueError(
                f"values of {printable(name)} must be {transforms[channel].values}, as {source}; node "
                f"{printable(series.nodes[node])} has {float(chunk.values[step, node, channel]):.6g} ({time}"
                f"step {start + step}). Set data.support to what holds, or correct the value."
            )
        start += len(chunk)
