"""Strips of the similarity matrix against the whole of it: same numbers, less memory."""

import pytest
import torch
from projections import ALWAYS, NEVER, assert_close, projections, with_gradients
from torch.profiler import ProfilerActivity, profile

from clmr.losses import DCL, NTXent, pairs, strips

PAIR_LOSSES = pytest.mark.parametrize("kind", [NTXent, DCL])


@PAIR_LOSSES
@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("n_clips", [2, 8, 127, 128, 129, 300])
def test_loss_and_gradients_are_those_of_the_whole_matrix(kind, n_clips, temperature):
    z = projections(n_clips)
    whole = with_gradients(kind(temperature, NEVER), *z)
    assert_close(with_gradients(kind(temperature, ALWAYS), *z), whole)


@PAIR_LOSSES
@pytest.mark.parametrize("strip", [1, 3, 8, 100])
def test_how_many_rows_a_strip_has_does_not_count(kind, strip, monkeypatch):
    z = projections(4)
    whole = with_gradients(kind(0.2, NEVER), *z)
    monkeypatch.setattr(strips, "STRIP", strip)
    assert_close(with_gradients(kind(0.2, ALWAYS), *z), whole)


def peak_bytes(loss, n_clips, n_dims=8):
    """Most memory that a loss and its gradient hold at a time, as torch's allocator counts it."""
    z = [z.requires_grad_() for z in projections(n_clips, n_dims)]
    cpu = [ProfilerActivity.CPU]
    with profile(activities=cpu, profile_memory=True, acc_events=True) as run:
        loss(*z).backward()
    events = run.profiler.kineto_results.events()
    held = peak = 0
    for n_bytes in (e.nbytes() for e in events if e.name() == "[memory]"):
        held += n_bytes
        peak = max(peak, held)
    assert peak > 0
    return peak


def test_memory_grows_with_the_batch_and_not_with_its_square():
    whole = [peak_bytes(NTXent(0.5, NEVER), n) for n in (512, 2048)]
    in_strips = [peak_bytes(NTXent(0.5, ALWAYS), n) for n in (512, 2048)]
    assert whole[1] > 12 * whole[0]  # four times the clips, so the measure sees a square
    assert in_strips[1] < 4.5 * in_strips[0]
    # A few strips of float32, and nothing like the matrix.
    assert in_strips[1] < 4 * 4 * strips.STRIP * 2 * 2048


@pytest.mark.parametrize(("n_clips", "expected"), [(512, "whole"), (513, "strips")])
def test_the_form_is_chosen_by_the_number_of_columns(n_clips, expected, monkeypatch):
    called = []
    for form, name in (("whole", "row_losses"), ("strips", "strip_losses")):
        original = getattr(pairs, name)

        def spy(*args, form=form, original=original):
            called.append(form)
            return original(*args)

        monkeypatch.setattr(pairs, name, spy)
    NTXent(0.5)(*projections(n_clips, n_dims=2))
    assert called == [expected]


def test_a_backward_pass_within_autocast_keeps_its_precision():
    z_i, z_j = (z.requires_grad_() for z in projections(40))
    loss = NTXent(0.05, ALWAYS)(z_i, z_j)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(loss, [z_i, z_j])
    expected = with_gradients(NTXent(0.05, NEVER), z_i.detach(), z_j.detach())
    assert_close(found, expected[1:])


@PAIR_LOSSES
def test_the_compiler_takes_it_without_a_break_and_gets_the_same_gradient(kind):
    loss = kind(0.2, ALWAYS)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z = projections(200)
    assert_close(with_gradients(compiled, *z), with_gradients(loss, *z))


def test_the_operations_keep_torchs_contract_of_custom_operations():
    z_i, z_j = projections(3)
    rows = torch.cat([z_i, z_j]).requires_grad_()
    columns = rows.detach().clone().requires_grad_()
    own = torch.arange(6)
    torch.library.opcheck(
        torch.ops.clmr.strip_losses.default, (rows, columns, own.roll(3), own[:, None])
    )
