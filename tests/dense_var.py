"""A small linear process and its laws by dense linear algebra, to compare other answers with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from tsgen.data.series import SeriesBatch
from tsgen.exact.linear import VARProcess

NODES = 3


def make_var(order: int) -> VARProcess:
    """Node 0 drives node 1, which drives node 2: a directed chain with unequal weights."""
    first = torch.tensor([[0.5, 0.0, 0.0], [0.8, -0.3, 0.0], [0.0, 0.4, 0.2]])
    second = torch.tensor([[-0.3, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, -0.5, 0.1]])
    noise = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.1], [0.0, -0.1, 2.0]])
    return VARProcess(torch.stack([first, second])[:order], torch.tensor([1.0, -2.0, 0.5]), noise)


def make_batch(windows: int = 4, steps: int = 6, dtype: torch.dtype = torch.float64) -> SeriesBatch:
    random = torch.Generator().manual_seed(0)
    values = 2 * torch.randn(windows, steps, NODES, 1, generator=random, dtype=dtype)
    context = torch.rand(windows, steps, NODES, 1, generator=random) < 0.5
    return SeriesBatch(
        values=values.masked_fill(~context, torch.nan),
        context=context,
        target=torch.zeros_like(context),
        graph=Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=NODES),
        position=100 * torch.arange(windows)[:, None] + torch.arange(steps),
    )


def autocovariances(var: VARProcess, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a stationary stretch, from the Lyapunov equation solved as one linear system."""
    order, nodes = var.order, var.num_nodes
    coefficients = var.coefficients.numpy()
    companion = np.eye(order * nodes, k=-nodes)
    companion[:nodes] = np.concatenate(list(coefficients), axis=1)
    noise = np.zeros_like(companion)
    noise[:nodes, :nodes] = var.covariance
    size = len(companion)
    system = np.eye(size**2) - np.kron(companion, companion)
    gamma = [np.linalg.solve(system, noise.ravel()).reshape(size, size)]
    for _ in range(steps - 1):
        gamma.append(companion @ gamma[-1])
    # Cov(x_t, x_s) = Gamma(t - s) for t >= s, its transpose otherwise
    blocks = [
        [gamma[t - s][:nodes, :nodes] if t >= s else gamma[s - t][:nodes, :nodes].T for s in range(steps)]
        for t in range(steps)
    ]
    mean = np.linalg.solve(np.eye(nodes) - coefficients.sum(axis=0), var.intercept.numpy())
    return np.tile(mean, steps), np.block(blocks)


def given(law: tuple[np.ndarray, np.ndarray], known: np.ndarray, values: np.ndarray):
    """Mean and covariance of all entries given the known ones."""
    mean, covariance = law
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
    return mean + gain @ (values - mean)[known], covariance - gain @ covariance[known]


def z_of(residuals: Tensor, scale: Tensor) -> Tensor:
    return (residuals / scale).mean(dim=0) * math.sqrt(len(residuals))
