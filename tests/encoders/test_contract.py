"""What every encoder keeps to, whichever it is."""

import pytest
import torch

from clmr.encoders import ENCODERS, LogMelStatistics

SAMPLE_RATE = 22_050
MAKERS = {**ENCODERS, "log_mel": lambda: LogMelStatistics(SAMPLE_RATE)}


def waves(n_rows, n_samples):
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=generator)


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request):
    """An encoder in evaluation mode, with statistics of some batch: the initial ones fade a wave
    out on its way through the layers."""
    torch.manual_seed(0)
    encoder = MAKERS[request.param]()
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1
    encoder(waves(4, encoder.min_length))
    return encoder.eval().requires_grad_(False)


def test_a_batch_of_waves_becomes_one_row_of_features_each(encoder):
    h = encoder(waves(2, encoder.min_length))
    assert h.shape == (2, encoder.n_features)
    assert h.dtype == torch.float32
    assert h.isfinite().all()


def test_a_wave_that_is_one_sample_too_short_is_refused_with_the_length_that_does(encoder):
    fewest = encoder.min_length
    with pytest.raises(ValueError, match=f"at least {fewest} samples, got {fewest - 1}"):
        encoder(waves(2, fewest - 1))


def test_in_evaluation_a_row_does_not_depend_on_the_others(encoder):
    x = waves(3, encoder.min_length)
    together, alone = encoder(x), torch.cat([encoder(row[None]) for row in x])
    assert (together[0] - together[1]).abs().max() > 0.1 * together.abs().max()
    assert (together - alone).abs().max() < 1e-3 * together.abs().max()


def test_all_of_a_longer_wave_counts(encoder):
    # The first and the last window of three are made louder in turn.
    x = waves(3, 3 * encoder.min_length)
    x[1:] = x[0]
    x[1, :, : encoder.min_length] *= 2
    x[2, :, -encoder.min_length :] *= 2
    h = encoder(x)
    assert h.shape == (3, encoder.n_features)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (h[a] - h[b]).abs().max() > 0.01 * h.abs().max()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_gradient_reaches_every_parameter(name):
    encoder = ENCODERS[name]()
    encoder(waves(4, encoder.min_length)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    # A bias before a batch norm has no effect, so that its gradient is nothing but rounding.
    weights = [p for n, p in encoder.named_parameters() if n.endswith("weight")]
    assert all(p.grad.abs().max() > 0 for p in weights)
