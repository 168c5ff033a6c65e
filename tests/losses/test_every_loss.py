"""What holds for every loss that is listed, in each of its forms."""

import inspect
import re
from itertools import pairwise

import pytest
import torch
from projections import FORMS, assert_close, projections, with_gradients
from torch import nn

from clmr.config import Config
from clmr.losses import LOSSES, build_loss, strips
from clmr.modules import ContrastiveLearning

EVERY_FORM = pytest.mark.parametrize("form", FORMS)


@EVERY_FORM
@pytest.mark.parametrize("n_clips", [2, 3])
def test_the_gradient_is_the_slope_of_the_loss(form, n_clips, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 2)
    z = [(0.5 * z.double()).requires_grad_() for z in projections(n_clips, n_dims=4)]
    assert torch.autograd.gradcheck(FORMS[form](), z)


@EVERY_FORM
def test_every_loss_falls_when_followed_downhill(form):
    z_i, z_j = (z.requires_grad_() for z in projections(6))
    optimizer = torch.optim.SGD([z_i, z_j], lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = FORMS[form]()(z_i, z_j)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(after < before for before, after in pairwise(losses))


@EVERY_FORM
@pytest.mark.parametrize("scale", [0, 1e-30, 1e-8, 1, 1e4, 1e8])
@pytest.mark.parametrize("views", ["different", "identical"])
@pytest.mark.parametrize("n_clips", [1, 2, 5])
def test_loss_and_gradient_are_finite_at_every_scale(form, scale, views, n_clips):
    z_i, z_j = (scale * z for z in projections(n_clips))
    result = with_gradients(FORMS[form](), z_i, z_j if views == "different" else z_i)
    assert all(tensor.isfinite().all() for tensor in result)


@EVERY_FORM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(form, dtype):
    z = [z.to(dtype) for z in projections(6)]
    result = with_gradients(FORMS[form](), *z)
    assert [tensor.dtype for tensor in result] == [torch.float32, dtype, dtype]
    expected = with_gradients(FORMS[form](), *(z.double() for z in z))
    assert_close(result[:1], expected[:1])
    assert_close(result[1:], expected[1:], relative=torch.finfo(dtype).eps)


@EVERY_FORM
def test_autocast_does_not_lower_the_precision(form):
    z = projections(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FORMS[form]()(*z)
    assert loss.dtype == torch.float32
    assert_close([loss], [FORMS[form]()(*z)], relative=1e-6)


@EVERY_FORM
def test_which_view_is_first_and_the_order_of_clips_do_not_count(form):
    z_i, z_j = projections(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close([FORMS[form]()(z_j[order], z_i[order])], [FORMS[form]()(z_i, z_j)], 1e-6)


def test_a_loss_that_asks_for_a_temperature_is_given_it_and_no_other_is():
    class Warm(nn.Module):
        def __init__(self, temperature):
            super().__init__()
            self.temperature = temperature

    class Cold(nn.Module):
        pass

    assert build_loss(Warm, 0.07).temperature == 0.07
    assert isinstance(build_loss(Cold, 0.07), Cold)


@pytest.mark.parametrize("name", LOSSES)
def test_the_setting_of_a_name_trains_with_that_loss(name):
    config = Config(loss=name, temperature=0.07, encoder="sample_cnn_small")
    loss = ContrastiveLearning(config).loss
    assert type(loss) is LOSSES[name]
    assert getattr(loss, "temperature", 0.07) == 0.07


def test_the_help_names_every_loss_and_says_which_have_a_temperature():
    fields = Config.__dataclass_fields__
    assert re.findall(r"(\w+) \(", fields["loss"].metadata["help"]) == list(LOSSES)
    words = fields["temperature"].metadata["help"]
    having, without = re.fullmatch(r"of the losses (.*); (.*) has none; .*", words).groups()
    asks = {
        name: "temperature" in inspect.signature(kind).parameters for name, kind in LOSSES.items()
    }
    assert having.split(" and ") == [name for name in LOSSES if asks[name]]
    assert without.split(" and ") == [name for name in LOSSES if not asks[name]]
