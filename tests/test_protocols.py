"""Models fulfil the protocols on every version of Python."""

import inspect

import pytest
import torch
from conftest import ENCODERS, TWO_WAY_ENCODERS, make_model, make_series

from tsgen import AnyOrder, GraphVAR
from tsgen.data import SeriesSpec
from tsgen.metrics import has_closed_crps, law_crps
from tsgen.protocols import EncoderModel, ExactModel, ForwardModel, Model


def members(protocol) -> set[str]:
    """What isinstance() asks for: methods, and attributes that are annotated outside of TYPE_CHECKING."""
    names = set()
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base.__module__ == Model.__module__:
            names |= {*vars(base), *inspect.get_annotations(base)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("kind", ["forward", "any order", "exact"])
def test_models_fulfil_their_protocols_and_no_others(kind):
    series = make_series(covariates=0)
    if kind == "exact":
        model, fulfilled = GraphVAR(SeriesSpec.of(series)), {Model, ExactModel}
    elif kind == "forward":
        model, fulfilled = make_model(series, ENCODERS["gru"]), {Model, EncoderModel, ForwardModel}
    else:
        model, fulfilled = make_model(series, TWO_WAY_ENCODERS["two-way gru"]), {Model, EncoderModel}
    for protocol in (Model, EncoderModel, ForwardModel, ExactModel):
        assert isinstance(model, protocol) == (protocol in fulfilled)
        if protocol in fulfilled:
            for name in members(protocol):
                inspect.getattr_static(model, name)  # as isinstance() does from Python 3.12 on


def test_a_law_may_bring_its_own_crps():
    class Laplace(torch.distributions.Laplace):
        def crps(self, truth):
            return (truth - self.loc).abs()

    law = Laplace(torch.zeros(2), torch.ones(2))
    assert has_closed_crps(law) and not has_closed_crps(torch.distributions.Laplace(0.0, 1.0))
    assert law_crps(law, torch.tensor([1.0, -3.0])).tolist() == [1.0, 3.0]


def test_the_order_of_confidence_needs_laws_with_a_mean():
    model = make_model(make_series(), TWO_WAY_ENCODERS["two-way gru"])
    AnyOrder(order="confidence").check(model)
    model.head.has_mean = False
    AnyOrder(order="random").check(model)
    with pytest.raises(ValueError, match="order must be random or time for laws without a mean"):
        AnyOrder(order="confidence").check(model)
