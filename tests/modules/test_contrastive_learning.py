"""The pretraining module: the views it makes, the loss it takes, and that every setting counts."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from simclr.modules import NT_Xent

from clmr.augmentations import AUGMENTATIONS
from clmr.config import Config
from clmr.errors import ConfigError
from clmr.modules import ContrastiveLearning
from clmr.modules.contrastive_learning import TRAIN, VALID

N_SAMPLES = 12_000  # longer than the longest delay
WINDOW = 59_049
OFF = {f"transforms_{name}": 0 for name in AUGMENTATIONS}
ON = {f"transforms_{name}": 1 for name in AUGMENTATIONS}


def module(**changed):
    torch.manual_seed(0)
    known = {"encoder": "sample_cnn_small", "batch_size": 3}
    return ContrastiveLearning(Config(**(known | changed)))


def pairs(n_clips=3, n_samples=N_SAMPLES):
    generator = torch.Generator().manual_seed(1)
    shape = (n_clips, 2, n_samples)
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=generator)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def stand(monkeypatch):
    """Put the module on a device and at a step, as a trainer would."""

    def put(rank=0, step=0):
        monkeypatch.setattr(ContrastiveLearning, "global_rank", rank)
        monkeypatch.setattr(ContrastiveLearning, "global_step", step)

    put()
    monkeypatch.setattr(ContrastiveLearning, "log", lambda *args, **kwargs: None)
    return put


def optimizer_of(ours, n_steps=100):
    ours.trainer = SimpleNamespace(estimated_stepping_batches=n_steps, strategy=None)
    return ours.configure_optimizers()["optimizer"]


# Views.


def test_without_augmentation_the_views_are_the_crops_at_full_scale_1():
    pcm = pairs()
    x_i, x_j = module(**OFF).views(pcm, TRAIN, 0)
    assert x_i.dtype == x_j.dtype == torch.float32
    assert torch.equal(x_i[:, 0].double(), pcm[:, 0].double() / 32768)
    assert torch.equal(x_j[:, 0].double(), pcm[:, 1].double() / 32768)


def test_the_crops_are_left_as_they_were():
    pcm = pairs()
    module(**ON).views(pcm, TRAIN, 0)
    assert torch.equal(pcm, pairs())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_probability_of_the_settings_is_that_of_its_augmentation(name):
    plain = torch.cat(module(**OFF).views(pairs(), TRAIN, 0))
    on = torch.cat(module(**(OFF | {f"transforms_{name}": 1})).views(pairs(), TRAIN, 0))
    off = torch.cat(module(**(ON | {f"transforms_{name}": 0})).views(pairs(), TRAIN, 0))
    every = torch.cat(module(**ON).views(pairs(), TRAIN, 0))
    assert (on != plain).any(dim=-1).all()
    assert (off != every).any(dim=-1).all()


def test_polarity_alone_turns_every_view_upside_down():
    settings = OFF | {"transforms_polarity": 1}
    plain, turned = module(**OFF), module(**settings)
    x_i, x_j = plain.views(pairs(), TRAIN, 0)
    assert same(turned.views(pairs(), TRAIN, 0), (-x_i, -x_j))


def test_the_augmentations_know_the_sample_rate():
    clicks = torch.zeros(3, 2, 4000, dtype=torch.int16)
    clicks[..., 0] = 2**14
    slow = module(sample_rate=8000, **(OFF | {"transforms_delay": 1}))
    for x in slow.views(clicks, TRAIN, 0):
        echoes = torch.nonzero(x[:, 0, 1:])[:, 1] + 1
        assert len(echoes) == 3
        assert ((echoes >= 0.2 * 8000) & (echoes <= 0.45 * 8000)).all()
        assert (echoes % (0.05 * 8000) == 0).all()


def test_the_two_views_and_all_clips_are_augmented_each_in_its_own_way():
    pcm = pairs(1)[:, :1].repeat(6, 2, 1)  # twelve times the same crop
    views = torch.cat(module(**(OFF | {"transforms_gain": 1})).views(pcm, TRAIN, 0))
    loudness = views.abs().sum(dim=(1, 2))
    assert len(loudness.unique()) == 12


def test_what_is_drawn_is_a_function_of_seed_device_stream_and_step(stand):
    def views(seed=42, rank=0, stream=TRAIN, step=5):
        stand(rank=rank)
        return module(seed=seed).views(pairs(), stream, step)

    assert same(views(), views())
    for other in ({"seed": 43}, {"rank": 1}, {"stream": VALID}, {"step": 6}):
        assert not same(views(**other), views())


def test_crops_that_were_augmented_where_they_were_read_are_the_views():
    crops = torch.randn(3, 2, N_SAMPLES, generator=torch.Generator().manual_seed(2))
    x_i, x_j = module(augmentations="reference", **ON).views(crops, TRAIN, 0)
    assert torch.equal(x_i[:, 0], crops[:, 0])
    assert torch.equal(x_j[:, 0], crops[:, 1])


@pytest.mark.parametrize("augmentations", ["clmr", "reference"])
def test_a_sample_rate_too_low_for_the_filters_is_refused(augmentations):
    with pytest.raises(ConfigError, match="^--transforms_filters: lowpass_freq: .* 4000"):
        module(augmentations=augmentations, sample_rate=4000)


def test_earlier_steps_and_global_randomness_change_nothing():
    fresh, used = module(), module()
    for step in range(3):
        used.views(pairs(), TRAIN, step)
    torch.manual_seed(99)
    assert same(used.views(pairs(), TRAIN, 3), fresh.views(pairs(), TRAIN, 3))


# Steps.


def loss_of(module, temperature):
    """SimCLR's own loss of the first batch of training."""
    with torch.no_grad():
        x_i, x_j = module.views(pairs(3, WINDOW), TRAIN, 0)
        z_i, z_j = (module.model.projector(module.model.encoder(x)) for x in (x_i, x_j))
        return NT_Xent(3, temperature, world_size=1)(z_i, z_j).item()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_a_training_step_is_simclrs_loss_of_the_two_views_at_the_temperature(temperature, stand):
    ours = module(temperature=temperature)
    found = ours.training_step(pairs(3, WINDOW), 0)
    assert found.requires_grad
    assert found.item() == pytest.approx(loss_of(ours, temperature), rel=1e-5)
    assert found.item() != pytest.approx(loss_of(ours, 2 * temperature), rel=1e-3)


def test_each_step_of_training_has_draws_of_its_own(stand):
    ours, pcm = module(), pairs(3, WINDOW)
    losses = []
    for step in (0, 1, 0):
        stand(step=step)
        losses.append(ours.training_step(pcm, 7).item())
    assert losses[0] == losses[2] != losses[1]


def test_validation_has_the_same_draws_in_every_epoch_and_others_in_each_batch(stand):
    ours, pcm = module(), pairs(3, WINDOW)
    losses = []
    for step, batch in ((0, 0), (1000, 0), (1000, 1)):
        stand(step=step)
        losses.append(ours.validation_step(pcm, batch).item())
    assert losses[0] == losses[1] != losses[2]


def test_a_gradient_reaches_encoder_and_projector(stand):
    ours = module()
    ours.training_step(pairs(3, WINDOW), 0).backward()
    weights = [p for name, p in ours.named_parameters() if name.endswith("weight")]
    assert len(weights) == 22  # ten layers of convolution and batch norm, and the projector's two
    assert all(p.grad.abs().max() > 0 for p in weights)


@pytest.mark.parametrize("projection_dim", [16, 64])
def test_the_projector_is_that_of_simclr_at_the_width_of_the_settings(projection_dim):
    ours = module(projection_dim=projection_dim)
    first, second = (ours.model.projector[k].weight for k in (0, 2))
    assert first.shape == (256, 256)
    assert second.shape == (projection_dim, 256)
    h = torch.randn(5, 256)
    expected = F.relu(h @ first.T) @ second.T  # Chen et al. 2020: W2 relu(W1 h)
    torch.testing.assert_close(ours.model.projector(h), expected)


def test_features_are_the_encoders_and_not_the_projectors():
    ours = module().eval()
    x = 0.1 * torch.randn(2, 1, WINDOW)
    h = ours(x)
    assert h.shape == (2, 256)
    torch.testing.assert_close(h, ours.model.encoder.sequential(x)[..., 0, 0])


def test_the_optimizer_is_adam_on_all_weights_with_the_rates_of_the_settings():
    ours = module(learning_rate=0.0123, weight_decay=0.045)
    optimizer = optimizer_of(ours)
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.0123, 0.045)
    assert {id(p) for p in group["params"]} == {id(p) for p in ours.model.parameters()}


def test_the_optimizer_of_the_settings_has_their_rate_decay_and_momentum():
    changed = {"learning_rate": 0.5, "weight_decay": 0.045, "momentum": 0.3}
    (group,) = optimizer_of(module(optimizer="sgd", **changed)).param_groups
    assert {name: group["lr" if name == "learning_rate" else name] for name in changed} == changed


def test_the_first_step_of_adam_moves_every_weight_by_the_learning_rate(stand):
    # Kingma & Ba 2015, arXiv:1412.6980: the first update is -lr * g / |g|, however small g is
    # against 1e-8.
    ours = module(learning_rate=0.01, weight_decay=0)
    weight = ours.model.projector[2].weight
    before = weight.detach().clone()
    optimizer = optimizer_of(ours)
    ours.training_step(pairs(3, WINDOW), 0).backward()
    clear = weight.grad.abs() > 1e-5
    optimizer.step()
    assert clear.any()
    moved = (weight.detach() - before)[clear]
    torch.testing.assert_close(moved, -0.01 * weight.grad[clear].sign(), rtol=1e-2, atol=0)


def test_the_settings_are_kept_as_plain_values():
    ours = module(temperature=0.25)
    assert dict(ours.hparams) == ours.config.to_dict()
    assert ours.hparams["temperature"] == 0.25


@pytest.mark.parametrize("kind", ["encoder", "loss", "optimizer", "schedule"])
def test_an_unknown_name_is_refused(kind):
    with pytest.raises(ConfigError, match=f"unknown {kind} 'nothing'; known: "):
        module(**{kind: "nothing"})


def test_with_one_seed_weights_are_equal_whatever_the_chain_drew():
    used = module()
    used.views(pairs(), TRAIN, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(used.parameters(), module().parameters(), strict=True)
    )
