"""Random numbers by address: their law, their independence, their reproducibility."""

import pytest
import torch
from scipy import stats

from tsgen.counter_random import streams, uniforms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_uniform(dtype):
    u = uniforms(streams(0, torch.arange(100)), (2000,), dtype=dtype)
    assert u.dtype == dtype and u.min() > 0 and u.max() < 1
    assert stats.kstest(u.flatten().double().numpy(), "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (streams(0, torch.arange(50_000)), streams(0, torch.arange(1, 50_001))),
        lambda: (streams(0, torch.arange(50_000)), streams(1, torch.arange(50_000))),
        lambda: (
            streams(0, torch.arange(50_000), torch.tensor(0)),
            streams(0, torch.arange(50_000), torch.tensor(1)),
        ),
        lambda: (
            streams(0, torch.tensor(3), torch.arange(50_000)),
            streams(0, torch.arange(50_000), torch.tensor(3)),
        ),
    ],
    ids=["next window", "next seed", "next sample", "keys swapped"],
)
def test_neighbouring_streams_are_independent(pair):
    x, y = (uniforms(s, (1,))[:, 0].double() for s in pair())
    differs = x != y
    r = torch.corrcoef(torch.stack([x[differs], y[differs]]))[0, 1]
    assert differs.float().mean() > 0.99
    assert abs(float(r)) * 50_000**0.5 < 5
    # joint law on a 10 x 10 grid
    cells = torch.bincount((x[differs] * 10).long() * 10 + (y[differs] * 10).long(), minlength=100)
    assert stats.chisquare(cells.numpy()).pvalue > 0.001


def test_a_number_depends_on_its_address_alone():
    stream = streams(9, torch.arange(6)[:, None], torch.arange(4))
    whole = uniforms(stream, (5, 3))
    assert whole.shape == (6, 4, 5, 3)
    assert torch.equal(uniforms(stream[2:3], (5, 3)), whole[2:3])
    assert torch.equal(uniforms(stream, (3,), start=6), whole[:, :, 2])


def test_numbers_never_change():
    # a published result must stay reproducible: these are to be kept for good
    numbers = uniforms(streams(42, torch.tensor([7])), (3,), dtype=torch.float64)[0].tolist()
    assert numbers == [0.20192216514288341, 0.3990471757291655, 0.4979010927176223]
