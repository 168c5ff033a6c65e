"""`--compile`: one graph for training and one for validation, whatever the number of steps."""

import copy

import pytest
import torch
from fixtures_runs import TRAIN, VALID, config_of, write_music
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from clmr.encoders import ENCODERS, SampleCNN
from clmr.train import train


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("compile")
    write_music(home / "music", TRAIN + VALID)
    return home


@pytest.fixture
def graphs(monkeypatch):
    """Count the graphs that `torch.compile` makes, and run them as they are: no compiler."""
    torch._dynamo.reset()
    counters.clear()
    counter, original = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, **kwargs: original(*args, backend=counter, **kwargs)
    )
    monkeypatch.setattr("clmr.train.check_compiler", lambda accelerator: None)
    return counter


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_one_graph_without_breaks(name, graphs):
    encoder = ENCODERS[name]()
    encoder.compile(dynamic=False)
    for _ in range(3):
        encoder(torch.randn(2, 1, encoder.min_length)).sum().backward()
    assert graphs.frame_count == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize(("changed", "n_graphs"), [({}, 2), ({"grad_cache_chunk": 3}, 2)])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_no_step_but_the_first_is_compiled(home, graphs, tmp_path, changed, n_graphs, precision):
    # One for training, both passes of a chunk, and one for validation.
    argv = {"compile": 1, "batch_size": 6, "precision": precision} | changed
    run = train(config_of(home, max_steps=1, run_dir=tmp_path, **argv))
    assert graphs.frame_count == n_graphs
    train(config_of(home, max_steps=4, run_dir=tmp_path, checkpoint_path=run.last, **argv))
    assert graphs.frame_count == n_graphs
    assert not counters["graph_break"]


def test_a_compiled_encoder_has_the_features_and_gradients_of_one_that_is_not():
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = SampleCNN(stem=4, channels=(4, 8)).double()
    compiled = copy.deepcopy(plain)
    compiled.compile(dynamic=False, backend="aot_eager")  # all of it but the compiler
    x = torch.randn(4, 1, 5 * plain.min_length).double()
    weights = torch.randn(4, plain.n_features)
    outputs = []
    for encoder in (plain, compiled):
        outputs.append(encoder(x))
        (outputs[-1] * weights).sum().backward()
    torch.testing.assert_close(*outputs)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for a, b in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(compiled.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)
