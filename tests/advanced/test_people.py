"""Studies whose labels people give: what is asked, what becomes of the answers, and going on after a stop."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from torchloops import ActiveLearningDataModule, ActiveLearningLoop, ImageClassifier, Trainer
from torchloops.advanced.active_learning import Plateau, StudyProgress, TargetReached
from torchloops.annotation import Answer, LabelStore, MaskedLabels
from torchloops.errors import AnnotationError, CheckpointError, ConfigurationError, DataError, WaitingForLabels

CLASSES = ["dark", "bright"]


@pytest.fixture
def truth(tmp_path):
    for seed in range(60):
        pixels = np.random.default_rng(seed).integers(0, 90, (8, 8, 3), dtype=np.uint8) + (150 if seed % 2 else 0)
        place = tmp_path / "truth" / CLASSES[seed % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{seed:02d}.png")
    return tmp_path / "truth"


@pytest.fixture
def pool(truth, tmp_path):
    place = tmp_path / "pool"
    place.mkdir()
    for file in truth.glob("*/*.png"):
        shutil.copy(file, place / f"photo_{file.name}")
    return place


def people(pool, annotator, **options):
    options = {"image_size": 8, "batch_size": 8, "heuristic": "entropy", "query_size": 9, **options}
    return ActiveLearningDataModule.from_folder(pool, CLASSES, annotator=annotator, **options)


def study(folder, data, rounds=3, ckpt_path=None, **options):
    torch.manual_seed(0)
    outputs = data.datamodule.num_classes
    head = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.LazyLinear(outputs))
    model = ImageClassifier("mlp", backbone_options={"in_features": 192}, num_classes=outputs, head=head)
    trainer = Trainer(max_epochs=2, default_root_dir=folder, enable_progress_bar=False, accelerator="cpu", **options)
    loop = ActiveLearningLoop(max_rounds=rounds, inference_iteration=3)
    loop.connect(trainer.fit_loop)
    trainer.fit_loop = loop
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return loop, model


class Crowd:
    """Answers from the truth, but as told; puts what it was asked on record."""

    def __init__(self, truth, say=lambda query, label: Answer(query.sample, "label", label, "Ada", 1.5)):
        self.masked, self.say, self.asked = MaskedLabels(truth), say, []

    def annotate(self, queries):
        self.asked.append(list(queries))
        return [self.say(query, self.masked.labels[query.sample]) for query in queries]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def table(frame):
    return frame.drop(columns=[name for name in frame if "seconds" in name or name == "annotator"])


def test_labels_are_the_peoples_and_samples_that_measure_never_train(truth, pool, tmp_path):
    crowd = Crowd(truth)
    data = people(pool, crowd)
    loop, _ = study(tmp_path / "run", data)
    store = LabelStore(pool / "labels.sqlite")
    known = {data.samples[number].hash: number for number in data.samples}
    trained = dict(zip(loop.queries["sample_id"], loop.queries["label"], strict=True))
    asked = [query for queries in crowd.asked for query in queries]
    assert {known[query.sample] for query in asked if query.purpose == "train"} == trained.keys()
    for query in asked:
        by_hand = (np.asarray(Image.open(query.path)).mean() > 120).astype(int)
        assert CLASSES.index(store.labels()[query.sample]) == by_hand
        assert trained.get(known[query.sample], by_hand) == by_hand
    tests = [query for query in asked if query.purpose == "test"]
    assert [len(queries) for queries in crowd.asked] == [10, 10], "nine of the query and one that measures"
    assert len(tests) == data.n_tests == 2
    assert not {known[query.sample] for query in tests} & trained.keys()
    assert loop.rounds["n_labelled"].tolist() == [0, 9, 18]
    assert loop.rounds["test/accuracy"].isna().tolist() == [True, False, False]
    assert loop.queries["seconds"].tolist() == [1.5] * 18
    assert loop.rounds["seconds_label"].tolist() == [15.0, 15.0, 0.0]


def test_samples_that_measure_are_drawn_alike_whatever_other_files_there_are(truth, pool):
    drawn = {
        data.samples[n].hash for data in [people(pool, MaskedLabels(truth), test_share=0.3)] for n in data._measuring
    }
    assert 8 <= len(drawn) <= 28
    for file in sorted(pool.glob("*.png"))[:30]:
        file.rename(file.with_name(f"moved_{file.name}"))
    for file in sorted(pool.glob("photo_*.png"))[:10]:
        file.unlink()
    (pool / "labels.sqlite").unlink()
    fewer = people(pool, MaskedLabels(truth), test_share=0.3)
    assert {fewer.samples[n].hash for n in fewer._measuring} == drawn & {s.hash for s in fewer.samples.values()}


class Impatient(Crowd):
    """Answers some questions in any order, straight into the store, and then the run is stopped."""

    def __init__(self, truth, draw):
        super().__init__(truth)
        self.draw = draw

    def attach(self, store):
        self.store = store

    def annotate(self, queries):
        left = [query for query in self.store.open_queries() if query in queries]
        self.draw.shuffle(left)
        stop = self.draw.random() < 0.75
        for query in left[: self.draw.integers(0, len(left) + 1)] if stop else left:
            self.store.record(self.say(query, self.masked.labels[query.sample]))
        if stop:
            raise KeyboardInterrupt
        return self.store.answers(queries)


@pytest.mark.parametrize(("seed", "saving"), [(3, None), (4, "1 step"), (5, "1000 epochs"), (6, "1000 epochs")])
def test_a_run_that_is_stopped_again_and_again_equals_the_simulation_to_the_bit(seed, saving, truth, pool, tmp_path):
    simulated, model = study(tmp_path / "simulated", people(pool, MaskedLabels(truth), store=tmp_path / "a.sqlite"), 4)
    draw = np.random.default_rng(seed)
    stops, ckpt_path = 0, None
    while True:
        data = people(pool, Impatient(truth, draw), store=tmp_path / "b.sqlite")
        try:
            asked, other = study(tmp_path / "asked", data, 4, ckpt_path, checkpoint_every=saving)
            break
        except KeyboardInterrupt:
            stops, ckpt_path = stops + 1, "last"
    assert stops >= 2
    assert same_weights(weights(model), weights(other))
    assert table(simulated.queries).equals(table(asked.queries))
    assert table(simulated.rounds).equals(table(asked.rounds))


def test_a_detached_run_waits_and_goes_on(truth, pool, tmp_path):
    data = people(pool, Crowd(truth, lambda query, label: Answer(query.sample, "later")))
    with pytest.raises(WaitingForLabels, match="Nobody has answered"):
        study(tmp_path / "run", data)
    assert len(LabelStore(pool / "labels.sqlite").open_queries()) == 10
    loop, _ = study(tmp_path / "run", people(pool, Crowd(truth)), ckpt_path="last")
    assert loop.rounds["n_labelled"].tolist() == [0, 9, 18]


def test_skipped_and_flagged_samples_do_not_train(truth, pool, tmp_path):
    def say(query, label):
        action = {0: "skip", 1: "flag", 2: "later"}.get(query.rank, "label")
        return Answer(query.sample, action, label if action == "label" else None, "Ada", 1.0)

    for skipped in ("out", "back"):
        crowd = Crowd(truth, say)
        data = people(pool, crowd, store=tmp_path / f"{skipped}.sqlite", skipped=skipped, test_share=0.0)
        loop, _ = study(tmp_path / skipped, data)
        assert loop.rounds["n_labelled"].tolist() == [0, 6, 12]
        n_out = 4 if skipped == "out" else 2  # what was put off stays in the pool
        assert data.n_pool == 60 - 12 - n_out


def test_people_change_and_take_back_labels_between_rounds(truth, pool, tmp_path):
    class Changing(Crowd):
        def attach(self, store):
            self.store = store

        def annotate(self, queries):
            if len(self.asked) == 1:
                self.changed, self.back = (query.sample for query in self.asked[0][:2])
                for sample in (self.back, self.changed):  # the changed one is the last
                    self.store.record(Answer(sample, "label", CLASSES[0], "Ada"))
                self.store.record(Answer(self.changed, "label", CLASSES[1], "Ada"))
                self.store.record(Answer(self.back, "label", CLASSES[0], "Eve"), source="import")
                assert self.store.undo("Ada").sample == self.changed
            return super().annotate(queries)

    crowd = Changing(truth)
    data = people(pool, crowd, test_share=0.0)
    loop, _ = study(tmp_path / "run", data)
    labels = {data.samples[n].hash: label for n, label in loop.queries[["sample_id", "label"]].itertuples(index=False)}
    assert labels[crowd.changed] == 0
    assert labels[crowd.back] == 0
    events = LabelStore(pool / "labels.sqlite").events()
    assert [event.action for event in events].count("undo") == 1


def test_a_class_that_people_add_gets_an_output(truth, pool, tmp_path):
    class Adding(Crowd):
        def attach(self, store):
            self.store = store

        def annotate(self, queries):
            self.store.add_class("grey")
            answers = super().annotate(queries)
            return [Answer(answers[0].sample, "label", "grey", "Ada"), *answers[1:]]

    with pytest.raises(AnnotationError, match="no room for 'grey'"):
        study(tmp_path / "none", people(pool, Adding(truth), store=tmp_path / "none.sqlite"))
    data = people(pool, Adding(truth), new_classes=2, store=tmp_path / "two.sqlite", test_share=0.0)
    loop, model = study(tmp_path / "two", data)
    assert model.num_classes == 4
    assert data.classes == ["dark", "bright", "grey", "(new class 3)"]
    assert loop.queries["label"].tolist().count(2) == 2


def test_files_are_moved_renamed_and_added_between_stops(truth, pool, tmp_path):
    def say(query, label):
        return Answer(query.sample, "label", label, "Ada")

    data = people(pool, Crowd(truth, say), test_share=0.0)
    loop, _ = study(tmp_path / "run", data, rounds=2)
    before = loop.queries
    (pool / "deeper").mkdir()
    for file in sorted(pool.glob("*.png")):
        file.rename(pool / "deeper" / f"new_{file.name}")
    extra = np.full((8, 8, 3), 77, np.uint8)
    Image.fromarray(extra).save(pool / "extra.png")
    Image.fromarray(extra).save(truth / "dark" / "extra.png")
    grown = people(pool, Crowd(truth, say), test_share=0.0)
    assert len(grown.samples) == 61
    loop, _ = study(tmp_path / "run", grown, rounds=4, ckpt_path="last")
    assert loop.queries.head(len(before)).equals(before)
    assert loop.rounds["n_labelled"].tolist() == [0, 9, 18, 27]
    assert grown.n_pool == 61 - 27
    for number in loop.queries["sample_id"]:
        pixels = torch.from_numpy(np.array(Image.open(grown.samples[number].paths[0]))).permute(2, 0, 1)
        assert torch.equal(grown.datamodule.train_dataset_eval[number], grown.datamodule.eval_transform(pixels))


def test_another_store_and_missing_pictures_are_refused(truth, pool, tmp_path):
    data = people(pool, MaskedLabels(truth))
    loop, _ = study(tmp_path / "run", data, rounds=2)
    gone = data.samples[int(loop.queries["sample_id"][0])].paths[0]
    aside = gone.rename(tmp_path / "aside.png")
    with pytest.raises(DataError, match=f"1 labelled pictures are no longer in the pool.*{gone.name}"):
        study(tmp_path / "run", people(pool, MaskedLabels(truth)), 3, "last")
    aside.rename(gone)
    Image.fromarray(np.full((8, 8, 3), 1, np.uint8)).save(pool / "0.png")
    with pytest.raises(CheckpointError, match="not the label store of the run"):
        study(tmp_path / "run", people(pool, MaskedLabels(truth), store=tmp_path / "new.sqlite"), 3, "last")


def test_labels_that_are_known_are_the_first(truth, pool, tmp_path):
    lines = [f"photo_{file.name},{file.parent.name}" for file in sorted(truth.glob("*/*.png"))[:20]]
    (tmp_path / "known.csv").write_text("path,label\n" + "\n".join(lines))
    data = people(pool, MaskedLabels(truth), labels=tmp_path / "known.csv")
    loop, _ = study(tmp_path / "run", data, rounds=2)
    assert loop.rounds["n_labelled"].tolist() == [20, 29]
    assert set(loop.queries["annotator"]) == {"import", "truth"}
    assert (loop.queries["round"] == -1).sum() == 20
    again = people(pool, MaskedLabels(truth))
    assert again.n_labelled == 29, "another study begins with the labels of the store"
    assert again.n_tests == data.n_tests == 1


def test_the_next_best_may_be_labelled_while_the_model_trains(truth, pool, tmp_path):
    class Eager(Crowd):
        def attach(self, store):
            self.store = store

        def note(self, phase, **status):
            if phase == "training":
                for query in self.store.open_queries()[:3]:
                    self.store.record(self.say(query, self.masked.labels[query.sample]))

    crowd = Eager(truth)
    data = people(pool, crowd, ahead=4, test_share=0.0)
    loop, _ = study(tmp_path / "run", data, rounds=3)
    assert [len(queries) for queries in crowd.asked] == [9, 9]
    assert loop.rounds["n_labelled"].tolist() == [0, 9, 21]
    assert loop.queries["round"].value_counts().to_dict() == {0: 12, 1: 9}


def test_pictures_that_look_alike_are_asked_once_on_request(truth, pool, tmp_path):
    gradient = Image.radial_gradient("L").convert("RGB")
    for size in (64, 80, 96):
        gradient.resize((size, size)).save(pool / f"alike_{size}.png")
    assert len(people(pool, MaskedLabels(truth), store=tmp_path / "a.sqlite").samples) == 63
    data = people(pool, MaskedLabels(truth), store=tmp_path / "b.sqlite", near_duplicates=2)
    names = [path.name for sample in data.samples.values() for path in sample.paths if "alike" in path.name]
    assert len(names) == 1


def test_rules_wait_until_enough_samples_measure(truth, pool, tmp_path):
    data = people(pool, MaskedLabels(truth), test_share=0.4)
    loop, _ = study(tmp_path / "run", data, rounds=4)
    assert loop.rounds["n_tests"].tolist() == [0, 6, 12, 18]
    progress = StudyProgress(loop.rounds.to_dict("records"), [])
    assert TargetReached(0.0, min_tests=19)(progress) is None
    assert TargetReached(0.0, min_tests=18)(progress) is not None
    assert Plateau(1, min_delta=2.0, min_tests=18)(progress) is None
    assert Plateau(1, min_delta=2.0, min_tests=12)(progress) is not None


def test_what_does_not_fit_is_refused(truth, pool, tmp_path):
    with pytest.raises(DataError, match="no folder"):
        people(tmp_path / "none", MaskedLabels(truth))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        people(tmp_path / "empty", MaskedLabels(truth))
    with pytest.raises(ConfigurationError, match="skipped"):
        people(pool, MaskedLabels(truth), skipped="away")
    with pytest.raises(ConfigurationError, match="test_share"):
        people(pool, MaskedLabels(truth), test_share=0.9)
    for name in ("dusk", "dark"):
        (tmp_path / "test" / name).mkdir(parents=True)
        shutil.copy(next(pool.glob("*.png")), tmp_path / "test" / name)
    with pytest.raises(DataError, match="none of"):
        people(pool, MaskedLabels(truth), test=tmp_path / "test")
    (pool / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        people(pool, MaskedLabels(truth), store=tmp_path / "b.sqlite")
    with pytest.raises(AnnotationError, match="has labels of the classes"):
        ActiveLearningDataModule.from_folder(pool, ["bee", "ant"], annotator=MaskedLabels(truth))
