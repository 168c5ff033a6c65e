"""Every augmentation and the whole chain, on what is rare: other lengths, dtypes and layouts."""

from inspect import signature

import pytest
import torch

from clmr.augmentations import AUGMENTATIONS, Chain, build_chain

SAMPLE_RATE = 22_050
every = pytest.mark.parametrize("name", AUGMENTATIONS)
PARTS = [*AUGMENTATIONS, "chain"]
every_and_chain = pytest.mark.parametrize("name", PARTS)


def build(name, p=1.0, seed=0, chunk=None):
    """An augmentation by name, or the chain of all."""
    generator = torch.Generator().manual_seed(seed)
    if name == "chain":
        return build_chain(
            AUGMENTATIONS, dict.fromkeys(AUGMENTATIONS, p), SAMPLE_RATE, generator, chunk
        )
    kind = AUGMENTATIONS[name]
    rate = {"sample_rate": SAMPLE_RATE} if "sample_rate" in signature(kind).parameters else {}
    augmentation = kind(p, **rate, generator=generator)
    augmentation.chunk = chunk
    return augmentation


def waves(n_rows, n_samples=6000):
    generator = torch.Generator().manual_seed(n_rows)
    return 0.1 * torch.randn(n_rows, 1, n_samples, generator=generator)


SIGNALS = {
    "silence": lambda n: torch.zeros(n),
    "impulse": lambda n: (torch.arange(n) == n // 2).float(),
    "constant": lambda n: torch.full((n,), 0.7),
    "square": lambda n: 1 - 2 * (torch.arange(n) // 50 % 2).float(),
}


@every_and_chain
@pytest.mark.parametrize("n_samples", [1, 10, 1000, 20_000])
@pytest.mark.parametrize("signal", SIGNALS)
def test_whatever_comes_in_what_goes_out_is_finite_and_of_its_length(name, signal, n_samples):
    x = SIGNALS[signal](n_samples).expand(6, 1, -1)
    y = build(name)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert y.abs().max() < 4
    if signal == "silence":
        assert torch.equal(y, x)


@every_and_chain
@pytest.mark.parametrize("n_rows", [0, 1])
def test_a_long_waveform_a_single_row_and_none_keep_their_shape(name, n_rows):
    x = waves(n_rows, 300_000)
    y = build(name)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    if n_rows:
        assert 0.005 < y.std() < 0.4


@every_and_chain
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single_and_rounded_once(name, dtype):
    x = waves(8).to(dtype)
    y = build(name, 0.7)(x)
    assert y.dtype == dtype
    assert torch.equal(y, build(name, 0.7)(x.float()).to(dtype))


@every_and_chain
def test_autocast_changes_nothing(name):
    x = waves(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = build(name, 0.7)(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, build(name, 0.7)(x))


@every_and_chain
def test_layout_in_memory_does_not_matter(name):
    x = waves(8)
    strided = torch.empty(6000, 1, 16).permute(2, 1, 0)[::2].copy_(x)
    assert not strided.is_contiguous()
    torch.testing.assert_close(build(name)(strided), build(name)(x), rtol=0, atol=1e-5)
    one = x[:1].expand(8, -1, -1)
    torch.testing.assert_close(build(name)(one), build(name)(one.clone()), rtol=0, atol=1e-5)


@every_and_chain
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_rows_come_out_the_same_however_many_are_worked_on_at_once(name, chunk):
    x = waves(10)
    y, expected = build(name, 0.8, chunk=chunk)(x), build(name, 0.8)(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)


@every
@pytest.mark.parametrize(
    ("chunk", "expected"), [(None, [4, 4, 2]), (3, [3, 3, 3, 1]), (1, [1] * 10)]
)
def test_no_more_rows_are_worked_on_at_once_than_the_chunk_says(name, chunk, expected, monkeypatch):
    augmentation, sizes = build(name, chunk=chunk), []
    monkeypatch.setattr(augmentation, "samples_at_once", {"cpu": 499})
    apply = augmentation.apply
    monkeypatch.setattr(
        augmentation, "apply", lambda x, own: sizes.append(len(x)) or apply(x, own)
    )
    augmentation(waves(10, 100))
    assert sizes == expected


def test_the_chunk_of_a_chain_is_that_of_every_step():
    assert {step.chunk for step in build("chain", chunk=5).steps.values()} == {5}
    assert {step.chunk for step in build("chain").steps.values()} == {None}


def test_rows_longer_than_all_that_is_worked_on_at_once_come_one_by_one(monkeypatch):
    augmentation, sizes = build("polarity"), []
    monkeypatch.setattr(augmentation, "samples_at_once", {"cpu": 99})
    monkeypatch.setattr(augmentation, "apply", lambda x, own: sizes.append(len(x)) or -x)
    augmentation(waves(3, 100))
    assert sizes == [1, 1, 1]


class Network(torch.nn.Module):
    """A chain in front of a network, as in training."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.chain = chain
        self.layers = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9, stride=9), torch.nn.ReLU())

    def forward(self, x):
        return self.layers(2 * self.chain(x) + 1).mean(dim=-1)


def test_a_compiled_chain_draws_anew_at_every_call_and_gives_the_values_of_eager():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager, x = Network(build("chain", 0.5, seed=3)), waves(6)
    network = Network(build("chain", 0.5, seed=3))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    outputs = [compiled(x) for _ in range(3)]
    for y in outputs:
        torch.testing.assert_close(y, eager(x), rtol=1e-5, atol=1e-6)
        y.sum().backward()
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert network.layers[0].weight.grad.isfinite().all()


def test_two_chains_in_one_compiled_function_are_told_apart():
    torch._dynamo.reset()
    chains = [build("polarity"), build("gain")]
    chains = [Chain({"polarity": chains[0]}), Chain({"gain": chains[1]})]
    both = torch.compile(
        lambda x: (chains[0](x), chains[1](x)), fullgraph=True, backend="aot_eager"
    )
    x = waves(3)
    inverted, quieter = both(x)
    assert torch.equal(inverted, -x)
    gain_db = 20 * torch.log10(quieter.std(dim=-1) / x.std(dim=-1))
    assert ((gain_db > -20.1) & (gain_db < -0.9)).all()
