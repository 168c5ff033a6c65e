"""What a frozen encoder is worth: a head on its features, scored by the tags of the test split."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl

from clmr.allocator import keep_freed_memory
from clmr.checkpoint import encoder_of, read_checkpoint
from clmr.config import Config
from clmr.curves import board
from clmr.datasets import DATASETS, AudioDataset
from clmr.device import allow_tf32, choose_devices, torch_device
from clmr.encoders import ENCODERS, Encoder, LogMelStatistics
from clmr.environment import device_names, note_environment
from clmr.errors import CheckpointError, ConfigError
from clmr.features import extract_features
from clmr.metrics import TagScores
from clmr.modules import LinearEvaluation
from clmr.preprocess import open_store
from clmr.probe import fit_head, load_head, score
from clmr.registry import lookup
from clmr.rundir import run_dir
from clmr.splits import Split, check_audio_length, select_split
from clmr.store import PcmStore, writing

SPLITS = ("train", "valid", "test")
ENCODE_BATCH = 64  # windows; no setting, as it changes no result
METRICS_FILE = "metrics.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """What a run of `evaluate` came to, for the person who started it.

    Args:
        run_dir: Where `metrics.json`, the head's checkpoint and the curves are.
        scores: Of each representation, by its name; the one that was asked for comes first.
    """

    run_dir: Path
    scores: dict[str, TagScores]

    def __str__(self) -> str:
        first = next(iter(self.scores.values()))
        width = max(map(len, [*first.per_tag, *self.scores, *first.skipped]))
        rows = [f"{'tag':{width}}  positives  ROC-AUC  PR-AUC"]
        rows += [
            f"{tag:{width}}  {s['positives']:9d}  {s['roc_auc']:7.4f}  {s['pr_auc']:6.4f}"
            for tag, s in first.per_tag.items()
        ]
        rows += ["", f"{'macro':{width}}             ROC-AUC  PR-AUC"]
        rows += [
            f"{name:{width}}             {s.roc_auc:7.4f}  {s.pr_auc:6.4f}"
            for name, s in self.scores.items()
        ]
        if first.skipped:
            rows.append(f"not in the mean, for want of test clips: {', '.join(first.skipped)}")
        rows += [
            "",
            f"metrics   {self.run_dir / METRICS_FILE}",
            f"curves    tensorboard --logdir {self.run_dir}",
        ]
        return "\n".join(rows)


def evaluate(config: Config) -> Evaluated:
    """Train a head on the features of a frozen encoder, and score it on the test split.

    Every non-overlapping window of every clip is encoded once; a clip's score is the mean of the
    sigmoids of its windows.

    Raises:
        ClmrError: The settings, the dataset, its store or the checkpoint do not do.
    """
    encoder = _load(config)
    accelerator, _ = choose_devices(config.accelerator, config.gpus)
    allow_tf32(False)
    if accelerator == "cpu":
        keep_freed_memory()
    dataset = lookup("dataset", DATASETS, config.dataset)(config.dataset_dir)
    store, splits = _open(config, dataset)
    folder = _folder(config)
    note_environment(folder, seed=config.seed, devices=device_names(accelerator, 1))
    log.info("run       %s", folder)
    sizes = ", ".join(f"{len(split.clips):,} {name}" for name, split in splits.items())
    log.info("evaluate  %s on %s: %s clips", config.checkpoint_path, config.dataset, sizes)
    scores = {"pretrained": _probe(config, encoder, dataset.tags, store, splits, folder)}
    if config.baselines:
        anew = replace(config, finetuner_checkpoint_path="")  # each feature space has its own head
        for name, baseline in _baselines(config).items():
            scores[name] = _probe(anew, baseline, dataset.tags, store, splits, folder / name)
    result = Evaluated(folder, scores)
    _write_metrics(config, result)
    return result


def _load(config: Config) -> Encoder:
    if not config.checkpoint_path:
        raise CheckpointError(
            "there is no encoder to evaluate: give the last.ckpt of a run by --checkpoint_path"
        )
    checkpoint = read_checkpoint(config.checkpoint_path)
    settings = checkpoint.settings
    for name in ("encoder", "sample_rate"):
        wanted, found = getattr(config, name), settings.get(name, getattr(config, name))
        if wanted != found:
            raise CheckpointError(
                f"{config.checkpoint_path} was trained with --{name} {found}, but this run says "
                f"{wanted}: add --{name} {found}"
            )
    if settings.get("audio_length", config.audio_length) != config.audio_length:
        log.warning(
            "the encoder was trained on crops of %d samples and is evaluated on windows of %d",
            settings["audio_length"], config.audio_length,
        )  # fmt: skip
    encoder = encoder_of(checkpoint, config.checkpoint_path)
    try:
        encoder.check_length(config.audio_length)
    except ValueError as error:
        raise ConfigError(f"--encoder {config.encoder}: {error}") from error
    return encoder


def _folder(config: Config) -> Path:
    """The evaluation's folder; within that of pretraining if that is the one that was given."""
    folder = run_dir(config.run_dir, f"eval-{config.dataset}")
    of_pretraining = (folder / "last.ckpt").exists()
    return folder / f"eval-{config.dataset}" if of_pretraining else folder


def _open(config: Config, dataset: AudioDataset) -> tuple[PcmStore, dict[str, Split]]:
    if not dataset.tags:
        labelled = ", ".join(name for name, kind in DATASETS.items() if name != config.dataset)
        raise ConfigError(
            f"--dataset {config.dataset} has no labels to evaluate by: give another, as {labelled}"
        )
    clips = dataset.clips()
    store = open_store(config, clips)
    check_audio_length(store, config.audio_length)
    splits = {name: select_split(store, clips, name, config.audio_length) for name in SPLITS}
    for name, split in splits.items():
        if not len(split.clips):
            raise ConfigError(
                f"--dataset {config.dataset} has no usable clips in its {name} split, of "
                f"{len(store)} in {store.root}: give a larger excerpt of it"
            )
    return store, splits


def _baselines(config: Config) -> dict[str, Encoder]:
    """What the pretrained encoder has to beat: itself without training, and no network at all."""
    pl.seed_everything(config.seed, verbose=False)
    return {
        "untrained": lookup("encoder", ENCODERS, config.encoder)(),
        "log-mel": LogMelStatistics(config.sample_rate),
    }


def _probe(
    config: Config,
    encoder: Encoder,
    tags: tuple[str, ...],
    store: PcmStore,
    splits: dict[str, Split],
    folder: Path,
) -> TagScores:
    accelerator, _ = choose_devices(config.accelerator, config.gpus)
    features = {
        name: extract_features(
            encoder,
            store,
            split,
            config.audio_length,
            batch_size=ENCODE_BATCH,
            device=torch_device(accelerator),
            workers=config.workers or 0,
            name=f"encoding {name}",
        )
        for name, split in splits.items()
    }
    pl.seed_everything(config.seed, verbose=False)
    head = LinearEvaluation(config, encoder.n_features, tags)
    if config.finetuner_checkpoint_path:
        load_head(head, config.finetuner_checkpoint_path, tags)
    else:
        fit_head(config, head, features, accelerator, folder)
    scores = score(head, features["test"], tags)
    logger = board(folder)
    logger.log_hyperparams(
        config.to_dict(), {"Test/roc_auc": scores.roc_auc, "Test/pr_auc": scores.pr_auc}
    )
    logger.finalize("success")
    return scores


def _write_metrics(config: Config, result: Evaluated) -> None:
    result.run_dir.mkdir(parents=True, exist_ok=True)
    content = {
        "scores": {name: scores.to_dict() for name, scores in result.scores.items()},
        "settings": config.to_dict(),
    }
    with writing(result.run_dir / METRICS_FILE) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
