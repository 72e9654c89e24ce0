"""SIGTERM and SIGINT at the command line: one line, 143 or 130, and nothing half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import latest
from toy_system import TOY, toy_tokenizer, write_images

from unmask.cli import main
from unmask.files.serial import write_yaml
from unmask.machine import signals
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.state import fault

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def begin(words: str, where: Path) -> subprocess.Popen[str]:
    """Start ``unmask WORDS``; returns when it answers signals."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "unmask.cli", *words.split()],
        cwd=where,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not answers(process.pid):
        time.sleep(0.002)
    return process


def answers(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def end_of(process: subprocess.Popen[str], number: int) -> str:
    """The one line that a signal gave."""
    _, error = process.communicate(timeout=100)
    assert process.returncode == STATUS[number], error
    assert error.count("\n") == 1, error
    assert error.startswith("unmask: ")
    return error


@LINUX
def test_a_signal_while_modules_are_loaded(tmp_path: Path) -> None:
    """torch's own imports make 47 lines or an abortion of an exception in their midst."""
    sent = {}
    for number, delay in ((signal.SIGINT, 0.0), (signal.SIGTERM, 0.5)):
        sent[number] = begin("train fashion-maskgit --data none --out run", tmp_path)
        time.sleep(delay)
        sent[number].send_signal(number)
    for number, process in sent.items():
        assert f"interrupted by {signal.Signals(number).name}" in end_of(process, number)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images, a tokenizer and a recipe of a long run."""
    write_images(tmp_path / "images", 24)
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    training = replace(TOY.training, steps=10**6, log_every=1, tracker="none")
    network = replace(TOY.network, classes=2)
    recipe = replace(TOY, training=training, network=network, tokenizer="vq")
    write_yaml(recipe, tmp_path / "toy.yaml")
    return tmp_path


@LINUX
def test_a_training_is_saved(place: Path) -> None:
    process = begin("train toy.yaml --data images --out run --workers 1", place)
    log = place / "run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size > 500):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    line = end_of(process, signal.SIGTERM)
    newest = latest(place / "run" / "checkpoints")
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert f"SIGTERM: stopped after step {step} of 1000000, which is saved in" in line
    assert len(log.read_text().splitlines()) == step
    assert not fault(newest)
    assert not list((place / "run").rglob(".*"))


def test_a_signal_within_a_command_raises_and_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Command:
        @staticmethod
        def main(words: list[str]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = [signal.getsignal(number) for number in STATUS]
    monkeypatch.setattr("unmask.cli.importlib.import_module", lambda name: Command)
    assert main(["sample"]) == 143
    told = capsys.readouterr().err
    assert told == "unmask: interrupted by SIGTERM; finished files are kept\n"
    assert [signal.getsignal(number) for number in STATUS] == before


def test_what_is_postponed_is_raised_at_its_end() -> None:
    done: list[object] = []
    try:
        with signals.listening():
            with signals.postponed():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
                done.append(signals.arrived())
                with pytest.raises(signals.Stopped), signals.released():
                    done.append("released")
                done.append("postponed again")
            done.append("beyond")
    except KeyboardInterrupt as end:
        done.append(end)
    assert done[:2] == [signal.SIGINT, "postponed again"]
    assert str(done[2]).startswith("interrupted by SIGINT")
    assert signals.arrived() == 0


def fail_while_a_signal_comes() -> None:
    with signals.listening(), signals.postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        raise ZeroDivisionError


def test_an_error_of_the_work_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_while_a_signal_comes()


def test_what_a_shell_told_to_ignore_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.arrived() == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_forked_child_has_signals_of_its_own() -> None:
    with signals.listening():
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(mouth, b"!")
            time.sleep(20)
            os._exit(0)
        os.read(ear, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert signals.arrived() == 0
    for end in (ear, mouth):
        os.close(end)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_threads_other_than_the_main_one_do_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with signals.listening(), signals.postponed(), signals.released(), signals.saving():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
