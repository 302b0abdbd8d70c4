"""A signal ends training at the end of a step, whatever drops what it raises within one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chexscore.errors import exit_on_error
from tests.phantoms import write_dataset
from training.config import DataConfig, ImageConfig, NetworkConfig, TrainConfig
from training.progress import bar

ROOT = Path(__file__).parents[1]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of python -m training."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Dropping:
    """As objects of TensorFlow's have it: what is raised in here is printed, and dropped."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_waits_for_the_end_of_a_step_and_a_second_one_does_not(
    sent: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = list[str]()

    def stopped(*, at_the_end: bool = False, twice: bool = False) -> int:
        def work() -> None:
            with exit_on_error("training", "stopped."), bar("", 2) as show:
                signal.raise_signal(sent)
                seen.append("within")
                if twice:
                    signal.raise_signal(sent)
                seen.append("behind")
                if not at_the_end:
                    show(1, "")
                    seen.append("never")

        with pytest.raises(SystemExit) as left:
            work()
        assert capsys.readouterr().err == "training: stopped.\n"
        return int(left.value.code or 0)

    before = signal.getsignal(sent)
    assert stopped() == SIGNALS[sent]
    assert stopped(at_the_end=True) == SIGNALS[sent]
    assert seen == ["within", "behind"] * 2
    assert stopped(twice=True) == SIGNALS[sent]
    assert seen == ["within", "behind"] * 2 + ["within"]
    assert signal.getsignal(sent) is before


def test_a_step_within_a_step_ends_at_once_and_other_threads_hold_nothing() -> None:
    def work() -> None:
        with bar("", 2) as outer:
            with bar("", 2) as inner:
                signal.raise_signal(signal.SIGINT)
                inner(1, "")
            outer(1, "")
            raise AssertionError("never")

    with pytest.raises(KeyboardInterrupt):
        work()

    def elsewhere() -> str:
        with bar("", 1) as show:
            show(1, "")
        return "done"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == "done"


def test_an_interrupt_that_a_destructor_drops_ends_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = pytest.importorskip("keras")
    from training import watch
    from training.fit import fit

    monkeypatch.setattr(keras.Model, "run_eagerly", property(lambda _: True, lambda *_: None))
    write_dataset(tmp_path, 8, size=64)
    config = TrainConfig(
        name="made",
        batch_size=2,
        data=DataConfig(labels=("Opacity",)),
        image=ImageConfig(height=32, width=32),
        network=NetworkConfig(blocks=2, width=4),
    )
    steps, step = list[int](), watch.Watch.on_train_batch_end

    def drop(self: watch.Watch, batch: int, logs: dict[str, float] | None = None) -> None:
        steps.append(batch)
        Dropping()
        step(self, batch, logs)

    monkeypatch.setattr(watch.Watch, "on_train_batch_end", drop)
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path, tmp_path / "run", report=lambda _: None)
    assert steps == [0]


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_while_modules_are_loaded_is_one_sentence(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "typer.py").write_text(f"import signal\nsignal.raise_signal({int(sent)})\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "training", "fit"],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "training: stopped; give the same command again to go on.\n"
    assert (done.returncode, done.stderr) == (SIGNALS[sent], said)
