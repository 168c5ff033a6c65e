"""What all augmentations share: coins, own parameters a row, and nothing else is touched."""

import math
from inspect import signature

import pytest
import torch

from clmr.augmentations import AUGMENTATIONS, Augmentation, Draw, build_chain
from clmr.config import Config

SAMPLE_RATE = 8000
N_SAMPLES = 4000  # longer than the longest delay
every = pytest.mark.parametrize("name", AUGMENTATIONS)


def build(name, p=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kind = AUGMENTATIONS[name]
    rate = {"sample_rate": SAMPLE_RATE} if "sample_rate" in signature(kind).parameters else {}
    return kind(p, **rate, generator=generator)


def waves(n_rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n_rows)
    return 0.1 * torch.randn(n_rows, 1, N_SAMPLES, generator=generator, dtype=dtype)


class Raise(Augmentation):
    """Add to each row its parameter, which is the row's place among the chosen ones."""

    def draw(self, n):
        return {"step": torch.arange(1.0, n + 1)}

    def apply(self, x, parameters):
        return x + parameters["step"][:, None, None]


@every
@pytest.mark.parametrize("p", [0.01, 0.3, 0.8])
def test_the_coin_falls_for_a_row_as_often_as_p_says(name, p):
    n = 20_000
    rows = build(name, p).draw_batch(n).rows
    assert rows.unique().numel() == rows.numel()
    assert abs(len(rows) / n - p) < 3 * math.sqrt(p * (1 - p) / n)


@every
def test_coins_of_neighbouring_rows_are_independent(name):
    n, p = 20_000, 0.5
    chosen = torch.zeros(n)
    chosen[build(name, p).draw_batch(n).rows] = 1
    both = (chosen[:-1] * chosen[1:]).mean().item()
    assert abs(both - p**2) < 3 * math.sqrt(p**2 * (1 - p**2) / n) * math.sqrt(2)


@every
def test_with_p_1_every_row_changes_and_with_p_0_none(name):
    x = waves(32)
    changed = (build(name, 1)(x) != x).any(dim=-1)
    assert changed.all()
    assert torch.equal(build(name, 0)(x), x)


def test_exactly_the_chosen_rows_change_each_by_its_own_parameter():
    x = waves(6)
    y = Raise(0.5).apply_batch(x, Draw(torch.tensor([1, 2, 5]), Raise(0.5).draw(3)))
    torch.testing.assert_close((y - x).mean(dim=(1, 2)), torch.tensor([0.0, 1, 2, 0, 0, 3]))
    assert torch.equal(y[[0, 3, 4]], x[[0, 3, 4]])


def test_the_rows_that_the_coins_chose_are_the_rows_that_change():
    augmentation = Raise(0.5, torch.Generator().manual_seed(1))
    x = waves(40)
    y = augmentation(x)
    rows = Raise(0.5, torch.Generator().manual_seed(1)).draw_batch(40).rows
    assert torch.nonzero((y != x).any(dim=-1))[:, 0].tolist() == rows.tolist()
    assert 0 < len(rows) < 40


@every
def test_equal_rows_are_transformed_each_in_its_own_way(name):
    augmentation = build(name)
    y = augmentation(waves(1).expand(24, -1, -1).contiguous())
    n_different = len(torch.unique(y[:, 0], dim=0))
    # Whatever has parameters draws them a row; the coarsest draws from six values.
    assert n_different > 3 if augmentation.draw(1) else n_different == 1


@every
def test_the_input_is_left_as_it_was(name):
    x = waves(8)
    before = x.clone()
    build(name, 0.5)(x)
    build(name, 1)(x)
    assert torch.equal(x, before)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_stay(name, dtype):
    y = build(name)(waves(5, dtype))
    assert y.shape == (5, 1, N_SAMPLES)
    assert y.dtype == dtype


@every
def test_both_precisions_give_the_same_views(name):
    augmentation, x = build(name), waves(5, torch.float64)
    draw = augmentation.draw_batch(5)
    single = augmentation.apply_batch(x.float(), draw)
    double = augmentation.apply_batch(x, draw)
    assert (single - double).norm() < 3e-4 * double.norm()


@every
@pytest.mark.parametrize("p", [0.5, 1])
def test_a_batch_without_rows_comes_back(name, p):
    assert build(name, p)(waves(0)).shape == (0, 1, N_SAMPLES)


@every
def test_silence_stays_finite(name):
    assert build(name)(torch.zeros(4, 1, N_SAMPLES)).isfinite().all()


@every
def test_a_seed_decides_everything_and_another_seed_something_else(name):
    x = waves(16)
    assert torch.equal(build(name, 0.5, seed=3)(x), build(name, 0.5, seed=3)(x))
    assert not torch.equal(build(name, 0.5, seed=3)(x), build(name, 0.5, seed=4)(x))


@every
def test_two_batches_of_one_generator_differ(name):
    augmentation, x = build(name, 0.5), waves(16)
    assert not torch.equal(augmentation(x), augmentation(x))


@every
def test_randomness_comes_from_the_generator_that_was_handed_in(name):
    state = torch.random.get_rng_state()
    build(name)(waves(8))
    assert torch.equal(torch.random.get_rng_state(), state)


@every
def test_a_row_comes_out_the_same_whatever_the_other_rows_are(name):
    augmentation, x = build(name, 0.7), waves(12)
    draw = augmentation.draw_batch(12)
    together = augmentation.apply_batch(x, draw)
    for k, row in enumerate(draw.rows.tolist()):
        own = {name: value[k : k + 1] for name, value in draw.parameters.items()}
        alone = augmentation.apply_batch(x[row : row + 1], Draw(torch.tensor([0]), own))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-4)


@every
def test_no_gradient_flows_through(name):
    assert not build(name)(waves(3).requires_grad_()).requires_grad


@every
def test_a_draw_is_made_on_the_host_with_a_value_a_row(name):
    draw = build(name, 0.5).draw_batch(100)
    assert {tensor.device.type for tensor in (draw.rows, *draw.parameters.values())} == {"cpu"}
    assert all(len(value) == len(draw.rows) for value in draw.parameters.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every
def test_a_seed_gives_the_same_views_on_the_gpu(name):
    x = waves(16)
    y = build(name, 0.5)(x.cuda())
    assert y.is_cuda
    torch.testing.assert_close(y.cpu(), build(name, 0.5)(x), rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_that_is_none_is_refused(name, p):
    with pytest.raises(ValueError, match="p: got .*, allowed: 0 to 1"):
        build(name, p)


def test_any_number_of_threads_gives_the_same_bits_and_is_left_as_it_was():
    generator = torch.Generator().manual_seed(0)
    chain = build_chain(AUGMENTATIONS, Config().transforms, 22_050, generator)
    x = 0.1 * torch.randn(12, 1, 59_049, generator=generator)
    draws, before, results = chain.draw(12), torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(chain.apply(x, draws))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
