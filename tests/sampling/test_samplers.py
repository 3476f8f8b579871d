"""What holds for every sampler."""

from functools import partial

import pytest
import torch
from conftest import TWO_WAY_ENCODERS, make_batch, make_model, make_series

from tsgen.data.series import SeriesSpec
from tsgen.encoders import WindowEncoder
from tsgen.models import GraphVAR
from tsgen.sampling import SMC, Ancestral, AnyOrder, Exact

SAMPLERS = {
    "ancestral": Ancestral(3),
    "any order": AnyOrder(3, groups=4),
    "independent": AnyOrder(3),
    "exact": Exact(3),
    "smc": SMC(3, 16),
    "smc in blocks": SMC(3, 16, blocks=2),
    "smc backward": SMC(3, 16, paths="backward", sweeps=1),
}


def of(name):
    """A sampler, a model that it draws from, and windows."""
    sampler, series = SAMPLERS[name], make_series(covariates=0)
    if isinstance(sampler, AnyOrder):
        model = make_model(series, TWO_WAY_ENCODERS["two-way gru"])
    elif isinstance(sampler, Exact):
        model = GraphVAR(SeriesSpec.of(series), 1)
    else:
        model = make_model(series, partial(WindowEncoder, order=2, hidden=4))
    return sampler, model, make_batch(series, batch=2, window=6)


@pytest.mark.filterwarnings("ignore:with 16 particles")
@pytest.mark.parametrize("name", SAMPLERS)
def test_copies_of_a_window_are_drawn_independently_and_the_first_as_the_window(name):
    sampler, model, batch = of(name)
    whole, once = sampler(model, batch.repeat(3)), sampler(model, batch)
    first, second, third = whole.values.split(2, dim=1)
    torch.testing.assert_close(first, once.values)
    for a, b in ((first, second), (second, third), (first, third)):
        assert ((a == b) == batch.context).all()
    part = sampler(model, batch.repeat(3).rows(slice(3, 6)))
    torch.testing.assert_close(part.values, whole.values[:, 3:])
    nested = sampler(model, batch.repeat(2).repeat(2)).values
    assert len(nested[:, ::2].transpose(0, 1).flatten(1).unique(dim=0)) == 4
    if once.log_evidence is not None:
        torch.testing.assert_close(whole.log_evidence[:2], once.log_evidence)
        assert len(whole.log_evidence.unique()) == 6
