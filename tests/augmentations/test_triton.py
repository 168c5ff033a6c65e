"""Kernels of Triton: in its interpreter, which needs no GPU, and on a GPU where there is one."""

import importlib.util
import logging
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from clmr.augmentations import (
    AUGMENTATIONS,
    build_chain,
    interpolation_triton,
    kernels,
    reverb_triton,
    wsola,
    wsola_triton,
)
from clmr.augmentations.freeverb import Circle, Room, tables_of, wet_responses
from clmr.augmentations.interpolation import polynomials
from clmr.augmentations.wsola import Segmentation

needs_triton = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="triton is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SAMPLE_RATE, N_SAMPLES = 22050, 59049
ROOMS = torch.tensor([(0, 0, 0), (99, 0, 99), (99, 99, 99), (99, 0, 0), (50, 50, 99), (37, 21, 64)])


# Splices.


def chirps(n_rows: int, n_samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gliding tones with some noise, no two rows alike, float `[N, T]`."""
    generator = torch.Generator().manual_seed(n_rows)
    noise = torch.randn(n_rows, n_samples, generator=generator, dtype=torch.float64)
    row, n = torch.arange(1, n_rows + 1)[:, None], torch.arange(n_samples)
    tone = torch.sin(0.02 * row**0.5 * n * (1 + n / n_samples))
    return (0.2 * tone + 0.02 * noise).to(dtype)


def search_plan(x: Tensor, speed: Tensor, cut: Segmentation) -> tuple[Tensor, Tensor]:
    """The waveforms with silence on both sides, and the first candidate of each segment."""
    padded = torch.nn.functional.pad(x, (cut.search // 2, cut.segment + cut.search + cut.overlap))
    n_segments = math.ceil(x.shape[1] / speed.min().item() / cut.hop) + 1
    first = (speed[:, None] * torch.arange(n_segments) * cut.hop + 0.5).floor().long()
    return padded, first.clamp(max=x.shape[1]).to(x.device)


def direct_search(padded: Tensor, first: Tensor, cut: Segmentation) -> Tensor:
    """The sum of squared differences of every candidate in float64; the first least one wins."""
    padded, starts = padded.double(), first.clone()
    starts[:, 0] += cut.search // 2
    for row in range(len(padded)):
        for s in range(1, first.shape[1]):
            begin, goes_on = first[row, s], starts[row, s - 1] + cut.hop
            candidates = padded[row, begin : begin + cut.search + cut.overlap - 1]
            difference = (
                candidates.unfold(0, cut.overlap, 1) - padded[row, goes_on : goes_on + cut.overlap]
            )
            starts[row, s] = begin + difference.square().sum(dim=1).argmin()
    return starts


def call_search(padded: np.ndarray, first: np.ndarray, cut: Segmentation) -> np.ndarray:
    arguments = torch.from_numpy(padded), torch.from_numpy(first)
    return wsola_triton.search_splices(*arguments, cut.search, cut.overlap, cut.hop).numpy()


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable]:
    """Call a function on arrays in a process where kernels are interpreted on the CPU.

    Triton decides on it when it is imported, which in this process may have happened.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield lambda function, *args: pool.submit(function, *args).result()


@needs_triton
def test_the_kernel_finds_the_splices_of_a_direct_search(interpret):
    cut = Segmentation.at(8000)
    x, speed = chirps(2, 3000), torch.tensor([2 ** (-7 / 12), 2 ** (5 / 12)], dtype=torch.float64)
    padded, first = search_plan(x, speed, cut)
    starts = interpret(call_search, padded.numpy(), first.numpy(), cut)
    expected = direct_search(padded, first, cut)
    assert starts.tolist() == expected.tolist()
    assert len((expected - first)[:, 1:].unique()) > 10  # the search had to choose


@needs_triton
def test_of_equally_good_splices_the_kernel_takes_the_first(interpret):
    cut = Segmentation.at(2000)
    wave = torch.tensor([0.0, 1, 2, -1, -2]).repeat(200)[None]  # sums of its squares are exact
    padded, first = search_plan(wave, torch.tensor([0.8], dtype=torch.float64), cut)
    starts = torch.from_numpy(interpret(call_search, padded.numpy(), first.numpy(), cut))
    inside = first[0] < 1000 - cut.segment - cut.search
    offset = (starts - first)[0, inside]
    assert offset[1:].max() < 5  # a period: later ones are as good
    phase = (starts[0, inside][1:] - (starts[0, inside][:-1] + cut.hop)) % 5
    assert len(phase) >= 4
    assert phase.unique().tolist() == [0]


def with_nan_in_a_row(cut: Segmentation) -> tuple[Tensor, Tensor]:
    x = chirps(3, 1000)
    x[1] = math.nan
    return search_plan(x, torch.full((3,), 0.8, dtype=torch.float64), cut)


def assert_nan_does_no_harm(starts: Tensor, padded: Tensor, first: Tensor, cut: Segmentation):
    offset = starts - first
    assert ((offset >= 0) & (offset < cut.search)).all()
    assert torch.equal(starts[[0, 2]], direct_search(padded[[0, 2]], first[[0, 2]], cut))


@needs_triton
def test_what_is_not_a_number_stays_within_the_search_and_its_row(interpret):
    cut = Segmentation.at(2000)
    padded, first = with_nan_in_a_row(cut)
    starts = interpret(call_search, padded.numpy(), first.numpy(), cut)
    assert_nan_does_no_harm(torch.from_numpy(starts), padded, first, cut)


# Reverb.


def product_in_torch(
    spectra: Tensor, percent: Tensor, circle: Circle, rate: int, dtype: torch.dtype
) -> Tensor:
    room = Room.of(*percent.T, rate)
    return spectra * (1 + sum(wet_responses(room, circle, rate, dtype)) / 2)


def product_in_a_kernel(spectra: Tensor, percent: Tensor, circle: Circle, rate: int) -> Tensor:
    room = Room.of(*percent.T, rate)
    tables = tables_of(circle, rate, torch.float32, spectra.device)
    product = spectra.clone()
    reverb_triton.multiply_by_response(product, *room, tables.inverse, tables.allpass, *circle)
    return product


def call_product(spectra: np.ndarray, percent: np.ndarray, circle: tuple, rate: int) -> np.ndarray:
    arguments = torch.from_numpy(spectra), torch.from_numpy(percent)
    return product_in_a_kernel(*arguments, Circle(*circle), rate).numpy()


def random_spectra(n_rows: int, n_fft: int) -> Tensor:
    generator = torch.Generator().manual_seed(n_fft)
    return torch.randn(n_rows, n_fft // 2 + 1, dtype=torch.complex64, generator=generator)


def relative_error(x: Tensor, expected: Tensor) -> float:
    """Of the worst row."""
    return ((x - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


@needs_triton
@pytest.mark.parametrize(("n_fft", "rate"), [(512, 8000), (960, SAMPLE_RATE)])
def test_the_kernel_multiplies_by_the_response_of_each_row_s_room(interpret, n_fft, rate):
    circle, percent = Circle(n_fft, 1.0002), ROOMS[[1, 5]]  # as near resonance as in practice
    spectra = random_spectra(2, n_fft)
    product = interpret(call_product, spectra.numpy(), percent.numpy(), tuple(circle), rate)
    expected = product_in_torch(spectra, percent, circle, rate, torch.float64)
    assert relative_error(torch.from_numpy(product), expected) < 4e-7
    assert ((spectra - expected).norm(dim=1) > 0.1 * expected.norm(dim=1)).all()


# Interpolation.


def call_read(x: np.ndarray, step: np.ndarray, n_samples: int) -> np.ndarray:
    table = polynomials(torch.float32, torch.device("cpu"))
    arrays = torch.from_numpy(x), torch.from_numpy(step)
    return interpolation_triton.read_rows(*arrays, n_samples, table).numpy()


@needs_triton
def test_the_kernel_reads_a_tone_between_its_samples(interpret):
    step, n_samples = np.array([2.9, 1.37, 2.0]), 1500
    omega = np.array([0.3, 1.1, 0.05])[:, None]  # within half of the band
    tone = np.sin(omega * (np.arange(4500) - 3)).astype("f4")  # the position is the fourth tap's
    y = interpret(call_read, tone, step, n_samples)
    expected = np.sin(omega * np.arange(n_samples) * step[:, None])
    assert np.abs(y - expected).max() < 5e-4  # -73 dB, and what a maximum is above a mean


# Where kernels are used.


@needs_triton
@pytest.mark.parametrize("kernel", ["search", "reverb", "read"])
def test_the_kernels_compile_for_a_gpu_where_there_is_none(kernel, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.jit import mangle_type

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, name = {
        "search": (wsola_triton, "_search"),
        "reverb": (reverb_triton, "_multiply"),
        "read": (interpolation_triton, "_read"),
    }[kernel]
    function, launches = getattr(module, name), []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **constants: launches.append((args, constants))

    monkeypatch.setattr(module, name, Recorder())
    if kernel == "search":
        cut = Segmentation.at(SAMPLE_RATE)
        call_search(np.zeros((1, N_SAMPLES), "f4"), np.zeros((1, 9), "i8"), cut)
    elif kernel == "read":
        call_read(np.zeros((1, N_SAMPLES), "f4"), np.ones(1), N_SAMPLES - 8)
    else:
        circle = Circle.for_length(N_SAMPLES, exact=False)
        product_in_a_kernel(random_spectra(1, circle.n_fft), ROOMS[:1], circle, SAMPLE_RATE)
    args, constants = launches[0]
    options = {"num_warps": constants.pop("num_warps", 4)}
    signature = dict(zip(function.arg_names, map(mangle_type, args), strict=False))
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(function, signature, constants)
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    assert ".local" not in compiled.asm["ptx"]  # nothing that ought to be in registers


def on_a_gpu(dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """As much of a tensor on a GPU as is asked for."""
    return SimpleNamespace(is_cuda=True, dtype=dtype)


def test_kernels_suit_float32_on_a_gpu_and_nothing_else(monkeypatch):
    monkeypatch.setattr(kernels, "can_launch", lambda: True)
    monkeypatch.setattr(kernels, "triton", object())
    assert kernels.kernels_suit(on_a_gpu())
    assert not kernels.kernels_suit(on_a_gpu(torch.float64))
    assert not kernels.kernels_suit(torch.zeros(2))
    monkeypatch.setattr(kernels, "enabled", False)
    assert not kernels.kernels_suit(on_a_gpu())


def test_without_triton_no_kernel_suits_and_nothing_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    spec = importlib.util.spec_from_file_location("without_triton", kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.triton is None
    assert not module.kernels_suit(on_a_gpu())


def test_where_triton_cannot_launch_a_warning_gives_the_reason_once(monkeypatch, caplog):
    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler")

    fake = SimpleNamespace(runtime=SimpleNamespace(driver=Driver()))
    monkeypatch.setattr(kernels, "triton", fake)
    kernels.can_launch.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not kernels.kernels_suit(on_a_gpu())
        assert not kernels.kernels_suit(on_a_gpu())
    kernels.can_launch.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "augmentations go without their Triton kernels, which is slower: Failed to find C compiler"
    ]


# On a GPU.


def whole_chain(names: list[str] | None = None):
    registry = {name: AUGMENTATIONS[name] for name in names or AUGMENTATIONS}
    generator = torch.Generator().manual_seed(0)
    return build_chain(registry, dict.fromkeys(registry, 0.6), SAMPLE_RATE, generator)


@needs_gpu
@needs_triton
def test_on_a_gpu_the_kernel_finds_the_splices_of_a_direct_search():
    cut = Segmentation.at(SAMPLE_RATE)
    speed = torch.exp2(torch.linspace(-7, 7, 48, dtype=torch.float64) / 12)
    padded, first = search_plan(chirps(48, N_SAMPLES), speed, cut)
    starts = wsola_triton.search_splices(
        padded.cuda(), first.cuda(), cut.search, cut.overlap, cut.hop
    ).cpu()
    equal = starts == direct_search(padded, first, cut)
    assert equal.double().mean() >= 0.999  # a near tie may go either way


@needs_gpu
@needs_triton
def test_on_a_gpu_what_is_not_a_number_stays_within_the_search_and_its_row():
    cut = Segmentation.at(2000)
    padded, first = with_nan_in_a_row(cut)
    starts = wsola_triton.search_splices(
        padded.cuda(), first.cuda(), cut.search, cut.overlap, cut.hop
    )
    assert_nan_does_no_harm(starts.cpu(), padded, first, cut)


@needs_gpu
@needs_triton
def test_on_a_gpu_the_search_is_the_same_with_and_without_its_kernel(monkeypatch):
    cut = Segmentation.at(SAMPLE_RATE)
    x = chirps(48, N_SAMPLES).cuda()
    speed = torch.exp2(torch.linspace(-7, 7, 48, dtype=torch.float64) / 12).cuda()
    n_segments = [math.ceil(N_SAMPLES * 2 ** (7 / 12) / cut.hop) + 1] * 48
    with_kernel = wsola.find_splices(x, speed, n_segments, cut)
    monkeypatch.setattr(kernels, "enabled", False)
    without = wsola.find_splices(x, speed, n_segments, cut)
    needed = torch.arange(n_segments[0]).cuda() * cut.hop * speed[:, None] < N_SAMPLES
    assert (with_kernel == without)[needed].double().mean() >= 0.999


@needs_gpu
@needs_triton
@pytest.mark.parametrize("exact", [False, True])
def test_on_a_gpu_the_kernel_multiplies_by_the_response(exact):
    circle = Circle.for_length(N_SAMPLES, exact)
    percent = ROOMS.repeat(8, 1).cuda()
    spectra = random_spectra(48, circle.n_fft).cuda()
    product = product_in_a_kernel(spectra, percent, circle, SAMPLE_RATE)
    expected = product_in_torch(spectra, percent, circle, SAMPLE_RATE, torch.float64)
    assert relative_error(product, expected) < 2e-5


@needs_gpu
@pytest.mark.parametrize("enabled", [False, True])
def test_the_chain_never_waits_for_the_gpu(enabled, monkeypatch):
    monkeypatch.setattr(kernels, "enabled", enabled)
    chain, x = whole_chain(), chirps(48, N_SAMPLES)[:, None].cuda()
    draws = chain.draw(48)
    chain.apply(x, draws)  # builds tables and kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        chain.apply(x, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("enabled", [False, True])
def test_views_on_the_gpu_are_those_on_the_cpu(enabled, monkeypatch):
    monkeypatch.setattr(kernels, "enabled", enabled)
    chain, x = whole_chain(), chirps(48, N_SAMPLES)[:, None]
    draws = chain.draw(48)
    expected = chain.apply(x, draws)[:, 0]
    views = chain.apply(x.cuda(), draws)[:, 0].cpu()
    error = (views - expected).norm(dim=1) / expected.norm(dim=1)
    shifted = torch.zeros(48, dtype=torch.bool)
    shifted[draws["pitch"].rows] = True
    assert error[~shifted].max() < 3e-4
    assert error[shifted].median() < 3e-4  # a near tie of two splices changes what follows
