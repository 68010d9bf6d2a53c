"""The recipe through the real command: people at the terminal and at the page, stopped, killed and resumed."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image
from recipe_runs import COMMON_FILES, check_options, files_in, torchloops

from torchloops import ImageClassifier
from torchloops.annotation import Answer, LabelStore, MaskedLabels
from torchloops.annotation.pool import content_hash
from torchloops.cli.recipes import find_recipe

SHARED = Path(__file__).parents[3] / "shared" / "data"
PHOTOGRAPHS, WEIGHTS = SHARED / "hymenoptera_data", SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
CHROMIUM = shutil.which("chromium")
SMALL = ("--query-size", "6", "--rounds", "3", "--max-epochs", "2", "--image-size", "16")


def start(*words, cwd, **options):
    command = [sys.executable, "-m", "torchloops", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def pool(tmp_path):
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 90, (16, 16, 3), dtype=np.uint8) + (150 if seed % 2 else 0)
        for place in (tmp_path / "pool", tmp_path / "truth" / ("bright" if seed % 2 else "dark")):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{seed:02d}.png")
    return tmp_path / "pool"


def test_options():
    check_options(find_recipe("label_your_own"))


def test_fast_run_leaves_labels_folders_model_and_report(fast_run):
    folder, printed = fast_run("label_your_own")
    assert files_in(folder) >= COMMON_FILES | {
        "labels.csv", "labels.sqlite", "rounds.csv", "queries.csv", "checkpoints/model.ckpt",
        "plots/queried_samples.png",
    }  # fmt: skip
    labels = pandas.read_csv(folder / "labels.csv")
    assert len(labels) == len(list((folder / "labelled").glob("*/*.png"))) == 20
    for row in labels.itertuples():
        assert content_hash(folder / "tiles" / "truth" / row.label / row.path) == row.sample
    model = ImageClassifier.load_from_checkpoint(folder / "checkpoints" / "model.ckpt")
    assert model.classes == ["temple", "flower"]
    for line in ("report", "labels", "sorted", "model", "next"):
        assert f"\n{line}" in printed
    assert "questions drawn at random" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pool", "pool"), "Nobody knows the classes"),
        (("--pool", "none", "--classes", "dark,bright"), "There is no folder none"),
        (("--pool", "pool", "--classes", "dark,dark"), "named twice"),
        (("--pool", "pool", "--classes", "dark,bright", "--annotator", "simulated"), "need the answers"),
        (("--pool", "pool", "--classes", "dark,bright", "--labels", "none.csv"), "none.csv cannot be imported"),
    ],
)
def test_what_is_missing_is_asked_for_by_name(pool, words, said):
    done = start("run", "label_your_own", *words, *SMALL, cwd=pool.parent)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_detached_run_ends_with_code_3_and_is_resumed(pool):
    words = ("--pool", "pool", "--classes", "dark,bright", "--detach", "--heuristic", "margin", *SMALL)
    done = start("run", "label_your_own", *words, cwd=pool.parent)
    run = pool.parent / "runs" / "label_your_own" / "001"
    assert done.returncode == 3, done.stdout + done.stderr
    assert "7 questions wait for an answer" in done.stderr
    assert "label  torchloops label runs/label_your_own/001" in done.stdout
    truth = MaskedLabels(pool.parent / "truth").labels
    for _ in range(2):
        with LabelStore(run / "labels.sqlite") as store:
            for query in store.open_queries():
                store.record(Answer(query.sample, "label", truth[query.sample], "Ada", 2.0))
        done = start("resume", "runs/label_your_own/001", cwd=pool.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = pandas.read_csv(run / "rounds.csv")
    assert rounds["n_labelled"].tolist() == [0, 6, 12]
    labels = pandas.read_csv(run / "labels.csv")
    assert {row.sample: row.label for row in labels.itertuples()}.items() <= truth.items()
    assert "Ada" in (run / "report.html").read_text()
    simulated = start(
        "run", "label_your_own", "--pool", "pool", "--classes", "dark,bright", "--annotator", "simulated", "--truth",
        "truth", *SMALL, cwd=pool.parent,
    )  # fmt: skip
    assert simulated.returncode == 0, simulated.stderr
    other = pandas.read_csv(pool.parent / "runs" / "label_your_own" / "002" / "rounds.csv")
    timeless = [name for name in rounds if "seconds" not in name]
    assert rounds[timeless].equals(other[timeless])


def test_a_person_at_the_terminal(pool):
    truth = {content_hash(file): file.parent.name for file in (pool.parent / "truth").glob("*/*.png")}
    words = ("--pool", "pool", "--classes", "dark,bright", "--annotator", "terminal", *SMALL)
    command = [sys.executable, "-m", "torchloops", "run", "label_your_own", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, cwd=pool.parent, **pipes) as run:
        typed = []
        for line in run.stdout:
            if line.startswith(("round ", "> round ")):
                path = line.rpartition(" - ")[2].strip()
                label = truth[content_hash(pool.parent / path)]
                keys = ["s"] if len(typed) == 3 else ["nonsense", label[:1].replace("d", "1").replace("b", "2")]
                typed.append((path, None if keys == ["s"] else label))
                run.stdin.write("\n".join(keys) + "\n")
                run.stdin.flush()
        assert run.wait() == 0
    folder = pool.parent / "runs" / "label_your_own" / "001"
    labels = pandas.read_csv(folder / "labels.csv").set_index("path")["label"]
    kept = {path: None if label != label else label for path, label in labels.items()}
    assert kept == {Path(path).name: label for path, label in typed}
    assert len(typed) == 13, "two rounds of six, and one that measures"


class Run:
    """The command in a process that can be killed; what it says goes to a file."""

    def __init__(self, words, cwd):
        self.said = cwd / f"said_{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", "torchloops", *words]
        with self.said.open("w") as file:
            environment = {**os.environ, "OMP_NUM_THREADS": "2"}
            self.process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def address(self):
        """Where the page is, as soon as the command says so."""
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.said.read_text().splitlines():
                if line.startswith("label  http"):
                    return line.split()[1]
            time.sleep(0.1)
        raise AssertionError(self.said.read_text())

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
@pytest.mark.skipif(not (PHOTOGRAPHS.is_dir() and WEIGHTS.is_file()), reason="needs photographs in ../shared/data")
def test_photographs_are_labelled_in_a_browser_while_the_run_is_killed(tmp_path):
    """60 photographs, a pretrained backbone, three rounds by keyboard: nothing typed is lost, nothing comes twice."""
    pytest.importorskip("timm")
    from playwright.sync_api import expect, sync_playwright

    draw, truth = random.Random(0), {}
    (tmp_path / "photos").mkdir()
    for name, label in (("ants", "ant"), ("bees", "bee")):
        for file in sorted((PHOTOGRAPHS / "train" / name).glob("*.jpg"))[:30]:
            shutil.copy(file, tmp_path / "photos" / f"{draw.randrange(10**9)}.jpg")
            truth[content_hash(file)] = label
        (tmp_path / "test" / label).mkdir(parents=True)
        for file in sorted((PHOTOGRAPHS / "val" / name).glob("*.jpg"))[:20]:
            shutil.copy(file, tmp_path / "test" / label)
    port = str(20_000 + os.getpid() % 20_000)
    words = ["run", "label_your_own", "--pool", "photos", "--classes", "ant,bee", "--test", "test", "--backbone",
             "tf_efficientnet_lite0", "--weights", str(WEIGHTS), "--pixel-mean", "0.5", "--pixel-std", "0.5",
             "--query-size", "10", "--rounds", "4", "--max-epochs", "6", "--no-open-browser", "--port",
             port]  # fmt: skip
    folder = tmp_path / "runs" / "label_your_own" / "001"
    run = Run(words, tmp_path)
    typed, done = {}, 0
    try:
        address = run.address()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"{address}?name=Ada")
            picture, progress = page.locator("#picture"), page.locator("#progress")
            for asked in range(3):
                expect(progress).to_contain_text(f"round {asked} - 1 of 10", timeout=240_000)
                decided = 0
                while decided < 10:
                    sample = picture.get_attribute("src").removeprefix("picture/")
                    key = "Space" if (asked, decided) in ((0, 4), (1, 7)) else {"ant": "1", "bee": "2"}[truth[sample]]
                    page.keyboard.press(key)
                    decided, done = decided + 1, done + 1
                    typed[sample] = None if key == "Space" else truth[sample]
                    if decided < 10:
                        expect(progress).to_contain_text(f"round {asked} - {decided + 1} of 10")
                    if (asked, decided) in ((0, 3), (1, 5)) and sample in typed:
                        page.keyboard.press("Backspace")
                        expect(progress).to_contain_text(f"round {asked} - {decided} of 10")
                        assert picture.get_attribute("src") == f"picture/{sample}"
                        del typed[sample]
                        decided -= 1
                        page.keyboard.press({"ant": "1", "bee": "2"}[truth[sample]])
                        typed[sample] = truth[sample]
                        decided += 1
                        expect(progress).to_contain_text(f"round {asked} - {decided + 1} of 10")
                    if (asked, decided) == (1, 2):
                        page.reload()
                        expect(progress).to_contain_text("round 1 - 3 of 10")
                    if (asked, decided) in ((0, 6), (2, 4)):
                        run.kill()
                        run = Run(["resume", "runs/label_your_own/001", "--port", port], tmp_path)
                        run.address()
                        expect(page.locator("#problem")).to_be_hidden(timeout=30_000)
                        expect(progress).to_contain_text(f"round {asked} - {decided + 1} of 10")
            expect(page.locator("#headline")).to_have_text("The study is over", timeout=240_000)
            browser.close()
        assert run.process.wait(timeout=60) == 0, run.said.read_text()
    finally:
        run.kill()
    labels = pandas.read_csv(folder / "labels.csv").set_index("sample")["label"]
    assert {name: None if label != label else label for name, label in labels.items()} == typed
    assert len(typed) == 30
    rounds = pandas.read_csv(folder / "rounds.csv")
    assert rounds["n_labelled"].tolist() == [0, 9, 18, 28]
    assert rounds["test/accuracy"].iloc[-1] > 0.75
    print(rounds[["n_labelled", "test/accuracy"]])


def test_the_page_of_a_run_that_asks_nothing_is_refused(tmp_path):
    done = start("label", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 1
    assert "has no label store" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_label_serves_the_questions_of_a_detached_run(pool):
    import httpx

    words = ("--pool", "pool", "--classes", "dark,bright", "--detach", *SMALL)
    assert start("run", "label_your_own", *words, cwd=pool.parent).returncode == 3
    run = Run(["label", "runs/label_your_own/001", "--no-open-browser"], pool.parent)
    try:
        with httpx.Client(base_url=run.address()) as client:
            who = {"session": "tab", "annotator": "Ada"}
            state = client.get("/api/state", params=who).json()
            while state["next"]:
                body = {"sample": state["next"][0]["sample"], "action": "label", "label": "dark", "seconds": 1, **who}
                state = client.post("/api/answer", json=body).json()
            assert state["next_command"] == "torchloops resume runs/label_your_own/001"
        until = time.monotonic() + 10
        while "questions of round 0 are answered" not in run.said.read_text() and time.monotonic() < until:
            time.sleep(0.1)
        assert "Next: torchloops resume runs/label_your_own/001" in run.said.read_text()
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(timeout=10) == 130
    finally:
        run.kill()
    assert torchloops("ls", cwd=pool.parent).count("label_your_own") == 1
