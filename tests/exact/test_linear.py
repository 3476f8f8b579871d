"""The graph VAR against published numbers, statsmodels and dense conditioning on its autocovariances."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_var import NODES, autocovariances, given, make_batch, make_var, z_of
from statsmodels.tsa.statespace.sarimax import SARIMAX
from statsmodels.tsa.statespace.varmax import VARMAX
from torch_geometric.data import Data

from tsgen.data.series import SeriesBatch
from tsgen.exact.linear import CONTEXT_FLOOR, VARProcess

REFERENCES = json.loads((Path(__file__).parents[1] / "references.json").read_text())


def test_presidents_with_an_ar3_equal_the_published_answers():
    reference = REFERENCES["presidents"]
    phi = torch.tensor(reference["phi"], dtype=torch.float64)
    noise = torch.tensor([[reference["noise_variance"]]], dtype=torch.float64)
    var = VARProcess(phi[:, None, None], reference["mean"] * (1 - phi.sum())[None], noise)
    values = torch.tensor([math.nan if x is None else x for x in reference["values"]]).double()[None, :, None]
    context = values.isfinite()
    assert float(var.log_prob(values, context)) == pytest.approx(reference["log_likelihood"], abs=1e-6)
    batch = SeriesBatch(
        values=values[..., None],
        context=context[..., None],
        target=torch.zeros_like(context[..., None]),
        graph=Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=1),
        position=torch.arange(values.shape[1])[None],
    )
    posterior = var.posterior(batch)
    missing = reference["missing"]
    assert (~context).nonzero()[:, 1].tolist() == missing
    np.testing.assert_allclose(
        posterior.mean[0, missing, 0, 0], reference["posterior_mean"], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        posterior.stddev[0, missing, 0, 0], reference["posterior_scale"], rtol=0, atol=1e-6
    )


def test_likelihood_and_smoother_equal_statsmodels_for_a_var_with_missing_values():
    var = make_var(2)
    values = var.simulate(60, seed=1)
    context = torch.rand(60, NODES, generator=torch.Generator().manual_seed(1)) < 0.7
    values = values.masked_fill(~context, torch.nan)
    model = VARMAX(values.numpy(), order=(2, 0), trend="c")
    factor = torch.linalg.cholesky(var.covariance)
    lower = torch.tril_indices(NODES, NODES)
    # one row per equation, lag after lag
    weights = var.coefficients.permute(1, 0, 2).flatten()
    parameters = torch.cat([var.intercept, weights, factor[lower[0], lower[1]]])
    fitted = model.smooth(parameters.numpy(), cov_type="none")
    assert float(var.log_prob(values[None], context[None])) == pytest.approx(fitted.llf, abs=1e-6)
    batch = SeriesBatch(
        values=values[None, ..., None],
        context=context[None, ..., None],
        target=torch.zeros_like(context)[None, ..., None],
        graph=Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=NODES),
        position=torch.arange(60)[None],
    )
    posterior = var.posterior(batch)
    unknown = ~context
    smoothed = torch.from_numpy(fitted.smoother_results.smoothed_state[:NODES].T.copy())
    variance = torch.from_numpy(np.diagonal(fitted.smoother_results.smoothed_state_cov)[:, :NODES].copy())
    torch.testing.assert_close(posterior.mean[0, ..., 0][unknown], smoothed[unknown], rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior.variance[0, ..., 0][unknown], variance[unknown], rtol=0, atol=1e-6)


def test_likelihood_equals_statsmodels_for_an_ar_with_missing_values():
    phi = torch.tensor([0.6, -0.4, 0.2], dtype=torch.float64)
    var = VARProcess(phi[:, None, None], torch.tensor([0.5]), torch.tensor([[2.0]]))
    values = var.simulate(50, seed=2)
    values[[0, 7, 8, 9, 30, 49]] = torch.nan
    fitted = SARIMAX(values[:, 0].numpy(), order=(3, 0, 0), trend="c").filter(
        [0.5, *phi.tolist(), 2.0], cov_type="none"
    )
    context = values.isfinite()
    assert float(var.log_prob(values[None], context[None])) == pytest.approx(fitted.llf, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_log_prob_is_the_product_of_one_step_laws(order):
    var = make_var(order)
    values = var.simulate(12, seed=3)
    start = var.state_space()
    first = torch.distributions.MultivariateNormal(start.initial_mean, start.initial_covariance)
    expected = first.log_prob(values[:order].flip(0).flatten())
    for t in range(order, 12):
        mean = var.intercept + sum(var.coefficients[k] @ values[t - 1 - k] for k in range(order))
        expected = expected + torch.distributions.MultivariateNormal(mean, var.covariance).log_prob(values[t])
    torch.testing.assert_close(var.log_prob(values[None])[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_laws_of_single_entries_equal_dense_conditioning(order):
    var, batch = make_var(order), make_batch()
    law = autocovariances(var, 6)
    predictive, posterior = var.predictive(batch), var.posterior(batch)
    assert predictive.batch_shape == posterior.batch_shape == batch.values.shape
    for b in range(4):
        values, known = batch.values[b].flatten().numpy(), batch.context[b].flatten().numpy()
        mean, covariance = given(law, known, values)
        np.testing.assert_allclose(posterior.mean[b].flatten(), mean, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            posterior.variance[b].flatten()[~known], np.diag(covariance)[~known], rtol=0, atol=1e-8
        )
        for t in range(6):
            mean, covariance = given(law, known & (np.arange(len(known)) < t * NODES), values)
            now = slice(t * NODES, (t + 1) * NODES)
            np.testing.assert_allclose(predictive.mean[b, t, :, 0], mean[now], rtol=0, atol=1e-8)
            np.testing.assert_allclose(
                predictive.variance[b, t, :, 0], np.diag(covariance)[now], rtol=0, atol=1e-8
            )
    # what is known has its value and a floor, so that a density exists
    assert torch.equal(posterior.mean[batch.context], batch.values[batch.context])
    deviation = torch.from_numpy(np.diag(law[1])[:NODES].copy()).sqrt()[:, None].expand(batch.context.shape)
    torch.testing.assert_close(
        posterior.stddev[batch.context], (CONTEXT_FLOOR * deviation)[batch.context], rtol=1e-9, atol=0
    )


def test_imputations_follow_the_posterior():
    var, batch = make_var(2), make_batch()
    samples = var.impute(batch, 10_000, seed=0)
    assert samples.conditioning == "posterior"
    assert samples.values.shape == (10_000, *batch.values.shape)
    assert torch.equal(samples.values[:, batch.context], batch.values[batch.context].expand(10_000, -1))
    law = autocovariances(var, 6)
    for b in range(4):
        unknown = ~batch.context[b].flatten().numpy()
        mean, covariance = given(law, ~unknown, batch.values[b].flatten().numpy())
        drawn = samples.values[:, b].flatten(1)[:, unknown] - torch.from_numpy(mean[unknown])
        part = torch.from_numpy(covariance[np.ix_(unknown, unknown)])
        variance = part.diagonal()
        assert z_of(drawn, variance.sqrt()).abs().max() < 5
        # a product of two Gaussians has variance c_ii c_jj + c_ij^2
        error = (variance[:, None] * variance + part**2).sqrt()
        assert z_of(drawn[:, :, None] * drawn[:, None] - part, error).abs().max() < 5


def test_imputations_depend_on_seed_and_window_alone():
    var, batch = make_var(1), make_batch(dtype=torch.float32)
    drawn = var.impute(batch, 3, seed=0).values
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn[:, batch.context], batch.values[batch.context].expand(3, -1))
    torch.testing.assert_close(var.impute(batch.rows(slice(1, 3)), 3, seed=0).values, drawn[:, 1:3])
    other = var.impute(batch, 3, seed=1).values
    assert not torch.isclose(drawn, other)[:, ~batch.context].any()
    assert not torch.isclose(drawn[0], drawn[1])[~batch.context].any()


@pytest.mark.parametrize("order", [1, 2])
def test_simulated_series_follow_the_recursion(order):
    var = make_var(order)
    series = var.simulate(8000, seed=0)
    assert torch.equal(series, var.simulate(8000, seed=0))
    lagged = torch.stack([series[order - 1 - k : 8000 - 1 - k] for k in range(order)])
    noise = series[order:] - var.intercept - torch.einsum("kvu,ktu->tv", var.coefficients, lagged)
    variance = var.covariance.diagonal()
    assert z_of(noise, variance.sqrt()).abs().max() < 5
    products = noise[:, :, None] * noise[:, None] - var.covariance
    assert z_of(products, (variance[:, None] * variance + var.covariance**2).sqrt()).abs().max() < 5
    # the noise knows nothing of the past: not with other signs, lags or edges
    law = var.state_space()
    past = (lagged - law.initial_mean[: var.num_nodes])[0]
    products = noise[:, :, None] * past[:, None]
    spread = (variance[:, None] * law.initial_covariance.diagonal()[: var.num_nodes]).sqrt()
    assert z_of(products, spread).abs().max() < 5


def test_the_stationary_law_solves_its_equation_up_to_the_unit_circle():
    var = VARProcess(torch.tensor([[[0.5, 0.0], [0.3, 0.99999]]]), torch.ones(2), torch.eye(2))
    law = var.state_space()
    gamma = law.initial_covariance
    again = law.transition @ gamma @ law.transition.T + law.noise_covariance
    torch.testing.assert_close(again, gamma, rtol=1e-12, atol=0)
    torch.testing.assert_close(law.transition @ law.initial_mean + law.offset, law.initial_mean)
    mean, covariance = autocovariances(make_var(2), 2)
    law = make_var(2).state_space()
    np.testing.assert_allclose(law.initial_mean, mean, rtol=0, atol=1e-12)
    # the state holds the later slice first
    order = np.r_[NODES : 2 * NODES, 0:NODES]
    np.testing.assert_allclose(law.initial_covariance, covariance[np.ix_(order, order)], rtol=0, atol=1e-12)


def test_what_is_no_stationary_process_is_refused(as_a_user):
    unit = torch.eye(2)
    with pytest.raises(ValueError, match=r"largest root must be below 1; it is 1\.1\."):
        VARProcess(1.1 * unit[None], torch.zeros(2), unit)
    with pytest.raises(ValueError, match=r"positive definite; its smallest eigenvalue is -1\."):
        VARProcess(0.5 * unit[None], torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="covariance must be symmetric"):
        VARProcess(0.5 * unit[None], torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"coefficients must have shape \[1, 2, 2\] for 2 nodes"):
        VARProcess(torch.zeros(0, 2, 2), torch.zeros(2), unit)
    with pytest.raises(ValueError, match=r"covariance must have shape \[2, 2\] for 2 nodes"):
        VARProcess(0.5 * unit[None], torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="intercept must be finite"):
        VARProcess(0.5 * unit[None], torch.tensor([0.0, torch.nan]), unit)


def test_batches_that_do_not_fit_are_refused():
    batch = make_batch()
    with pytest.raises(ValueError, match="must have 1 entries in a slice; it has 3 nodes"):
        VARProcess(torch.zeros(1, 1, 1), torch.zeros(1), torch.ones(1, 1)).posterior(batch)
    with pytest.raises(ValueError, match="num_samples must be at least 1; it is 0"):
        make_var(1).impute(batch, 0)
