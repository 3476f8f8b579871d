"""Series of several channels as series of one channel on a larger graph, and back.

Entry (v, c) becomes node v C + c. It has the edges of node v to the same channel of other nodes, and edges to
the other channels of node v. A model of one channel then runs on data with any number of channels.
"""

from __future__ import annotations

import dataclasses
from typing import overload

import torch
import xarray as xr
from torch_geometric.data import Data

from tsgen.data.series import GraphSeries, Samples, Series, SeriesBatch

WITHIN = 0.1
"""Weight of the edges between channels of a node, relative to the largest weight of an edge."""


def graph_of_entries(graph: Data, channels: int) -> Data:
    """Returns the graph of the entries of a slice.

    Args:
        graph: The graph of the nodes.
        channels: The number of channels.
    """
    device, nodes = graph.edge_index.device, int(graph.num_nodes or 0)
    channel = torch.arange(channels, device=device)
    between = graph.edge_index[:, :, None] * channels + channel
    first, second = (channel[:, None] != channel).nonzero().T
    within = torch.arange(nodes, device=device)[:, None] * channels + torch.stack([first, second])[:, None]
    weight = graph.edge_weight.repeat_interleave(channels)
    largest = float(weight.max()) if len(weight) else 1.0
    return Data(
        edge_index=torch.cat([between.flatten(1), within.flatten(1)], dim=1),
        edge_weight=torch.cat([weight, weight.new_full((within[0].numel(),), WITHIN * largest)]),
        num_nodes=nodes * channels,
    )


@overload
def channels_as_nodes(data: SeriesBatch) -> SeriesBatch: ...


@overload
def channels_as_nodes(data: Series) -> GraphSeries: ...


def channels_as_nodes(data: SeriesBatch | Series) -> SeriesBatch | GraphSeries:
    """Returns windows or a series with one channel, whose nodes are the nodes and channels of the data.

    Covariates are left out. A series in a file is read into memory.

    Args:
        data: The windows or the series.
    """
    if isinstance(data, SeriesBatch):
        return SeriesBatch(
            values=data.values.flatten(2)[..., None],
            context=data.context.flatten(2)[..., None],
            target=data.target.flatten(2)[..., None],
            graph=graph_of_entries(data.graph, data.values.shape[-1]),
            position=data.position,
            replicate=data.replicate,
        )
    series = data.chunk(slice(None))
    return GraphSeries(
        values=series.values.flatten(1)[..., None],
        observed=series.observed.flatten(1)[..., None],
        graph=graph_of_entries(series.graph, len(series.channels)),
        time=series.time,
        nodes=[f"{node}, {channel}" for node in series.nodes for channel in series.channels],
        channels=["value"],
    )


@overload
def without_covariates(data: SeriesBatch, kept: int) -> SeriesBatch: ...


@overload
def without_covariates(data: Series, kept: int) -> Series: ...


def without_covariates(data: SeriesBatch | Series, kept: int) -> SeriesBatch | Series:
    """Returns windows or a series without covariates, unless a model reads them.

    Args:
        data: The windows or the series.
        kept: The number of covariates that the model reads.
    """
    if kept:
        return data
    if isinstance(data, SeriesBatch):
        return data if data.covariates is None else dataclasses.replace(data, covariates=None)
    if not data.sizes.covariates:
        return data
    return dataclasses.replace(data.chunk(slice(None)), covariates=None, covariate_names=())


def samples_of_channels(samples: Samples, channels: int) -> Samples:
    """Returns draws of :func:`channels_as_nodes` with the channels on their own axis again.

    Args:
        samples: The draws.
        channels: The number of channels.
    """
    return dataclasses.replace(samples, values=samples.values.squeeze(-1).unflatten(-1, (-1, channels)))


def dataset_of_channels(drawn: xr.Dataset, series: Series) -> xr.Dataset:
    """Returns an imputation or forecast of :func:`channels_as_nodes` with the labels of the original series.

    Args:
        drawn: The imputation or forecast.
        series: The series that it was made from.
    """
    axes, sizes = ("time", "node", "channel"), (-1, len(series.nodes), len(series.channels))
    labels = series.labels()
    data = labels.drop_vars(["time", "covariate"], errors="ignore").assign_coords(time=drawn["time"])
    data = data.assign_attrs(drawn.attrs)
    draws = drawn["imputation"]
    data["imputation"] = (("sample", *axes), draws.values.reshape(len(draws), *sizes), draws.attrs)
    observed = drawn["observed"]
    data["observed"] = (axes, observed.values.reshape(sizes), observed.attrs)
    return data
