"""Settings: one source, three ways to give them, and what is refused."""

import re
from dataclasses import fields
from typing import get_type_hints

import pytest
import yaml

from clmr.config import CONFIG_FILE, Config, load_config
from clmr.errors import ConfigError

FIELDS = {f.name: f for f in fields(Config)}
TYPES = get_type_hints(Config)
DEFAULTS = Config().to_dict()
SWITCHES = [name for name, kind in TYPES.items() if kind is bool]
OPTIONAL = [name for name, kind in TYPES.items() if kind == int | None]

# What each setting may be, as a person would say it: the last value below or above that is
# refused, the first that is taken, and how the range is named.
PROBABILITY = [(-0.01, 0, "at least 0 and at most 1"), (1.01, 1, "at least 0 and at most 1")]
LIMITS = {
    "sample_rate": [(0, 1, "at least 1")],
    "audio_length": [(0, 1, "at least 1")],
    "workers": [(-1, 0, "at least 0")],
    "seed": [
        (-1, 0, "at least 0 and at most 4294967295"),
        (2**32, 2**32 - 1, "at least 0 and at most 4294967295"),
    ],
    "gpus": [(-1, 0, "at least 0")],
    "num_nodes": [(0, 1, "at least 1")],
    "save_every_n_steps": [(0, 1, "at least 1")],
    "log_every_n_steps": [(0, 1, "at least 1")],
    "projection_dim": [(0, 1, "at least 1")],
    "batch_size": [(0, 1, "at least 1")],
    "max_epochs": [(0, 1, "at least 1")],
    "max_steps": [(0, 1, "at least 1")],
    "temperature": [(0, 1e-9, "above 0")],
    "learning_rate": [(0, 1e-9, "above 0")],
    "weight_decay": [(-1e-9, 0, "at least 0")],
    "momentum": PROBABILITY,
    "warmup_steps": [(-1, 0, "at least 0")],
    "grad_cache_chunk": [(2, 3, "at least 3")],
    "probe_every": [(0, 1, "at least 1")],
    "probe_clips": [
        (1, 2, "at least 2 and at most 2048"),
        (2049, 2048, "at least 2 and at most 2048"),
    ],
    "early_stopping_patience": [(0, 1, "at least 1")],
    "finetuner_max_epochs": [(0, 1, "at least 1")],
    "finetuner_batch_size": [(0, 1, "at least 1")],
    "finetuner_learning_rate": [(0, 1e-9, "above 0")],
    "augment_chunk": [(0, 1, "at least 1")],
    "transforms_polarity": PROBABILITY,
    "transforms_noise": PROBABILITY,
    "transforms_gain": PROBABILITY,
    "transforms_filters": PROBABILITY,
    "transforms_delay": PROBABILITY,
    "transforms_pitch": PROBABILITY,
    "transforms_reverb": PROBABILITY,
    "transforms_reverse": PROBABILITY,
}
LIMIT_CASES = [(name, *case) for name, cases in LIMITS.items() for case in cases]


def another_value(name):
    """A value that is allowed and is not the default."""
    default, kind = DEFAULTS[name], TYPES[name]
    if FIELDS[name].metadata["choices"]:
        return FIELDS[name].metadata["choices"][-1]
    if kind is bool:
        return not default
    if kind is str:
        return "something else"
    return 0.5 * default if kind is float else (default or 0) + 7


@pytest.fixture
def write(tmp_path):
    """Write a YAML file and give the flag that layers it."""

    def write_file(text, name="other.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write_file


def shipped_lines():
    """`key: value  # comment` of config.yaml, in order."""
    lines = CONFIG_FILE.read_text(encoding="utf-8").splitlines()
    return [re.fullmatch(r"(\w+): +(.*?)  # (.*)", line) for line in lines if re.match(r"\w", line)]


def test_the_shipped_file_has_every_setting_once_in_order_with_its_value():
    lines = shipped_lines()
    assert all(lines)
    assert [line[1] for line in lines] == list(FIELDS)
    assert list(yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8")).items()) == list(
        DEFAULTS.items()
    )


@pytest.mark.parametrize("name", FIELDS)
def test_the_comment_in_the_shipped_file_is_the_help_of_the_flag(name):
    comments = {line[1]: line[3] for line in shipped_lines()}
    assert comments[name] == FIELDS[name].metadata["help"]


def test_without_flags_the_settings_are_the_defaults():
    assert load_config([]) == Config()


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("form", ["--{}|{}", "--{}={}"])
def test_a_flag_overrides_the_setting_of_its_name_and_no_other(name, form):
    value = another_value(name)
    config = load_config(form.format(name, value).split("|"))
    assert config.to_dict() == DEFAULTS | {name: value}
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_file_overrides_the_setting_of_its_name_and_no_other(name, write):
    value = another_value(name)
    config = load_config(write(yaml.safe_dump({name: value})))
    assert config.to_dict() == DEFAULTS | {name: value}


def test_later_files_win_over_earlier_ones_key_by_key(write):
    first = write("batch_size: 3\nseed: 4\n", "first.yaml")
    second = write("seed: 5\n", "second.yaml")
    assert load_config([*first, *second]).to_dict() == DEFAULTS | {"batch_size": 3, "seed": 5}
    assert load_config([*second, *first]).to_dict() == DEFAULTS | {"batch_size": 3, "seed": 4}


def test_flags_win_over_files_wherever_they_stand(write):
    file = write("batch_size: 3\nseed: 4\n")
    expected = DEFAULTS | {"batch_size": 9, "seed": 4}
    assert load_config([*file, "--batch_size", "9"]).to_dict() == expected
    assert load_config(["--batch_size", "9", *file]).to_dict() == expected
    assert load_config(["--batch_size=9", f"--config={file[1]}"]).to_dict() == expected


def test_print_config_prints_yaml_that_loads_back_to_the_same_settings(write, capsys):
    changed = {name: another_value(name) for name in FIELDS}
    flags = [part for name, value in changed.items() for part in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as exit:
        load_config([*flags, "--print_config"])
    assert not exit.value.code
    printed = capsys.readouterr().out
    assert list(yaml.safe_load(printed).items()) == list(changed.items())  # in order
    assert load_config(write(printed)).to_dict() == changed


def test_help_names_every_setting_with_what_it_means(capsys):
    with pytest.raises(SystemExit) as exit:
        load_config(["--help"])
    assert not exit.value.code
    printed = " ".join(capsys.readouterr().out.split())
    for name, f in FIELDS.items():
        words = re.escape(" ".join(f.metadata["help"].split()))
        assert re.search(rf"--{name} \S+ (?:\S+ )?{words}", printed), name
    assert "<function" not in printed  # how a type would be written that nobody can read


@pytest.mark.parametrize("wrong", ["--batch_sice", "--batch-size", "--batch", "--Batch_size"])
def test_an_unknown_flag_is_refused_with_the_nearest_right_one(wrong):
    with pytest.raises(ConfigError, match=re.escape(wrong) + ".*did you mean '--batch_size'"):
        load_config([wrong, "3"])


def test_an_unknown_flag_far_from_any_is_refused_without_a_guess():
    with pytest.raises(ConfigError, match="unknown flag --zzz; see --help"):
        load_config(["--zzz", "3"])


def test_a_word_that_is_no_flag_is_refused():
    with pytest.raises(ConfigError, match="magnatagatune"):
        load_config(["magnatagatune"])


def test_an_unknown_key_of_a_file_is_refused_with_the_file_and_the_nearest_right_one(write):
    expected = r"other\.yaml: unknown key 'temperatur' \(did you mean 'temperature'\?\)"
    with pytest.raises(ConfigError, match=expected):
        load_config(write("seed: 1\ntemperatur: 0.1\n"))


@pytest.mark.parametrize("key", ["config", "print_config", "help", "1"])
def test_a_file_holds_settings_only(write, key):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        load_config(write(f"{key}: other.yaml\n"))


WRONG_TYPES = [
    ("batch_size", "1.5", "int"),
    ("batch_size", "48.0", "int"),
    ("batch_size", "many", "int"),
    ("batch_size", "true", "int"),
    ("batch_size", "null", "int"),
    ("batch_size", "[48]", "int"),
    ("max_epochs", "1.5", "int or null"),
    ("max_epochs", "never", "int or null"),
    ("temperature", "warm", "float"),
    ("temperature", "true", "float"),
    ("temperature", "null", "float"),
    ("baselines", "2", "true, false, 1 or 0"),
    ("baselines", "maybe", "true, false, 1 or 0"),
    ("baselines", "null", "true, false, 1 or 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_TYPES)
def test_a_flag_of_a_wrong_type_is_refused_with_what_was_expected(name, value, expected):
    with pytest.raises(ConfigError, match=f"^{name}: expected {expected}, got "):
        load_config([f"--{name}", value])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [*WRONG_TYPES, ("dataset_dir", "null", "str"), ("dataset_dir", "1", "str")],
)
def test_a_value_of_a_wrong_type_in_a_file_is_refused_with_what_was_expected(
    write, name, value, expected
):
    with pytest.raises(ConfigError, match=f"^{name}: expected {expected}, got "):
        load_config(write(f"{name}: {value}\n"))


def test_every_number_with_a_limit_is_in_the_table_of_this_test():
    assert [name for name in FIELDS if TYPES[name] not in (str, bool)] == list(LIMITS)


@pytest.mark.parametrize(("name", "outside", "inside", "allowed"), LIMIT_CASES)
def test_a_value_out_of_range_is_refused_with_the_range(name, outside, inside, allowed):
    with pytest.raises(ConfigError, match=f"^{name}: got .*{outside}.*, allowed: {allowed}$"):
        load_config([f"--{name}={outside}"])
    assert getattr(load_config([f"--{name}={inside}"]), name) == inside


@pytest.mark.parametrize(("name", "outside", "inside", "allowed"), LIMIT_CASES)
def test_a_value_out_of_range_is_refused_from_a_file_and_from_python(
    write, name, outside, inside, allowed
):
    with pytest.raises(ConfigError, match=f"^{name}: got .*, allowed: {allowed}$"):
        load_config(write(yaml.safe_dump({name: outside})))
    with pytest.raises(ConfigError, match=f"^{name}: got .*, allowed: {allowed}$"):
        Config(**{name: outside})
    assert getattr(Config(**{name: inside}), name) == inside


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(value, write):
    for give in (
        lambda: Config(learning_rate=value),
        lambda: load_config(["--learning_rate", str(value)]),
        lambda: load_config(write(yaml.safe_dump({"learning_rate": value}))),
    ):
        with pytest.raises(ConfigError, match="learning_rate"):
            give()


def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="accelerator: got 'tpu', allowed: auto, gpu, cpu"):
        load_config(["--accelerator", "tpu"])


def test_a_choice_that_looks_like_a_number_needs_no_quotes(write):
    assert load_config(["--precision", "32"]).precision == "32"
    assert load_config(write("precision: 32\n")).precision == "32"
    with pytest.raises(ConfigError, match="precision: got '64', allowed: auto, 32, tf32, "):
        load_config(write("precision: 64\n"))


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", True), ("True", True), ("1", True), ("false", False), ("FALSE", False), ("0", False)],
)
def test_switches_are_true_or_false_or_1_or_0(write, name, written, meant):
    assert getattr(load_config([f"--{name}", written]), name) is meant
    assert getattr(load_config(write(f"{name}: {written}\n")), name) is meant


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_number_can_be_given_back_its_null(write, name):
    number = write(f"{name}: 3\n", "number.yaml")
    assert getattr(load_config(number), name) == 3
    assert getattr(load_config([*number, f"--{name}", "null"]), name) is None
    assert getattr(load_config([*number, *write(f"{name}: null\n")]), name) is None


@pytest.mark.parametrize("written", ["1e-6", "1.0e-6", "0.000001", "1E-06"])
def test_a_small_number_may_be_written_as_people_write_it(write, written):
    assert load_config(["--learning_rate", written]).learning_rate == 1e-6
    assert load_config(write(f"learning_rate: {written}\n")).learning_rate == 1e-6


@pytest.mark.parametrize("value", ["1", "1.0", "null", "true", "a=b", "my music/ü", "[a]", ""])
def test_a_folder_may_have_any_name(value):
    assert load_config(["--dataset_dir", value]).dataset_dir == value


def test_a_file_that_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match="--config nowhere.yaml: there is no such file"):
        load_config(["--config", "nowhere.yaml"])


def test_a_flag_without_its_value_is_refused():
    with pytest.raises(ConfigError, match="--batch_size.*expected one argument"):
        load_config(["--batch_size"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"seed: [1", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"- seed\n- 1\n", "expected lines of `key: value`"),
        (b"seed", "expected lines of `key: value`"),
        (b"", "expected lines of `key: value`"),
        (b"# seed: 1\n", "expected lines of `key: value`"),
    ],
    ids=["unfinished", "binary", "list", "word", "empty", "comments"],
)
def test_a_malformed_file_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"--config {path}: {reason}")):
        load_config(["--config", str(path)])


def test_settings_cannot_be_changed_on_the_way():
    with pytest.raises(AttributeError):
        Config().seed = 1


def test_the_demo_settings_are_valid():
    demo = CONFIG_FILE.with_name("demo.yaml")
    changed = yaml.safe_load(demo.read_text(encoding="utf-8"))
    assert load_config(["--config", str(demo)]).to_dict() == DEFAULTS | changed
