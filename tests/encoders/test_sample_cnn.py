"""SampleCNN, held against the paper's description and the released CLMR encoders."""

import pytest
import torch
import torch.nn.functional as F

from clmr.encoders import SampleCNN, SampleCNNSmall

# Lee et al. 2017, arXiv:1703.01789, table 1, for 3^9 and 59,049 samples: a strided convolution,
# nine convolutions with pools, and one without. Channels in, channels out.
PAPER = [
    (1, 128),
    *[(128, 128), (128, 128), (128, 256), (256, 256), (256, 256)],
    *[(256, 256), (256, 256), (256, 256), (256, 512)],
    (512, 512),
]


def released_keys():
    """Names and shapes in the released CLMR checkpoints, below `encoder.` and without `fc`."""
    keys = {}
    for layer, (n_in, n_out) in enumerate(PAPER):
        keys[f"sequential.{layer}.0.weight"] = (n_out, n_in, 3)
        keys[f"sequential.{layer}.0.bias"] = (n_out,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            keys[f"sequential.{layer}.1.{name}"] = (n_out,)
        keys[f"sequential.{layer}.1.num_batches_tracked"] = ()
    return keys


def by_the_paper(x, weights):
    """The network written out, in evaluation: [B, 1, T] -> [B, 512, time]."""
    for layer in range(len(PAPER)):
        w = {k.removeprefix(f"sequential.{layer}."): v for k, v in weights.items()
             if k.startswith(f"sequential.{layer}.")}  # fmt: skip
        strided = layer == 0
        x = F.conv1d(x, w["0.weight"], w["0.bias"], stride=3 if strided else 1,
                     padding=0 if strided else 1)  # fmt: skip
        scale = w["1.weight"] / (w["1.running_var"] + 1e-5).sqrt()
        x = (x - w["1.running_mean"][:, None]) * scale[:, None] + w["1.bias"][:, None]
        x = x.clamp(min=0)
        if 0 < layer < len(PAPER) - 1:
            x = F.max_pool1d(x, 3)
    return x


def settle(encoder):
    """Give an encoder other weights and statistics than the initial ones, which fade a wave out."""
    for name, value in encoder.state_dict().items():
        if value.ndim == 1 and "running" not in name:
            value.add_(0.1 * torch.rand_like(value))
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1
    encoder(waves(4, 3**10, seed=1))
    return encoder.eval().requires_grad_(False)


def waves(n_rows, n_samples, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=generator)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return settle(SampleCNN())


@pytest.fixture(scope="module")
def trained_small():
    torch.manual_seed(0)
    return settle(SampleCNNSmall())


def test_it_has_as_many_parameters_as_the_layers_of_the_paper():
    # Convolution: weights and biases; batch norm: a scale and an offset a channel.
    expected = sum(3 * n_in * n_out + 3 * n_out for n_in, n_out in PAPER)
    assert expected == 2_368_512
    assert sum(p.numel() for p in SampleCNN().parameters()) == expected


def test_its_weights_have_the_names_and_shapes_of_the_released_encoders():
    state = {name: tuple(value.shape) for name, value in SampleCNN().state_dict().items()}
    assert state == released_keys()


def test_59049_samples_are_one_step_of_time(trained):
    assert trained.min_length == 3**10
    for n_samples, n_steps in ((3**10, 1), (2 * 3**10 - 1, 1), (2 * 3**10, 2)):
        assert trained.sequential(torch.zeros(1, 1, n_samples)).shape == (1, 512, 1, n_steps)


@pytest.mark.parametrize("n_windows", [1, 2])
def test_the_features_are_those_of_the_network_written_out(trained, n_windows):
    x = waves(2, n_windows * 3**10)
    expected = by_the_paper(x, trained.state_dict()).mean(dim=-1)
    found = trained(x)
    assert (found[0] - found[1]).abs().max() > 0.1 * found.abs().max()  # the wave does count
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_in_training_outputs_and_gradients_are_those_of_the_papers_1d_layers():
    # The same weights in torch's own 1-D layers, in the paper's order, in double precision.
    torch.manual_seed(0)
    ours = SampleCNNSmall().double()
    layers = []
    for name, module in ours.sequential.named_children():
        convolution = module[0]
        n_out, n_in, width = convolution.weight.shape
        stride = width if name == "0" else 1
        layers += [torch.nn.Conv1d(n_in, n_out, width, stride, convolution.padding)]
        layers += [torch.nn.BatchNorm1d(n_out), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool1d(3)] if 0 < int(name) < len(ours.sequential) - 1 else []
    theirs = torch.nn.Sequential(*layers).double()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = waves(3, 3**10 + 5).double()
    h, expected = ours(x), theirs(x).mean(dim=-1)
    torch.testing.assert_close(h, expected)
    weights = torch.randn_like(h)
    (h * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_all_convolutions_see_channels_last(trained_small):
    layouts = []
    hooks = [
        module.register_forward_hook(
            lambda _, x, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last))
        )
        for module in trained_small.modules()
        if isinstance(module, torch.nn.Conv1d)
    ]
    trained_small(waves(2, 3**10))
    for hook in hooks:
        hook.remove()
    assert layouts == [True] * 10


def test_a_repeated_wave_adds_the_same_to_the_sum_over_time_each_time(trained_small):
    # A step of the last map sees 1.5 windows to either side, so that of k repetitions all but
    # the two first and the two last steps are equal, whatever k.
    period = waves(1, 3**10)
    total = {k: k * trained_small(period.repeat(1, 1, k)) for k in (4, 5, 6)}
    torch.testing.assert_close(total[5] - total[4], total[6] - total[5], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(total[5] / 5, total[6] / 6, rtol=1e-3)  # the ends are others


def test_samples_after_the_last_whole_window_are_dropped_by_the_pools(trained_small):
    assert trained_small.sequential(waves(1, 2 * 3**10 - 1)).shape == (1, 256, 1, 1)


def test_the_small_one_takes_the_same_input_at_less_than_a_twentieth_of_the_work():
    def multiplications(encoder):
        counts = []
        for module in encoder.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.register_forward_hook(
                    lambda m, _, y: counts.append(y.shape[-1] * m.weight.numel())
                )
        encoder.eval()(torch.zeros(1, 1, 3**10))
        return sum(counts)

    assert SampleCNNSmall().min_length == 3**10
    assert multiplications(SampleCNN()) > 20 * multiplications(SampleCNNSmall())
