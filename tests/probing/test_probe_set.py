"""What a run is probed on, and what is measured on it, on clips that say which they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_runs import config_of
from torch import nn

from clmr.augmentations import AUGMENTATIONS
from clmr.datamodule import ContrastiveDataModule
from clmr.datasets import Clip
from clmr.modules import ContrastiveLearning
from clmr.probing.probe_set import ProbeSet

TAGS = ("even", "small", "never", "only in train", "only in valid")
OFF = dict.fromkeys((f"transforms_{name}" for name in AUGMENTATIONS), 0.0)
LENGTH = 59_049


class Numbers:
    """A store of clips in which every sample is the clip's number, and of which it tells reads."""

    root = Path("numbers")

    def __init__(self, n_clips, length=3 * LENGTH):
        self.ids = [f"clip{number}" for number in range(n_clips)]
        self.n_samples = np.full(n_clips, length)
        self.reads = []

    def read(self, clip, start, n_samples):
        self.reads.append((int(clip), int(start)))
        return np.full(n_samples, clip, dtype=np.int16)


class Sweeps:
    """A store of clips that are sweeps, each through frequencies of its own, and ever louder."""

    root = Path("sweeps")

    def __init__(self, n_clips):
        self.ids = [f"clip{number}" for number in range(n_clips)]
        self.n_samples = np.full(n_clips, 2 * LENGTH)

    def read(self, clip, start, n_samples):
        share = np.arange(start, start + n_samples) / (2 * LENGTH)
        x = np.sin((1 + clip) * 300 * share * (1 + 40 * share))
        return np.round(3000 * (1 + 9 * share) * x).astype(np.int16)


class Parity(nn.Module):
    """Stands for the module: features are whether the clip's number is even, and the number."""

    device = torch.device("cpu")

    def model(self, x_i, x_j):
        def encode(x):
            assert x.shape[1:] == (1, LENGTH)
            assert not torch.is_grad_enabled()
            number = (x[:, 0, 0] * 2**15).round()
            return torch.stack([1.0 - number % 2, number], dim=1)

        h_i, h_j = encode(x_i), encode(x_j)
        return h_i, h_j, h_i + 1, h_j + 1

    def views(self, crops, stream, step):
        x = crops.float().transpose(0, 1).unsqueeze(2) / 2**15
        return x[0], x[1]


def data_of(folder, store, n_valid, labelled=True, **changed):
    """Clips of the store, of which the last `n_valid` are to validate on."""
    n_clips = len(store.ids)
    n_train = n_clips - n_valid

    def clip(number):
        tags = [number % 2 == 0, number % 10 < 5, False, number == 1, number == n_clips - 2]
        labels = np.array(tags, dtype=np.uint8) if labelled else None
        split = "train" if number < n_train else "valid"
        return Clip(f"clip{number}", Path("none"), split, labels)

    config = config_of(folder, **(OFF | {"batch_size": 4} | changed))
    return ContrastiveDataModule(config, store, [clip(number) for number in range(n_clips)])


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A network whose BatchNorm knows its inputs, in training mode but for one part of it."""
    torch.manual_seed(0)
    module = ContrastiveLearning(config_of(tmp_path_factory.mktemp("home"), **OFF))
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1
    store = Sweeps(4)
    crops = [torch.from_numpy(store.read(clip, 0, LENGTH)) for clip in range(4)]
    module((torch.stack(crops) / 2**15)[:, None])
    module.model.projector.eval()
    return module


# Which clips.


def test_it_takes_so_many_clips_of_each_split_and_the_same_in_every_run(tmp_path):
    stores = Numbers(40), Numbers(40)
    for store, changed in zip(stores, ({}, {"seed": 7, "batch_size": 3}), strict=True):
        probes = ProbeSet(data_of(tmp_path, store, n_valid=10, probe_clips=8, **changed), TAGS)
        probes.measure(Parity())
        assert (probes.n_train, probes.n_valid) == (8, 8)
    assert sorted(stores[0].reads) == sorted(stores[1].reads)
    clips = [clip for clip, _ in stores[0].reads]
    assert len(set(clips)) == 16
    assert sum(clip < 30 for clip in set(clips)) == 8
    assert sorted(set(clips)) not in ([*range(16)], [*range(8), *range(30, 38)])  # not the first
    assert len({start for _, start in stores[0].reads}) > 16  # two crops each, at their own places


def test_the_same_is_read_at_every_probe(tmp_path):
    store = Numbers(12)
    probes = ProbeSet(data_of(tmp_path, store, n_valid=4), TAGS)
    probes.measure(Parity())
    first = store.reads[:]
    probes.measure(Parity())
    assert store.reads == 2 * first


def test_of_fewer_clips_than_asked_for_all_are_taken(tmp_path):
    store = Numbers(14)
    probes = ProbeSet(data_of(tmp_path, store, n_valid=4, probe_clips=256), TAGS)
    probes.measure(Parity())
    assert (probes.n_train, probes.n_valid) == (10, 4)
    assert {clip for clip, _ in store.reads} == set(range(14))


# Labels.


def test_a_feature_that_tells_a_tag_is_found_by_both_heads(tmp_path):
    # 30 clips to learn from and 30 to score: if a clip had another's labels, none would be 1.
    probes = ProbeSet(data_of(tmp_path, Numbers(60), n_valid=30), ("even", *TAGS[1:]))
    probes.labels, probes.tags = probes.labels[:, :1], ("even",)
    figures = probes.measure(Parity())
    names = ("knn_roc_auc", "knn_pr_auc", "linear_roc_auc", "linear_pr_auc")
    assert {name: figures[name] for name in names} == dict.fromkeys(names, 1.0)


def test_heads_learn_from_train_and_are_scored_on_valid(tmp_path):
    # What tells a tag in train tells the opposite in valid.
    probes = ProbeSet(data_of(tmp_path, Numbers(60), n_valid=30), TAGS)
    probes.labels, probes.tags = probes.labels[:, :1], ("even",)
    probes.labels[probes.n_train :] = 1 - probes.labels[probes.n_train :]
    figures = probes.measure(Parity())
    assert figures["knn_roc_auc"] == figures["linear_roc_auc"] == 0


def test_a_tag_counts_if_clips_of_both_splits_differ_in_it(tmp_path):
    probes = ProbeSet(data_of(tmp_path, Numbers(40), n_valid=10), TAGS)
    assert probes.tags == ("even", "small")
    figures = probes.measure(Parity())
    assert tuple(figures) == probes.curves
    assert all(np.isfinite(value) for value in figures.values())


@pytest.mark.parametrize(
    ("n_valid", "tags", "why"),
    [
        (0, TAGS, "none of 5 tags has, among 12 train and among 0 valid clips, one with it and"),
        (1, TAGS, "among 1 valid"),
        (4, (), "the dataset has no labels"),
    ],
)
def test_where_no_tag_counts_it_says_why_and_measures_the_rest(tmp_path, n_valid, tags, why):
    data = data_of(tmp_path, Numbers(12 + n_valid), n_valid, labelled=bool(tags))
    probes = ProbeSet(data, tags)
    assert probes.tags == ()
    assert why in probes.why_no_scores
    figures = probes.measure(Parity())
    assert tuple(figures) == probes.curves == ("alignment", "uniformity", "effective_rank")


# What is measured.


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_figures_are_those_of_the_networks_own_outputs(tmp_path, module, batch_size):
    # Without augmentations a view is its crop, whatever the batches.
    data = data_of(tmp_path, Sweeps(8), n_valid=2, labelled=False, batch_size=batch_size)
    probes = ProbeSet(data, ())
    figures = probes.measure(module)
    h, z = [], []
    for clip, starts in zip(probes.places.clips, probes.places.starts, strict=True):
        crops = [torch.from_numpy(data.store.read(clip, start, LENGTH)) for start in starts]
        with torch.no_grad():
            h.append(module.model.encoder.eval()((torch.stack(crops) / 2**15)[:, None]))
            z.append(nn.functional.normalize(module.model.projector(h[-1]), dim=1).double())
    module.model.encoder.train()
    h, z = torch.stack(h).numpy().astype(float), torch.stack(z).numpy()  # [n, 2, F], [n, 2, D]
    assert figures["alignment"] == pytest.approx(((z[:, 0] - z[:, 1]) ** 2).sum(1).mean(), rel=1e-4)
    pairs = [(a, b) for a in range(8) for b in range(a)]
    potentials = [
        np.mean([np.exp(-2 * ((z[a, v] - z[b, v]) ** 2).sum()) for a, b in pairs]) for v in (0, 1)
    ]
    assert figures["uniformity"] == pytest.approx(np.log(potentials).mean(), rel=1e-4)
    share = np.linalg.svd(h.reshape(16, -1), compute_uv=False)
    share = share / share.sum()
    assert figures["effective_rank"] == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-4
    )


def test_alignment_is_of_augmented_views(tmp_path, module):
    plain = ProbeSet(data_of(tmp_path, Sweeps(6), 2, labelled=False), ())
    before = plain.measure(module)
    augmented = ContrastiveLearning(config_of(tmp_path, **(OFF | {"transforms_gain": 1})))
    augmented.load_state_dict(module.state_dict())
    after = plain.measure(augmented)
    assert after["alignment"] > before["alignment"]
    assert after["effective_rank"] == pytest.approx(before["effective_rank"], rel=1e-5)
    assert plain.measure(augmented) == after


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_views_of_the_reference_chain_are_made_where_crops_are_read(tmp_path, module):
    changed = OFF | {"transforms_gain": 1, "augmentations": "reference"}
    data = data_of(tmp_path, Sweeps(6), 2, labelled=False, **changed)
    reference = ProbeSet(data, ())
    before = ProbeSet(data_of(tmp_path, Sweeps(6), 2, labelled=False), ()).measure(module)
    module_of_reference = ContrastiveLearning(data.config)
    module_of_reference.load_state_dict(module.state_dict())
    after = reference.measure(module_of_reference)
    assert after["alignment"] > before["alignment"]
    assert after["effective_rank"] == pytest.approx(before["effective_rank"], rel=1e-5)


# What is left alone.


def test_the_network_and_the_sources_of_chance_are_left_as_they_are(tmp_path, module):
    modes = [part.training for part in module.modules()]
    assert set(modes) == {True, False}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    numpys = np.random.get_state()[1].copy()  # noqa: NPY002
    ProbeSet(data_of(tmp_path, Sweeps(6), 2, labelled=False), ()).measure(module)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    assert all(weight.grad is None for weight in module.parameters())


@pytest.mark.parametrize("part", ["encoder", "projector"])
def test_outputs_that_are_not_finite_give_no_figures(tmp_path, module, part):
    broken = ContrastiveLearning(module.config)
    next(getattr(broken.model, part).parameters()).data.fill_(torch.inf)
    assert ProbeSet(data_of(tmp_path, Sweeps(6), 2, labelled=False), ()).measure(broken) == {}
