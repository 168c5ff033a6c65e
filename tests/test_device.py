"""Which devices a command runs on."""

import re

import pytest
import torch

from clmr.device import (
    allow_tf32,
    check_compiler,
    choose_devices,
    choose_precision,
    torch_device,
)
from clmr.errors import ConfigError

# How many GPUs there are, what was asked for, what is taken.
TABLE = [
    (0, "auto", None, ("cpu", 1)),
    (0, "auto", 0, ("cpu", 1)),
    (1, "auto", None, ("gpu", 1)),
    (1, "auto", 0, ("cpu", 1)),
    (1, "auto", 1, ("gpu", 1)),
    (4, "auto", None, ("gpu", 1)),
    (4, "auto", 3, ("gpu", 3)),
    (4, "gpu", None, ("gpu", 1)),
    (4, "gpu", 4, ("gpu", 4)),
    (4, "cpu", None, ("cpu", 1)),
    (0, "cpu", 0, ("cpu", 1)),
    (0, "cpu", 2, ("cpu", 2)),
    (4, "cpu", 2, ("cpu", 2)),
]
REFUSED = [
    (0, "auto", 1, "torch finds 0 GPUs here .*: give --gpus 0 --accelerator auto for the CPU"),
    (0, "gpu", None, "--gpus 1 --accelerator gpu, but torch finds 0 GPUs"),
    (2, "auto", 3, "--gpus 3 .* finds 2 GPUs .*: give at most --gpus 2, or --gpus 0"),
    (2, "gpu", 99, "--gpus 99 .* at most --gpus 2"),
    (2, "gpu", 0, "--gpus 0 --accelerator gpu"),
]


@pytest.mark.parametrize(("found", "accelerator", "gpus", "chosen"), TABLE)
def test_devices_are_chosen_as_the_settings_say(found, accelerator, gpus, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert choose_devices(accelerator, gpus) == chosen


@pytest.mark.parametrize(("found", "accelerator", "gpus", "reason"), REFUSED)
def test_what_cannot_be_had_is_refused_and_never_replaced(
    found, accelerator, gpus, reason, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ConfigError) as error:
        choose_devices(accelerator, gpus)
    assert re.search(reason, str(error.value))


def test_the_remedy_of_a_refusal_is_not_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError) as error:
        choose_devices("gpu", 3)
    few, none = re.findall(r"--gpus (\d+)", str(error.value))[1:]
    accelerator = re.findall(r"--accelerator (\w+)", str(error.value))[-1]
    assert choose_devices("gpu", int(few)) == ("gpu", 2)
    assert choose_devices(accelerator, int(none)) == ("cpu", 1)


@pytest.mark.parametrize(("accelerator", "device"), [("gpu", "cuda"), ("cpu", "cpu")])
def test_work_without_a_trainer_is_on_the_first_device(accelerator, device):
    assert torch_device(accelerator) == torch.device(device)


@pytest.mark.parametrize(
    ("accelerator", "has_bf16", "chosen"),
    [("gpu", True, "bf16-mixed"), ("gpu", False, "32")]
    + [("cpu", True, "bf16-mixed"), ("cpu", False, "32")],
)
def test_auto_precision_is_bf16_on_devices_that_have_it(
    accelerator, has_bf16, chosen, monkeypatch
):
    # A GPU that only imitates it is none that has it.
    def is_bf16_supported(including_emulation=True):
        return (has_bf16 and accelerator == "gpu") or including_emulation

    def is_avx512_bf16_supported():
        return has_bf16 and accelerator == "cpu"

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", is_avx512_bf16_supported)
    assert choose_precision("auto", accelerator) == chosen


@pytest.mark.parametrize(
    ("precision", "accelerator"),
    [("32", "gpu"), ("32", "cpu"), ("tf32", "gpu")]
    + [("bf16-mixed", "cpu"), ("bf16-mixed", "gpu"), ("16-mixed", "gpu")],
)
def test_a_precision_that_is_given_is_taken(precision, accelerator):
    assert choose_precision(precision, accelerator) == precision


@pytest.mark.parametrize("precision", ["16-mixed", "tf32"])
def test_what_only_gpus_compute_in_is_refused_without_one(precision):
    with pytest.raises(ConfigError, match=f"{precision} is for GPUs: give bf16-mixed or 32"):
        choose_precision(precision, "cpu")


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_for_convolutions_and_never_for_matrix_products(allowed):
    before = torch.backends.cudnn.allow_tf32
    try:
        allow_tf32(allowed)
        assert torch.backends.cudnn.allow_tf32 == allowed
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        allow_tf32(before)


@pytest.mark.parametrize(("accelerator", "variable"), [("cpu", "CXX"), ("gpu", "CC")])
def test_to_compile_without_a_compiler_is_refused_until_one_is_named(
    accelerator, variable, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match=f"--compile 1 calls a compiler, .* variable {variable}"):
        check_compiler(accelerator)
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    monkeypatch.setenv(variable, str(compiler))
    check_compiler(accelerator)
