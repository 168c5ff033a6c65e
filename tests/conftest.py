"""What several test files need: tones on disk, and a process without rights."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is imported, and for processes that tests start: on one thread sums are taken in the
# same order in every run. Tensors are small here, and threads would cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

NOBODY = 65534

# A shell lets the jobs in its background ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def write_wav() -> Callable[..., Path]:
    """A function that writes a tone to a 16-bit wav file, and its folder if there is none."""

    def write(
        path: Path,
        seconds: float = 4,
        sample_rate: int = 22050,
        channels: int = 1,
        frequency_hz: float = 440,
        amplitude: float = 0.5,
    ) -> Path:
        time_s = np.arange(round(seconds * sample_rate)) / sample_rate
        x = amplitude * np.sin(2 * np.pi * frequency_hz * time_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.tile(x[:, None], channels), sample_rate, subtype="PCM_16")
        return path

    return write


@pytest.fixture
def unprivileged(tmp_path: Path) -> Callable[..., Any]:
    """Call a function in `tmp_path`, in a process that may not read or write everything.

    For root no file is closed, so the process takes the user id of nobody. It starts in
    `tmp_path`, whose parents nobody may not pass: give it relative paths.
    """

    def child(answer: Any, function: Callable[..., Any], *args: Any) -> None:
        os.chdir(tmp_path)
        torch.set_num_threads(1)  # OpenMP in a forked process may hang
        if os.geteuid() == 0:
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            except OSError as error:
                answer.send(pytest.skip.Exception(f"root cannot become nobody: {error}"))
                return
        try:
            result = function(*args)
        except Exception as error:
            result = error
        answer.send_bytes(pickle.dumps(result))  # a tensor by `send` would come as a shared file

    def call(function: Callable[..., Any], *args: Any) -> Any:
        tmp_path.chmod(0o777)
        fork = multiprocessing.get_context("fork")
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=child, args=(there, function, *args))
        process.start()
        there.close()
        result = here.recv()
        process.join()
        if isinstance(result, BaseException):
            raise result
        return result

    return call
