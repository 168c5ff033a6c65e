"""Linear evaluation, on clips of tones and of noise laid out as MagnaTagATune."""

import csv
import json
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from fixtures_runs import SAMPLE_RATE, events_of, settings
from sklearn.metrics import average_precision_score, roc_auc_score

from clmr.command import run
from clmr.config import load_config
from clmr.encoders import SampleCNNSmall
from clmr.errors import CheckpointError, ConfigError
from clmr.evaluate import evaluate
from clmr.features import Features, extract_features
from clmr.modules import ContrastiveLearning, LinearEvaluation
from clmr.probe import score
from clmr.store import PcmStore

pytestmark = [  # Lightning's, which the commands do not show
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists"),
]

WINDOW = 59_049
TAGS = ("tone", "noise", "long", "only in training")  # by count, as the dataset lists them
# First folders of the clips, by which MagnaTagATune is split; half of each split are tones.
FOLDERS = {"train": "0123456789ab", "valid": "cccccc", "test": "ddddddeeeeeeffffff"}


def annotate_and_play(folder):
    """Write clips of 3 or 6 s to mp3, one window or two, and the table of their tags."""
    folder.mkdir(parents=True)
    rows = []
    for number, first in enumerate("".join(FOLDERS.values())):
        rng = np.random.default_rng(number)
        tone, long = number % 2 == 0, number % 3 == 0
        time_s = np.arange((6 if long else 3) * SAMPLE_RATE) / SAMPLE_RATE
        x = 0.02 * rng.standard_normal(len(time_s))
        if tone:
            x += 0.2 * np.sin(2 * np.pi * rng.uniform(430, 450) * time_s)
        path = f"{first}/clip{number}.mp3"
        (folder / first).mkdir(exist_ok=True)
        soundfile.write(folder / path, x, SAMPLE_RATE, format="MP3")
        labels = [tone, not tone, long, number < 3]
        rows.append([str(number), *(str(int(label)) for label in labels), path])
    table = [["clip_id", *TAGS, "mp3_path"], *rows]
    lines = ["\t".join(f'"{field}"' for field in row) + "\n" for row in table]
    (folder / "annotations_final.csv").write_text("".join(lines))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the dataset and with a checkpoint of an encoder."""
    home = tmp_path_factory.mktemp("home")
    annotate_and_play(home / "magnatagatune")
    torch.manual_seed(0)
    module = ContrastiveLearning(load_config(settings(home)))
    for layer in module.modules():  # statistics other than the initial ones, as after training
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1
    module(0.1 * torch.randn(4, 1, WINDOW))
    torch.save(
        {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)},
        home / "encoder.ckpt",
    )
    return home


def config(home, **changed):
    common = {
        "dataset": "magnatagatune",
        "dataset_dir": home,
        "checkpoint_path": home / "encoder.ckpt",
        "finetuner_max_epochs": 20,
        "finetuner_batch_size": 8,
        "finetuner_learning_rate": 0.01,
    }
    return load_config(settings(home, **(common | changed)))


def flags_of(config):
    """The command line of these settings."""
    return [f"--{k}={v}" for k, v in config.to_dict().items() if v is not None]


def evaluated(home, name, **changed):
    """One evaluation: what it returned, and what it wrote."""
    result = evaluate(config(home, run_dir=home / name, **changed))
    metrics = json.loads((home / name / "metrics.json").read_text())
    return SimpleNamespace(result=result, metrics=metrics, folder=home / name)


@pytest.fixture(scope="module")
def linear(home):
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    return evaluated(home, "linear", baselines=1)


@pytest.fixture(scope="module")
def mlp(home):
    return evaluated(home, "mlp", finetuner_mlp=1)


def by_hand(home, folder):
    """Scores of the test split from the checkpoints: {tag: (roc_auc, pr_auc)}."""
    encoder = SampleCNNSmall()
    state = torch.load(home / "encoder.ckpt", weights_only=True)["state_dict"]
    prefix = "model.encoder."
    encoder.load_state_dict({k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)})
    encoder.eval()
    head = torch.load(folder / "head.ckpt", weights_only=True)["state_dict"]
    store = PcmStore(home / "store")
    names = [line.split("\t") for line in
             (home / "magnatagatune" / "annotations_final.csv").read_text().splitlines()[1:]]
    rows = [[field.strip('"') for field in row] for row in names]
    labels, scores = [], []
    for clip_id, *label, path in rows:
        if path[0] not in FOLDERS["test"]:
            continue
        number = store.ids.index(clip_id)
        pcm = store.read(number, 0, store.n_samples[number])
        windows = [pcm[s : s + WINDOW] for s in range(0, len(pcm) - WINDOW + 1, WINDOW)]
        x = torch.from_numpy(np.stack(windows) / 32768).float()[:, None]
        with torch.no_grad():
            h = (encoder(x) - head["mean"]) / head["std"]
        logits = h @ head["model.0.weight"].T + head["model.0.bias"]
        if "model.2.weight" in head:
            logits = logits.clamp(min=0) @ head["model.2.weight"].T + head["model.2.bias"]
        scores.append((1 / (1 + torch.exp(-logits.double()))).mean(dim=0).numpy())
        labels.append([int(value) for value in label])
    labels, scores = np.array(labels), np.array(scores)
    return {
        tag: (roc_auc_score(labels[:, k], scores[:, k]),
              average_precision_score(labels[:, k], scores[:, k]))
        for k, tag in enumerate(TAGS) if labels[:, k].any()
    }  # fmt: skip


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_the_scores_are_those_of_the_heads_checkpoint_computed_by_hand(home, name, request):
    run = request.getfixturevalue(name)
    expected = by_hand(home, run.folder)
    found = run.metrics["scores"]["pretrained"]
    assert list(found["per_tag"]) == list(expected) == ["tone", "noise", "long"]
    for tag, (roc_auc, pr_auc) in expected.items():
        assert found["per_tag"][tag]["roc_auc"] == pytest.approx(roc_auc)
        assert found["per_tag"][tag]["pr_auc"] == pytest.approx(pr_auc)
    assert found["roc_auc"] == pytest.approx(np.mean([roc for roc, _ in expected.values()]))
    assert found["pr_auc"] == pytest.approx(np.mean([pr for _, pr in expected.values()]))


def test_what_is_written_is_what_is_returned_with_all_settings(home, linear):
    assert linear.metrics["scores"] == {
        name: scores.to_dict() for name, scores in linear.result.scores.items()
    }
    settings = config(home, baselines=1, run_dir=linear.folder).to_dict()
    assert linear.metrics["settings"] == settings


def test_tags_that_no_test_clip_has_are_named_and_left_out(linear):
    assert linear.metrics["scores"]["pretrained"]["skipped"] == ["only in training"]
    assert "not in the mean, for want of test clips: only in training" in str(linear.result)
    assert linear.metrics["scores"]["pretrained"]["per_tag"]["tone"]["positives"] == 9


def test_a_tone_is_told_from_noise(linear):
    scores = linear.metrics["scores"]
    assert scores["log-mel"]["per_tag"]["tone"]["roc_auc"] == 1
    assert scores["pretrained"]["per_tag"]["tone"]["roc_auc"] > 0.7


def test_baselines_are_rows_of_the_table_and_heads_of_their_own(linear, mlp):
    assert list(linear.metrics["scores"]) == ["pretrained", "untrained", "log-mel"]
    assert list(mlp.metrics["scores"]) == ["pretrained"]
    table = str(linear.result)
    for name, scores in linear.metrics["scores"].items():
        assert re.search(rf"^{name} +{scores['roc_auc']:.4f} +{scores['pr_auc']:.4f}$", table, re.M)
    heads = [torch.load(folder / "head.ckpt", weights_only=True)["state_dict"]["mean"]
             for folder in (linear.folder, linear.folder / "untrained", linear.folder / "log-mel")]
    assert [len(mean) for mean in heads] == [256, 256, 128]
    assert not torch.allclose(heads[0], heads[1])


def test_the_linear_head_is_one_layer_and_the_mlp_has_a_hidden_one_as_wide_as_the_features(
    linear, mlp
):
    def shapes(run):
        state = torch.load(run.folder / "head.ckpt", weights_only=True)["state_dict"]
        return [tuple(state[name].shape) for name in state if name.endswith("weight")]

    assert shapes(linear) == [(4, 256)]
    assert shapes(mlp) == [(256, 256), (4, 256)]


def test_features_are_standardised_by_the_training_split_unless_told_not_to(home, linear):
    raw = evaluated(home, "raw", finetuner_standardize=0, finetuner_max_epochs=1)
    state = torch.load(raw.folder / "head.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["mean"], torch.zeros(256))
    assert torch.equal(state["std"], torch.ones(256))
    state = torch.load(linear.folder / "head.ckpt", weights_only=True)["state_dict"]
    assert state["mean"].abs().max() > 1e-3
    assert not torch.allclose(state["std"], torch.ones(256), atol=0.01)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_head_given_by_its_checkpoint_is_scored_without_training(home, name, request):
    run = request.getfixturevalue(name)
    head = run.folder / "head.ckpt"
    again = evaluated(
        home, f"{name}-again", finetuner_checkpoint_path=head, finetuner_mlp=int(name == "mlp")
    )
    assert again.metrics["scores"]["pretrained"] == run.metrics["scores"]["pretrained"]
    assert not (again.folder / "head.ckpt").exists()


def test_beside_a_given_head_the_baselines_have_heads_of_their_own(home, linear):
    head = linear.folder / "head.ckpt"
    again = evaluated(home, "given", finetuner_checkpoint_path=head, baselines=1)
    assert again.metrics["scores"] == linear.metrics["scores"]


def test_the_same_seed_trains_the_same_head_and_another_seed_another(home, mlp):
    def head(run):
        state = torch.load(run.folder / "head.ckpt", weights_only=True)["state_dict"]
        return state["model.0.weight"]

    again = evaluated(home, "mlp-again-trained", finetuner_mlp=1)
    other = evaluated(home, "mlp-other", finetuner_mlp=1, seed=1)
    torch.testing.assert_close(head(again), head(mlp), rtol=0, atol=1e-6)
    assert (head(other) - head(mlp)).abs().max() > 1e-3


def test_curves_of_the_head_and_its_scores_are_logged(linear):
    events = events_of(linear.folder)
    assert len(events.Scalars("Train/loss")) == len(events.Scalars("Valid/loss")) > 1
    scores = linear.metrics["scores"]["pretrained"]
    (point,) = events.Scalars("Test/roc_auc")
    assert point.value == pytest.approx(scores["roc_auc"])


def test_curves_of_every_head_are_in_its_folder_as_a_table_too(linear):
    for folder in (linear.folder, linear.folder / "untrained", linear.folder / "log-mel"):
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for name in ("Train/loss", "Valid/loss"):
            found = {int(r["step"]): float(r["value"]) for r in rows if r["name"] == name}
            expected = {event.step: event.value for event in events_of(folder).Scalars(name)}
            assert found == pytest.approx(expected, rel=1e-6)


def test_an_evaluation_says_what_it_was_made_with(linear):
    (found,) = yaml.safe_load_all((linear.folder / "environment.yaml").read_text())
    assert found["seed"] == 42
    assert found["torch"] == torch.__version__


def test_the_head_takes_batches_and_epochs_as_the_settings_say(linear):
    # Of 12 training clips every third has two windows: 16, in batches of 8.
    checkpoint = torch.load(linear.folder / "head.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2 * (checkpoint["epoch"] + 1)
    valid = [event.value for event in events_of(linear.folder).Scalars("Valid/loss")]
    assert len(valid) == min(20, int(np.argmin(valid)) + 1 + 10)  # ten without a better one


def test_the_head_that_is_kept_is_the_one_of_the_best_validation_loss(linear):
    valid = [event.value for event in events_of(linear.folder).Scalars("Valid/loss")]
    epoch = torch.load(linear.folder / "head.ckpt", weights_only=True)["epoch"]
    assert epoch == int(np.argmin(valid))


def test_an_evaluation_does_not_write_over_the_pretraining_run_whose_folder_it_was_given(home):
    folder = home / "pretrained"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes((home / "encoder.ckpt").read_bytes())
    (folder / "hparams.yaml").write_text("of the pretraining run")
    given = config(home, run_dir=folder, finetuner_max_epochs=1)
    assert evaluate(given).run_dir == folder / "eval-magnatagatune"
    assert (folder / "eval-magnatagatune" / "metrics.json").is_file()
    assert (folder / "hparams.yaml").read_text() == "of the pretraining run"
    assert evaluate(given).run_dir == folder / "eval-magnatagatune"  # and again in the same place


def test_the_encoder_is_frozen(home, monkeypatch):
    taken = {}

    def watch(encoder, *args, **kwargs):
        taken.setdefault("encoder", encoder)
        taken.setdefault("before", {k: v.clone() for k, v in encoder.state_dict().items()})
        return extract_features(encoder, *args, **kwargs)

    monkeypatch.setattr("clmr.evaluate.extract_features", watch)
    evaluated(home, "frozen", finetuner_max_epochs=2)
    after = taken["encoder"].state_dict()
    assert all(torch.equal(after[name], value) for name, value in taken["before"].items())


def test_features_are_in_float32_and_not_in_tf32(linear):
    assert not torch.backends.cudnn.allow_tf32


def test_the_score_of_a_clip_is_the_mean_of_the_sigmoids_of_its_windows():
    # Two clips of logits 3 and 3, and 10 and -1: their sigmoids have the means 0.95 and 0.63,
    # while by the mean of the logits the second would be above the first.
    head = LinearEvaluation(load_config([]), 1, ("tone",))
    torch.nn.init.ones_(head.model[0].weight)
    torch.nn.init.zeros_(head.model[0].bias)
    h = torch.tensor([[10.0], [3.0], [-1.0], [3.0]])
    features = Features(h, np.array([1, 0, 1, 0]), np.array([[1], [0]], dtype=np.uint8))
    assert score(head, features, ("tone",)).roc_auc == 1


# What is refused.


def test_without_an_encoder_there_is_nothing_to_evaluate(home):
    with pytest.raises(CheckpointError, match="no encoder to evaluate: give the last.ckpt of a"):
        evaluate(config(home, checkpoint_path=""))


def test_an_encoder_that_is_not_there_is_refused(home):
    with pytest.raises(CheckpointError, match="no checkpoint nowhere.ckpt"):
        evaluate(config(home, checkpoint_path="nowhere.ckpt"))


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"encoder": "sample_cnn"}, "add --encoder sample_cnn_small"),
        ({"sample_rate": 16_000}, "add --sample_rate 22050"),
    ],
)
def test_an_encoder_that_was_trained_otherwise_is_refused_with_the_flag_to_add(
    home, changed, advice
):
    with pytest.raises(CheckpointError, match=f"{advice}$"):
        evaluate(config(home, **changed))


def test_windows_of_another_length_than_the_crops_are_a_warning(home, caplog):
    evaluated(home, "longer", audio_length=60_000, finetuner_max_epochs=1)
    assert "trained on crops of 59049 samples and is evaluated on windows of 60000" in caplog.text


@pytest.mark.parametrize(
    ("length", "reason"),
    [(59_048, "at least 59049 samples"), (10**7, "longer than any clip of .* give at most")],
)
def test_windows_that_no_clip_or_no_encoder_can_fill_are_refused(home, length, reason, linear):
    with pytest.raises(ConfigError, match=reason):
        evaluate(config(home, audio_length=length))


def test_a_dataset_without_labels_is_refused_with_those_that_have_them(home):
    with pytest.raises(ConfigError, match="audio has no labels .* magnatagatune, demo$"):
        evaluate(config(home, dataset="audio"))


@pytest.mark.parametrize(("split", "folders"), [("valid", "c"), ("test", "def")])
def test_a_split_without_clips_is_refused_by_its_name(home, linear, tmp_path, split, folders):
    table = (home / "magnatagatune" / "annotations_final.csv").read_text().splitlines()
    rows = [line for line in table if not re.search(rf'"[{folders}]/clip', line)]
    (tmp_path / "magnatagatune").mkdir()
    (tmp_path / "magnatagatune" / "annotations_final.csv").write_text("\n".join(rows))
    with pytest.raises(ConfigError, match=f"no usable clips in its {split} split"):
        evaluate(config(home, dataset_dir=tmp_path))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"finetuner_mlp": 1}, "another network than LinearEvaluation"), ({}, "other tags")],
)
def test_a_head_that_does_not_fit_is_refused(home, linear, tmp_path, changed, reason):
    head = torch.load(linear.folder / "head.ckpt", weights_only=True)
    if not changed:
        head["hyper_parameters"]["tags"] = ["a", "b", "c", "d"]
    torch.save(head, tmp_path / "head.ckpt")
    with pytest.raises(CheckpointError, match=reason):
        evaluate(config(home, finetuner_checkpoint_path=tmp_path / "head.ckpt", **changed))


def test_ctrl_c_ends_the_training_of_the_head_after_its_step_with_the_status_of_an_interrupt(
    home, linear, monkeypatch, capsys
):
    def step(*args):
        signal.raise_signal(signal.SIGINT)
        finished.append(original(*args))
        return finished[-1]

    finished, original = [], LinearEvaluation.training_step
    monkeypatch.setattr(LinearEvaluation, "training_step", step)
    assert run(evaluate, flags_of(config(home, run_dir=home / "interrupted"))) == 130
    assert len(finished) == 1
    assert "interrupted: nothing is scored; run the same command again" in capsys.readouterr().err
    assert not (home / "interrupted" / "metrics.json").exists()


def test_the_command_prints_the_table_and_where_things_are(home, linear, capsys):
    head = linear.folder / "head.ckpt"
    changed = {"run_dir": home / "command", "finetuner_checkpoint_path": head}
    assert run(evaluate, flags_of(config(home, **changed))) == 0
    out = capsys.readouterr().out
    scores = linear.metrics["scores"]["pretrained"]
    for tag, s in scores["per_tag"].items():
        numbers = f"{s['positives']} +{s['roc_auc']:.4f} +{s['pr_auc']:.4f}"
        assert re.search(rf"^{tag} +{numbers}$", out, re.M)
    assert f"metrics   {home}/command/metrics.json" in out
