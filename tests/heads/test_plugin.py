"""The head of the page's section "A head of your own", as its reader would use it: in a module of their own,
in the two tables of the contract tests, trained, saved and loaded."""

import importlib
import re
import sys
from functools import partial
from pathlib import Path

import conftest
import pytest
import test_contract
import test_heads
import torch
from conftest import ENCODERS, TWO_WAY_ENCODERS, make_batch, make_model, make_series
from lightning import Trainer
from test_likelihood import CauchyHead
from torch.distributions import Categorical, Gumbel, MixtureSameFamily, StudentT
from torch.utils.data import DataLoader

from tsgen.data.series import SeriesSpec
from tsgen.heads import ConditionalHead, Head
from tsgen.metrics import has_closed_crps
from tsgen.models import AutoregressiveModel, load
from tsgen.objectives import MaskedNLL
from tsgen.storage.components import describe, restore

PAGE = Path(__file__).parents[2] / "docs" / "heads.md"
SECTION = PAGE.read_text("utf-8").split("## A head of your own")[1].split("\n## ")[0]
EVERY_HEAD = [
    test_heads.test_a_density_integrates_to_one_and_draws_follow_it,
    test_heads.test_what_a_head_states_of_its_laws_is_true,
    test_heads.test_gradients_reach_every_parameter,
    test_heads.test_a_draw_is_differentiable,
]
WITH_MEAN = [test_heads.test_what_is_unknown_changes_nothing, test_heads.test_units_are_only_units]
EVERY_PAIR = [
    test_contract.test_one_density_for_each_entry_and_gradients_for_every_parameter,
    test_contract.test_nothing_is_read_outside_the_masks,
    test_contract.test_no_entry_depends_on_what_it_must_not_see,
]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module that the page asks for."""
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    del sys.modules["mine"]


@pytest.mark.parametrize("test", EVERY_HEAD + WITH_MEAN)
def test_it_keeps_the_contract_of_a_head(test, mine, monkeypatch):
    monkeypatch.setitem(test_heads.HEADS, "gumbel", mine.GumbelHead)
    test("gumbel")
    monkeypatch.setitem(test_heads.HEADS, "gumbel", partial(ConditionalHead, head=mine.GumbelHead))
    test("gumbel")


@pytest.mark.parametrize("test", EVERY_HEAD)
def test_a_head_without_a_mean_keeps_it_too(test, monkeypatch):
    monkeypatch.setitem(test_heads.HEADS, "cauchy", CauchyHead)
    test("cauchy")


@pytest.mark.parametrize("test", EVERY_PAIR)
@pytest.mark.parametrize("encoder", ["gru", "attention", "two-way gru"])
def test_it_keeps_the_contract_beside_encoders(test, encoder, mine, monkeypatch, series):
    monkeypatch.setitem(conftest.HEADS, "gumbel", mine.GumbelHead)
    model = make_model(series, (ENCODERS | TWO_WAY_ENCODERS)[encoder], conftest.HEADS["gumbel"])
    test(*({"model": model, "batch": make_batch(series)}).values())


def test_the_quantiles_are_those_of_the_law(mine):
    head, levels = mine.GumbelHead(1, test_heads.SIZES), [1e-9, 0.025, 0.5, 0.9, 0.999]
    law = Gumbel(torch.tensor(3.0, dtype=torch.float64), 2.0)
    found = head.quantile(law, torch.tensor(levels, dtype=torch.float64)[:, None])
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = torch.from_numpy(scipy_stats.gumbel_r.ppf(levels, 3.0, 2.0))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_statements_that_the_page_lists_are_all_there_are(mine):
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert listed == list(Head.__annotations__)


def trained(series, head, folder, **options):
    """A model after two steps of training and a validation."""
    model = AutoregressiveModel(SeriesSpec.of(series), ENCODERS["gru"], head, **options)
    loader = DataLoader([make_batch(series)] * 2, batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader, loader)
    return model, trainer


def test_it_is_trained_saved_and_loaded(mine, series, tmp_path):
    batch = make_batch(series)
    model, trainer = trained(series, mine.GumbelHead, tmp_path)
    assert "val/nll" in trainer.callback_metrics and "val/crps" not in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="mine"):
        load(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt", trusted=["mine"])
    assert isinstance(loaded.head, mine.GumbelHead)
    assert torch.equal(loaded.log_prob(batch), model.eval().log_prob(batch))
    head = restore(describe(partial(ConditionalHead, head=mine.GumbelHead)), (Head,), ["mine"])
    assert isinstance(head(4, test_heads.SIZES).head, mine.GumbelHead)


class StudentMixtureHead(CauchyHead):
    """Mixtures whose components are no Gaussians."""

    has_mean, has_cdf, has_icdf = True, False, False

    def forward(self, h, values, context, units, covariates=None):
        cauchy = super().forward(h, values, context, units)
        loc = torch.stack([cauchy.loc, cauchy.loc + units.scale], dim=-1)
        component = StudentT(3.0, loc, cauchy.scale[..., None], validate_args=False)
        weights = Categorical(logits=torch.zeros_like(loc))
        return MixtureSameFamily(weights, component, validate_args=False)


def test_a_mixture_of_others_than_gaussians_is_validated(series, tmp_path):
    """Without a CRPS in closed form validation scores the density alone; a loss that needs one is refused."""
    batch = make_batch(series)
    model, trainer = trained(series, StudentMixtureHead, tmp_path)
    assert not has_closed_crps(model(batch))
    assert "val/nll" in trainer.callback_metrics and "val/crps" not in trainer.callback_metrics
    _, trainer = trained(series, CauchyHead, tmp_path)
    assert torch.isfinite(trainer.callback_metrics["val/nll"])
    for head in (StudentMixtureHead, partial(ConditionalHead, head=StudentMixtureHead)):
        with pytest.raises(ValueError, match="crps_weight must be 0 for laws whose CRPS has no") as error:
            trained(series, head, tmp_path, objective=MaskedNLL(crps_weight=0.5))
        assert "\n" not in str(error.value) and "it is 0.5" in str(error.value)
    trained(make_series(), conftest.HEADS["mixture"], tmp_path, objective=MaskedNLL(crps_weight=0.5))
