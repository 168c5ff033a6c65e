"""Every setting of the package, once: its type, default, allowed range and meaning."""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from clmr.errors import ConfigError
from clmr.registry import did_you_mean

CONFIG_FILE = Path(__file__).parents[1] / "config" / "config.yaml"
SWITCH = "true, false, 1 or 0"


def setting(
    default: Any,
    help: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """One field of `Config`: a default, what it means, and the values that it may take."""
    limits = {"above": above, "at_least": at_least, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """All settings, flat. Each is a key of `config/config.yaml` and a flag of the scripts.

    Raises:
        ConfigError: A value is outside its range, or null where there has to be one.
    """

    # data
    dataset: str = setting("magnatagatune", "magnatagatune, audio (any folder) or demo")
    dataset_dir: str = setting("./data", "folder of the datasets (audio: the folder itself)")
    store_dir: str = setting(
        "", "PCM store; empty = <dataset_dir>/processed/<dataset>-<sample_rate>"
    )
    sample_rate: int = setting(22050, "samples a second of the store [Hz]", at_least=1)
    audio_length: int = setting(59049, "samples of a crop: 3^10 = 2.68 s at 22,050 Hz", at_least=1)
    workers: int | None = setting(
        None,
        "processes: decoding (null = one a core), reading crops (null = 0, the main process)",
        at_least=0,
    )
    store_device: str = setting(
        "mapped", "where crops are cut: mapped (files), or all clips in memory: cpu or cuda (GPU)",
        choices=("mapped", "cpu", "cuda"),
    )  # fmt: skip

    # run
    seed: int = setting(
        42, "of weights, crops and augmentations", at_least=0, at_most=2**32 - 1
    )
    gpus: int | None = setting(
        None, "null = one if there is one, 0 = CPU; with accelerator cpu: processes", at_least=0
    )
    num_nodes: int | None = setting(
        None, "machines, each with as many gpus; null = what torchrun or SLURM says, else 1",
        at_least=1,
    )  # fmt: skip
    accelerator: str = setting("auto", "auto, gpu or cpu", choices=("auto", "gpu", "cpu"))
    run_dir: str = setting(
        "", "folder of logs and checkpoints; empty = runs/<pretrain|eval>-<dataset>/version_<n>"
    )
    resume: str = setting(
        "never", "auto = go on from the last good checkpoint in run_dir, or start anew",
        choices=("never", "auto"),
    )  # fmt: skip
    save_every_n_steps: int | None = setting(
        None, "steps between two writings of last.ckpt; null = each epoch only", at_least=1
    )
    log_every_n_steps: int = setting(10, "steps between two points of a curve", at_least=1)

    # model
    encoder: str = setting("sample_cnn", "sample_cnn (Lee et al. 2017) or sample_cnn_small")
    projection_dim: int = setting(64, "width D of the projections", at_least=1)

    # pretraining
    batch_size: int = setting(48, "clips in a batch on one device; two views of each", at_least=1)
    max_epochs: int | None = setting(
        None, "epochs; null = 200, or no limit where max_steps is given", at_least=1
    )
    max_steps: int | None = setting(None, "optimizer steps; null = no limit", at_least=1)
    loss: str = setting(
        "nt_xent",
        "nt_xent (Chen et al. 2020), dcl (Yeh et al. 2022) or vicreg (Bardes et al. 2022)",
    )
    temperature: float = setting(
        0.5, "of the losses nt_xent and dcl; vicreg has none; CLMR uses 0.5", above=0
    )
    optimizer: str = setting("adam", "adam, adamw, sgd or lars (You et al. 2017)")
    learning_rate: float = setting(3e-4, "of the optimizer, after the warm-up", above=0)
    weight_decay: float = setting(
        1e-6, "of the optimizer; adamw and lars spare biases and norms", at_least=0
    )
    momentum: float = setting(0.9, "of sgd and lars", at_least=0, at_most=1)
    schedule: str = setting("constant", "constant or cosine (to 0 at the run's last step)")
    warmup_steps: int = setting(0, "steps in which the learning rate rises from 0", at_least=0)
    precision: str = setting(
        "auto",
        "auto (bf16-mixed where the device has it, else 32), 32, tf32, bf16-mixed or 16-mixed",
        choices=("auto", "32", "tf32", "bf16-mixed", "16-mixed"),
    )
    compile: bool = setting(
        False, "compile the encoder by torch.compile: about a minute at the start; needs a compiler"
    )
    grad_cache_chunk: int | None = setting(
        None,
        "clips encoded at a time, for batches beyond memory (Gao et al. 2021); null = all",
        at_least=3,  # so that no chunk is of one clip
    )
    checkpoint_path: str = setting(
        "", "main.py: resume from it; linear_evaluation.py: encoder to evaluate"
    )

    # probes during pretraining
    probe_every: int | None = setting(
        None, "epochs between two probes of the representation; null = none", at_least=1
    )
    probe_clips: int = setting(
        256, "clips of train, and of valid, that are probed: at most", at_least=2, at_most=2048
    )
    early_stopping: str = setting(
        "never", "the probe's curve that has to get better, or the run ends; or never",
        choices=("never", "uniformity", "effective_rank")
        + ("knn_roc_auc", "knn_pr_auc", "linear_roc_auc", "linear_pr_auc"),
    )  # fmt: skip
    early_stopping_patience: int = setting(
        10, "probes in a row without a new best, after which the run ends", at_least=1
    )

    # linear evaluation
    baselines: bool = setting(False, "also probe the untrained encoder and log-mel statistics")
    finetuner_mlp: bool = setting(False, "head with one hidden layer instead of a linear one")
    finetuner_standardize: bool = setting(
        True, "standardise features by the training split before the head (CLMR: false)"
    )
    finetuner_checkpoint_path: str = setting("", "head to score as it is, instead of training one")
    finetuner_max_epochs: int = setting(200, "epochs of the head", at_least=1)
    finetuner_batch_size: int = setting(256, "windows in a batch of the head", at_least=1)
    finetuner_learning_rate: float = setting(1e-3, "of the head's Adam", above=0)

    # augmentations of each view, in their order
    augmentations: str = setting(
        "clmr",
        "clmr (batched, on the device) or reference (torchaudio-augmentations, on the workers)",
        choices=("clmr", "reference"),
    )
    augment_chunk: int | None = setting(
        None, "rows augmented at a time, which bounds memory; null = by device", at_least=1
    )
    transforms_polarity: float = setting(
        0.8, "probability of polarity inversion", at_least=0, at_most=1
    )
    transforms_noise: float = setting(0.01, "of white noise", at_least=0, at_most=1)
    transforms_gain: float = setting(0.3, "of a gain of -20 to -1 dB", at_least=0, at_most=1)
    transforms_filters: float = setting(
        0.8, "of a high-pass (200 to 1,200 Hz) or low-pass (2,200 to 4,000 Hz)",
        at_least=0, at_most=1,
    )  # fmt: skip
    transforms_delay: float = setting(0.3, "of an echo after 200 to 450 ms", at_least=0, at_most=1)
    transforms_pitch: float = setting(
        0.6, "of a pitch shift by -7 to 7 semitones", at_least=0, at_most=1
    )
    transforms_reverb: float = setting(0.6, "of reverberation", at_least=0, at_most=1)
    transforms_reverse: float = setting(0.0, "of playing backwards", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_range(f, getattr(self, f.name))

    @property
    def transforms(self) -> dict[str, float]:
        """Probability of each augmentation, by its name."""
        prefix = "transforms_"
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith(prefix)}
        return {name.removeprefix(prefix): p for name, p in named.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)


def _check_range(f: Field, value: Any) -> None:
    if value is None and f.type in (bool, int, float, str):
        expected = SWITCH if f.type is bool else f.type.__name__
        raise ConfigError(f"{f.name}: expected {expected}, got null")
    limits = f.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise ConfigError(f"{f.name}: got '{value}', allowed: {', '.join(limits['choices'])}")
    if not isinstance(value, (int, float)):
        return
    if not (limits["above"] < value and limits["at_least"] <= value <= limits["at_most"]):
        raise ConfigError(f"{f.name}: got {value}, allowed: {_describe_range(limits)}")
    if math.isinf(value):
        raise ConfigError(f"{f.name}: got {value}, allowed: finite numbers")


def _describe_range(limits: Any) -> str:
    parts = [
        f"{words} {limits[key]:g}" if abs(limits[key]) < 1e6 else f"{words} {limits[key]}"
        for key, words in (("above", "above"), ("at_least", "at least"), ("at_most", "at most"))
        if not math.isinf(limits[key])
    ]
    return " and ".join(parts) or "numbers"


def load_config(argv: list[str] | None = None) -> Config:
    """Read the settings: `config/config.yaml`, then each `--config other.yaml`, then the flags.

    Args:
        argv: The command line without the program's name; None takes it from `sys.argv`.

    Raises:
        ConfigError: A key is unknown, or a value has a wrong type or is out of range.
        SystemExit: After `--help` and `--print_config`, with status 0.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    _refuse_unknown_names(parser, argv)
    try:
        settings = parser.parse_args(_files_first(argv))
    except ArgumentError as error:
        raise ConfigError(_in_our_words(str(error))) from error
    config = Config(**{f.name: settings[f.name] for f in fields(Config)})
    if settings.print_config:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        sys.exit(0)
    return config


def _parser() -> ArgumentParser:
    default_files = [str(CONFIG_FILE)] if CONFIG_FILE.is_file() else []
    parser = ArgumentParser(
        default_config_files=default_files, exit_on_error=False, print_config=None
    )
    parser.add_argument("--config", action="config", help="YAML file that overrides config.yaml")
    parser.add_argument("--print_config", action="store_true", help="print all settings and exit")
    types = get_type_hints(Config)
    for f in fields(Config):
        kind = _kind_of(f, types[f.name])
        parser.add_argument(f"--{f.name}", type=kind, default=f.default, help=f.metadata["help"])
    return parser


def _read_switch(value: Any) -> bool:
    """Read a switch as CLMR's users write it: true/false or 1/0."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in known:
        raise ValueError(f"expected {SWITCH}, got {value}")
    return known[str(value).lower()]


class _Kind(NamedTuple):
    """How a value is read, and what `--help` says of it."""

    words: str
    read: Callable[[Any], Any]

    def __call__(self, value: Any) -> Any:
        return self.read(value)

    def __repr__(self) -> str:
        return self.words


def _kind_of(f: Field, kind: Any) -> Any:
    if kind is bool:
        return _Kind(SWITCH, _read_switch)
    # One of a setting's choices; `32` comes from YAML as a number.
    return _Kind("str", str) if f.metadata["choices"] else kind


def _files_first(argv: list[str]) -> list[str]:
    """Move `--config` to the front: the flags win over files wherever they stand."""
    files, flags, rest = [], [], iter(argv)
    for word in rest:
        if word == "--config":
            files += [word, *islice(rest, 1)]
        else:
            (files if word.startswith("--config=") else flags).append(word)
    return files + flags


def _refuse_unknown_names(parser: ArgumentParser, argv: list[str]) -> None:
    """Name the nearest right key, which the parser's own message does not do."""
    flags = {option for action in parser._actions for option in action.option_strings}
    given = [a.split("=")[0] for a in argv if a.startswith("--")]
    for flag in given:
        if flag not in flags:
            raise ConfigError(f"unknown flag {flag}{did_you_mean(flag, flags)}; see --help")
    files = [CONFIG_FILE] if CONFIG_FILE.is_file() else []
    files += [Path(b) for a, b in zip(argv, argv[1:], strict=False) if a == "--config"]
    files += [Path(a.split("=", 1)[1]) for a in argv if a.startswith("--config=")]
    for file in files:
        _refuse_unknown_keys(file)


def _refuse_unknown_keys(file: Path) -> None:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"--config {file}: there is no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {file}: cannot be read as YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {file}: expected lines of `key: value`, got {settings!r:.60}")
    known = [f.name for f in fields(Config)]
    for key in settings:
        if key not in known:
            raise ConfigError(f"{file}: unknown key '{key}'{did_you_mean(str(key), known)}")


def _in_our_words(message: str) -> str:
    """Shorten the parser's message: `batch_size: expected int, got 1.5`."""
    key = re.search(r'Parser key "(\w+)"|argument --(\w+): invalid', message)
    kinds = re.findall(r"Expected an? <class '(\w+)'>", message) or [SWITCH]
    got = re.search(r"(?:[Vv]alue:|, got) '?(.*?)'?$", message)
    if not (key and got):
        return message
    expected = " or ".join(kinds).replace("NoneType", "null")
    return f"{key[1] or key[2]}: expected {expected}, got {got[1]}"
