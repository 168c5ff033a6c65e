"""The head on frozen features."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from clmr.config import Config
from clmr.modules import LinearEvaluation

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

TAGS = ("left", "high")


def head(n_features=3, **changed):
    torch.manual_seed(0)
    return LinearEvaluation(Config(**changed), n_features, TAGS)


def features(n=400, seed=0):
    """Features of other scales, and labels that two straight lines tell apart."""
    rng = np.random.default_rng(seed)
    h = rng.uniform(-1, 1, (n, 2))
    labels = np.stack([h[:, 0] < 0.2, h[:, 0] + 2 * h[:, 1] > 0], axis=1)
    h = h * [1e-3, 100] + [5, -300]
    return torch.from_numpy(h).float(), torch.from_numpy(labels.astype(np.uint8))


def test_a_linear_head_is_one_matrix_and_one_offset():
    ours = head()
    h = torch.randn(5, 3)
    weight, bias = ours.model[0].weight, ours.model[0].bias
    assert [tuple(p.shape) for p in ours.parameters()] == [(2, 3), (2,)]
    torch.testing.assert_close(ours(h), h @ weight.T + bias)


def test_an_mlp_head_has_one_hidden_layer_as_wide_as_the_features():
    ours = head(finetuner_mlp=True)
    (w1, b1, w2, b2) = ours.parameters()
    assert [tuple(p.shape) for p in (w1, b1, w2, b2)] == [(3, 3), (3,), (2, 3), (2,)]
    h = torch.randn(5, 3)
    torch.testing.assert_close(ours(h), (h @ w1.T + b1).clamp(min=0) @ w2.T + b2)


def test_standardised_features_have_mean_0_and_deviation_1():
    h, _ = features()
    ours = head(2)
    ours.standardize(h)
    ours.model = torch.nn.Identity()
    z = ours(h).double()
    assert z.mean(dim=0).abs().max() < 1e-2  # of a mean 5,000 times the deviation
    torch.testing.assert_close(z.std(dim=0, unbiased=False), torch.ones(2).double(), rtol=1e-3,
                               atol=0)  # fmt: skip


def test_other_features_are_standardised_by_those_of_training():
    ours = head(1)
    ours.standardize(torch.tensor([[1.0], [3.0]]))  # mean 2, deviation 1
    ours.model = torch.nn.Identity()
    assert ours(torch.tensor([[7.0]])).item() == 5


@pytest.mark.parametrize("constant", [0.0, 1e-20, 0.1, -3e5])
def test_a_feature_that_is_always_the_same_but_for_rounding_does_no_harm(constant):
    h = torch.full((50, 2), constant)
    h[::2, 0] *= 1 + 1e-7
    h[:, 1] = torch.arange(50)
    ours = head(2)
    ours.standardize(h)
    ours.model = torch.nn.Identity()
    z = ours(h)
    assert z[:, 0].abs().max() <= 1
    assert z[:, 1].std(unbiased=False).item() == pytest.approx(1, rel=1e-5)
    # Nor does one that is slightly different in another split become huge.
    assert ours(h + torch.tensor([1e-3, 0]))[:, 0].abs().max() <= 1


def test_the_loss_is_the_mean_binary_cross_entropy_over_clips_and_tags(monkeypatch):
    logged = {}
    monkeypatch.setattr(LinearEvaluation, "log", lambda self, n, v, **_: logged.update({n: v}))
    ours, h = head(), torch.randn(4, 3)
    labels = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.uint8)
    p = 1 / (1 + np.exp(-ours(h).detach().double().numpy()))
    y = labels.numpy()
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert ours.training_step((h, labels), 0).item() == pytest.approx(expected, rel=1e-5)
    assert ours.validation_step((h, labels), 0).item() == pytest.approx(expected, rel=1e-5)
    assert list(logged) == ["Train/loss", "Valid/loss"]


def test_the_optimizer_has_the_rates_of_the_settings():
    ours = head(finetuner_learning_rate=0.0123, weight_decay=0.045, learning_rate=9.0)
    optimizer = ours.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.0123, 0.045)
    assert {id(p) for p in group["params"]} == {id(p) for p in ours.parameters()}


def test_the_rate_falls_to_a_tenth_after_five_epochs_without_a_better_validation_loss():
    schedule = head(finetuner_learning_rate=1).configure_optimizers()
    scheduler = schedule["lr_scheduler"]["scheduler"]
    assert schedule["lr_scheduler"]["monitor"] == "Valid/loss"
    rates = []
    for loss in (3, 2, 2, 2, 2, 2, 2, 2, 1):
        scheduler.step(loss)
        rates.append(schedule["optimizer"].param_groups[0]["lr"])
    assert rates == pytest.approx([1] * 7 + [0.1] * 2)  # five are waited for, the sixth is it


def fit(ours, n_epochs):
    batches = DataLoader(TensorDataset(*features()), batch_size=50, shuffle=True)
    valid = DataLoader(TensorDataset(*features(seed=1)), batch_size=50)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=n_epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(ours, batches, valid)
    h, labels = features(seed=2)
    with torch.no_grad():
        return ((ours(h) > 0) == labels.bool()).double().mean().item()


@pytest.mark.parametrize("mlp", [False, True])
def test_it_learns_what_a_straight_line_can_tell_apart(mlp):
    ours = head(2, finetuner_learning_rate=0.05, finetuner_mlp=mlp)
    ours.standardize(features()[0])
    assert fit(ours, 20) > 0.97


def test_settings_tags_and_width_are_kept_as_plain_values():
    ours = head()
    assert dict(ours.hparams) == {
        **Config().to_dict(), "n_features": 3, "tags": ["left", "high"],
    }  # fmt: skip
