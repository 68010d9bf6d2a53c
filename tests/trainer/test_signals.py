"""Signals in a real process: the run is saved, ends as such a process does, and goes on from there."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.append(str(FAULTS))

from driver import Driver  # noqa: E402
from outcome import differences  # noqa: E402
from server import Server  # noqa: E402

from torchloops.testing import TinyClassifier, random_loader  # noqa: E402

CODES = {"SIGINT": 130, "SIGTERM": 143}
CLUSTERS = {"SIGUSR1": 138, "SIGUSR2": 140, "SIGXCPU": 152}
PLACES = {
    "training": ("fit", "train forward", 17),
    "optimizer step": ("fit", "after optimizer step", 8),
    "validation": ("fit", "validate forward", 10),
    "with workers": ("fit, 2 workers", "train forward", 17),
    "validation with workers": ("fit, 2 workers", "validate forward", 10),
    "manual optimization": ("manual optimization", "before optimizer step", 10),
    "between two yields": ("yielding", "after optimizer step", 11),
    "while saving": ("fit", "before os.replace", 4),
    "in a fold": ("folds", "train forward", 20),
    "in a round": ("rounds", "train forward", 30),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    server = Server()
    yield Driver(server, tmp_path_factory.mktemp("signals"))
    server.close()


def resume_and_compare(driver, scenario, folder):
    assert (folder / "run" / "checkpoints" / "last.ckpt").is_file()
    answer = driver.attempt(scenario, None, folder, resume=True)
    assert answer["status"] == 0, answer["said"]
    whole = driver.uninterrupted(scenario).outcome
    assert not differences(whole, json.loads((folder / "attempt.json").read_text())["outcome"])


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_saves_and_ends(driver, tmp_path, place, name):
    scenario, at, count = PLACES[place]
    saving = "0 seconds" if place == "while saving" else None
    strike = {"at": at, "count": count, "signal": name, "group": True}
    answer = driver.attempt(scenario, saving, tmp_path, strike=strike)
    assert answer["status"] == CODES[name], answer["said"]
    assert ("KeyboardInterrupt" in answer["said"]) is (name == "SIGINT")
    assert f"{name}: the run can go on from run/checkpoints/last.ckpt" in answer["said"]
    resume_and_compare(driver, scenario, tmp_path)


@pytest.mark.parametrize(("name", "place"), [*zip(CLUSTERS, ("with workers", "in a fold", "training"), strict=True)])
def test_what_a_cluster_sends_saves_and_ends(driver, tmp_path, place, name):
    scenario, at, count = PLACES[place]
    strike = {"at": at, "count": count, "signal": name, "group": True}
    answer = driver.attempt(scenario, None, tmp_path, strike=strike)
    assert answer["status"] == CLUSTERS[name], answer["said"]
    assert f"{name}: the run can go on from run/checkpoints/last.ckpt" in answer["said"]
    resume_and_compare(driver, scenario, tmp_path)


@pytest.mark.parametrize(("name", "times"), [*((name, 1) for name in (*CODES, *CLUSTERS)), ("SIGXCPU", 5)])
def test_a_signal_is_heeded_at_the_end_of_the_batch(driver, tmp_path, name, times):
    """No step more is taken, and the one that was begun is not lost; SIGXCPU is repeated by the system."""
    strike = {"at": "before optimizer step", "count": 8, "signal": name, "times": times}
    assert driver.attempt("fit", "100 epochs", tmp_path, strike=strike)["status"] == (CODES | CLUSTERS)[name]
    from torchloops.trainer.checkpoint_file import read_checkpoint

    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 8


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("scenario", ["rounds", "folds"])
def test_scoring_and_predicting_are_interrupted_at_once(driver, tmp_path, scenario, name):
    """They are done again from their beginning, so there is nothing to wait for."""
    count = driver.uninterrupted(scenario).counts["indivisible forward"] // 2
    strike = {"at": "indivisible forward", "count": count, "signal": name, "group": True}
    answer = driver.attempt(scenario, None, tmp_path, strike=strike)
    assert answer["status"] == CODES[name], answer["said"]
    resume_and_compare(driver, scenario, tmp_path)


@pytest.mark.parametrize("name", CODES)
def test_the_second_signal_ends_at_once(driver, tmp_path, name):
    strike = {"at": "before optimizer step", "count": 13, "signal": name, "times": 2}
    answer = driver.attempt("fit", "1 epoch", tmp_path, strike=strike)
    assert answer["status"] == CODES[name], answer["said"]
    resume_and_compare(driver, "fit", tmp_path)


@pytest.mark.parametrize("name", CODES)
def test_a_fresh_process(driver, tmp_path, name):
    """Python ends a process by SIGINT, and after some imports with 1."""
    strike = {"at": "train forward", "count": 9, "signal": name, "group": True}
    request = {"scenario": "fit", "saving": None, "folder": str(tmp_path), "strike": strike}
    ended = subprocess.run(
        [sys.executable, str(FAULTS / "attempt.py"), json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        check=False,
    )
    assert ended.returncode in ({143} if name == "SIGTERM" else {-signal.SIGINT, 1}), ended.stderr
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt") is (name == "SIGINT")
    resume_and_compare(driver, "fit", tmp_path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("enable", [True, False])
def test_handlers_are_put_back(make_trainer, name, enable):
    number, seen = signal.Signals[name], []

    class Watching(TinyClassifier):
        def on_train_start(self):
            seen.append(signal.getsignal(number))

    before = signal.getsignal(number)
    make_trainer(max_epochs=1, enable_checkpointing=enable).fit(Watching(), random_loader())
    assert signal.getsignal(number) is before
    assert (seen[0] is not before) is enable


@pytest.mark.parametrize("own", [True, False], ids=["own handler", "none"])
def test_a_handler_of_the_programs_own_is_called_at_once(make_trainer, own):
    """submitit's, for instance, queues the job again."""
    seen = []

    class Struck(TinyClassifier):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                signal.raise_signal(signal.SIGUSR1)
                seen.append(list(called))
            return super().training_step(batch, batch_idx)

    called = []
    before = signal.signal(signal.SIGUSR1, (lambda number, frame: called.append(number)) if own else signal.SIG_DFL)
    try:
        trainer = make_trainer(max_epochs=1, enable_checkpointing=True)
        if own:
            trainer.fit(Struck(), random_loader())
        else:
            with pytest.raises(SystemExit, match="138"):
                trainer.fit(Struck(), random_loader())
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ([[signal.SIGUSR1]] if own else [[]])


def test_handlers_are_put_back_after_an_error(make_trainer):
    class Failing(TinyClassifier):
        def on_train_start(self):
            raise OverflowError

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(OverflowError):
        make_trainer(max_epochs=1, enable_checkpointing=True).fit(Failing(), random_loader())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_fit_in_a_thread_leaves_handlers_alone(make_trainer):
    seen = []

    class Watching(TinyClassifier):
        def on_train_start(self):
            seen.append(signal.getsignal(signal.SIGTERM))

    trainer = make_trainer(max_epochs=1, enable_checkpointing=True)
    thread = threading.Thread(target=trainer.fit, args=(Watching(), random_loader()))
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [before]
    assert trainer.current_epoch == 1
