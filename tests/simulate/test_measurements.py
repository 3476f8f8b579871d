"""Transforms, resolution, units, channels and faults against their formulas."""

import math

import numpy as np
import pytest

from tsgen.simulate.measurements import (
    Censored,
    Counts,
    Faults,
    Mirrored,
    Rounding,
    Saturated,
    Skewed,
    Softplus,
    Unchanged,
    Units,
    mixed,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


LATENT = generator(9).standard_normal((40, 50, 30))


@pytest.mark.parametrize(
    ("transform", "formula"),
    [
        (Unchanged(), lambda x: x),
        (Skewed(0.7), lambda x: math.exp(0.7 * x)),
        (Skewed(-0.5), lambda x: math.exp(-0.5 * x)),
        (Mirrored(0.4), lambda x: -math.exp(0.4 * x)),
        (Softplus(1.5, 0.5), lambda x: math.log(1 + math.exp(1.5 * (x + 0.5)))),
        (Saturated(0.8, -0.3), lambda x: math.tanh(0.8 * x - 0.3)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_transform_is_its_formula(transform, formula):
    values = transform.apply(generator(), LATENT)
    for at in [(0, 0, 0), (3, 4, 5), (39, 49, 29)]:
        assert values[at] == pytest.approx(formula(LATENT[at]))
    if isinstance(transform, Skewed | Mirrored):
        far = transform.apply(generator(), 1000 * np.sign(transform.strength) * np.ones((1, 1, 1)))
        assert abs(float(far.item())) == pytest.approx(math.exp(5))


def test_censored_values_have_the_share_of_zeros():
    values = Censored(0.6, 1.5, 0.0).apply(generator(), LATENT)
    assert (values == 0).mean() == pytest.approx(0.6, abs=1e-4)
    quantile = np.quantile(LATENT, 0.6)
    at = np.unravel_index(LATENT.argmax(), LATENT.shape)
    assert values[at] == pytest.approx((LATENT[at] - quantile) ** 1.5)
    zeros = (Censored(0.6, 1.5, 1.0).apply(generator(), LATENT) == 0).mean(axis=(0, 1))
    assert zeros.std() > 0.2, "nodes differ"


def test_counts_are_poisson_log_normal():
    counts = Counts(1.0, 0.5, 0.0).apply(generator(), LATENT)
    assert (counts == np.rint(counts)).all() and (counts >= 0).all()
    mean = np.exp(1.0 + 0.5 * LATENT)
    z = (counts - mean) / np.sqrt(mean)
    assert abs(z.mean()) < 5 / z.size**0.5
    assert abs((z**2).mean() - 1) < 5 * (z**2).std() / z.size**0.5
    # E x = exp(m + k^2 / 2 + s z_v), if x is standard normal
    of_nodes = np.log(Counts(3.0, 0.5, 0.8).apply(generator(), LATENT).mean(axis=(0, 1))) - 3 - 0.5**2 / 2
    assert of_nodes.std() == pytest.approx(0.8, rel=0.4)
    assert Counts(9.0, 5.0, 0.0).apply(generator(), 10 * np.ones((1, 1, 1))).item() < 11_000


def test_rounded_values_are_multiples():
    values = 3 * LATENT + 5
    rounded, step = Rounding(0.2).apply(values), 0.2 * values.std()
    assert np.abs(rounded / step - np.rint(rounded / step)).max() < 1e-6
    assert np.abs(rounded - values).max() <= step / 2 + 1e-9
    constant = np.full((2, 3, 4), 1.5)
    assert (Rounding(0.2).apply(constant) == constant).all()


def test_units_of_nodes_are_log_normal_scales_and_normal_locations():
    loc, scale = Units(10.0, 0.5, 3.0, 2.0).of_nodes(generator(), 4000)
    logs, relative = np.log(scale / 10), loc / scale
    for numbers, mean, deviation in ((logs, 0, 0.5), (relative, 3, 2)):
        assert abs(numbers.mean() - mean) < 5 * deviation / 4000**0.5
        assert abs(numbers.std() / deviation - 1) < 5 / 8000**0.5
    loc, scale = Units(7.0, 0.0, 0.0, 0.0).of_nodes(generator(), 3)
    assert (loc == 0).all() and (scale == 7).all()


def test_channels_are_mixtures_of_unit_length():
    latent = generator(1).standard_normal((100, 100, 5, 3))
    independent = mixed(generator(), latent, 1.0)
    np.testing.assert_allclose(independent, latent)
    channels = mixed(generator(), latent, 0.3)
    flat, source = channels.reshape(-1, 3), latent.reshape(-1, 3)
    matrix = np.linalg.lstsq(source, flat, rcond=None)[0].T
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
    expected = 0.3 * np.eye(3) + 0.7 * generator().standard_normal((3, 3))
    np.testing.assert_allclose(matrix, expected / np.linalg.norm(expected, axis=1, keepdims=True))
    assert np.abs(np.corrcoef(flat.T)[np.triu_indices(3, 1)]).max() > 0.2


def test_a_faulty_node_drifts_is_stuck_or_has_spikes():
    values = generator(2).standard_normal((30, 40, 60, 1)) * 3 + 8
    visible = np.ones(values.shape, dtype=bool)
    visible[:, ::7] = False
    error = Faults(1.0, 0.05).corrupt(generator(), values, visible) - values
    assert (error[~visible] == 0).all()
    error = Faults(1.0, 0.05).corrupt(generator(), values, np.ones_like(visible)) - values
    kinds = {"drift": 0, "stuck": 0, "spikes": 0}
    for node in range(60):
        wrong, reported = error[:, :, node, 0], (error + values)[:, :, node, 0]
        bend, share = np.abs(np.diff(wrong, n=2, axis=1)), (wrong != 0).mean()
        if ((bend > 1e-6).sum(axis=1) <= 1).all():  # zero, then a straight line
            kinds["drift"] += 1
            assert (wrong[:, 0] == 0).all() and 0.2 < share < 0.8
            assert 1 < wrong[:, -1].std() < 10
        elif share < 0.1:
            kinds["spikes"] += 1
            assert share == pytest.approx(0.05, abs=0.03)
            assert wrong[wrong != 0].std() == pytest.approx(18, rel=0.5)
        else:
            kinds["stuck"] += 1
            where = np.abs(wrong) > 1e-9
            # during the fault the value is that of its onset
            same = np.abs(np.diff(reported, axis=1)) < 1e-9
            assert (same | ~where[:, 1:]).all()
    assert min(kinds.values()) > 8, kinds
    some = Faults(0.25).corrupt(generator(), values, np.ones_like(visible)) != values
    assert some.any(axis=(0, 1, 3)).mean() == pytest.approx(0.25, abs=0.15)
