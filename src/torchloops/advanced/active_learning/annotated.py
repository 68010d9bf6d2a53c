"""AnnotatedDataModule: pictures without labels, and people who give them while the model learns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from torchloops.advanced.active_learning.datamodule import ActiveLearningDataModule
from torchloops.advanced.active_learning.given import WithLabels
from torchloops.advanced.active_learning.labelled_map import LabelledMap
from torchloops.advanced.active_learning.scoring import PoolScores
from torchloops.advanced.active_learning.seeds import generator_for
from torchloops.annotation import (
    Annotator,
    Answer,
    Event,
    LabelStore,
    Query,
    Sample,
    WebAnnotator,
    import_labels,
    index_pool,
)
from torchloops.annotation import near_duplicates as find_near_duplicates
from torchloops.annotation.queries import Purpose
from torchloops.annotation.store import STORE_NAME
from torchloops.data.labels import Labels
from torchloops.data.source import Source
from torchloops.errors import CheckpointError, ConfigurationError, DataError, WaitingForLabels
from torchloops.files import given_path
from torchloops.schema import COUNT, check
from torchloops.seeding import derive_seed

__all__ = ["AnnotatedDataModule"]

_PEOPLE = {"first_round": COUNT, "test_ids": [COUNT], "test_labels": [COUNT], "samples": str, "last_event": COUNT}


class AnnotatedDataModule(ActiveLearningDataModule):
    """Pictures that nobody has labelled: an annotator is asked, and a label store keeps every answer.

    Built by `ActiveLearningDataModule.from_folder`. A round asks for the ``query_size`` samples that the heuristic
    wants and, where there is no ``test`` folder, for some that chance has drawn: a share of the pool, ``test_share``,
    is set aside before anything is asked, never trains, and measures the model without bias. They stand among the
    other questions, so that nobody treats them otherwise.

    A sample is known by its content: files may be moved, renamed or added between runs. Its id is the number that the
    store gave it. What people change later, labels that were changed or taken back and answers that came late, is taken
    over when the next query is made, and each time answers are taken.

    See `open` for the arguments.
    """

    def __init__(
        self,
        images: Any,
        store: LabelStore,
        samples: Sequence[Sample],
        annotator: Annotator,
        *,
        skipped: str = "out",
        test_share: float = 0.1,
        ahead: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(images, stratify=False, classes=images.classes, **options)
        self.store = store
        self.samples = {sample.number: sample for sample in samples}
        self.annotator = annotator
        self.skipped = skipped
        self.test_share = 0.0 if images.test_dataset is not None else test_share
        self.ahead = ahead
        self._numbers = store.numbers()
        self._is_attached = False
        self._first_round = 0
        self._last_event = 0
        self._tests: dict[int, int] = {}

    @classmethod
    def open(
        cls,
        pool: str | os.PathLike[str],
        classes: Sequence[str],
        *,
        test: str | os.PathLike[str] | None = None,
        labels: str | os.PathLike[str] | None = None,
        annotator: Annotator | None = None,
        store: str | os.PathLike[str] | LabelStore | None = None,
        new_classes: int = 0,
        skipped: str = "out",
        test_share: float = 0.1,
        ahead: int = 0,
        near_duplicates: int | None = None,
        heuristic: Any = None,
        query_size: int = 10,
        seed: int = 0,
        pool_batch_size: int | None = None,
        **images: Any,
    ) -> AnnotatedDataModule:
        """Look through a folder and open its label store.

        Args:
            pool: folder of the pictures, at any depth; equal files are one sample.
            classes: names of the classes, in the order of the model's outputs.
            test: folder of class folders to test on. Default: none, and the score is that on the labelled part of a
                random share of the pool.
            labels: known labels: a CSV file, a folder of class folders, or Label Studio's JSON; see `import_labels`.
            annotator: who is asked. Default: people at the labelling page, `WebAnnotator`.
            store: file of the label store, made if missing. Default: ``labels.sqlite`` in the pool's folder. Labels
                that it has already are the first ones.
            new_classes: outputs that the model has to spare for classes that people add. Default: none, and they
                cannot.
            skipped: "out": a skipped sample is not asked for again; "back": it returns to the pool.
            test_share: share of the pool that measures, where there is no ``test`` folder; 0 to 0.5.
            ahead: so many of the next best samples may be labelled while the model trains; they count from the next
                query on, so that a run is not repeatable to the bit. Default: none.
            near_duplicates: of pictures that look alike only the first is asked for: those that differ in at most so
                many of 64 bits, such as 4; see `torchloops.annotation.near_duplicates`. Default: only equal files are
                one sample.
            heuristic, query_size, seed, pool_batch_size: as of `ActiveLearningDataModule`.
            **images: as of ``ImageClassificationData.from_folders``, such as ``image_size`` and ``batch_size``.

        Raises:
            ConfigurationError: values that do not fit together.
            DataError: no picture in the pool, pictures that cannot be read, or a test folder of other classes.
            AnnotationError: the store is of other classes, or a file of labels does not fit.
        """
        from torchloops.vision.data import ImageClassificationData

        _check_settings(skipped, test_share, new_classes, ahead)
        folder = given_path(pool, "pool")
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} of pictures. Give pool=folder.")
        if not isinstance(store, LabelStore):
            store = LabelStore(folder / STORE_NAME if store is None else given_path(store, "store"))
        _set_up(store, folder, classes, new_classes)
        samples = index_pool(store, folder)
        if near_duplicates is not None:
            alike = find_near_duplicates(samples, near_duplicates)
            samples = _without({sample.number for group in alike for sample in group[1:]}, samples, store)
        if labels is not None:
            import_labels(store, given_path(labels, "labels"))
        paths: list[Path | None] = [None] * len(store.numbers())
        for sample in samples:
            paths[sample.number] = sample.paths[0]
        data = ImageClassificationData.from_unlabelled(
            paths, names_of_outputs(store), test_folder=test, seed=seed, **images
        )
        return cls(
            data, store, samples, WebAnnotator() if annotator is None else annotator, skipped=skipped,
            test_share=test_share, ahead=ahead, heuristic=heuristic, query_size=query_size, seed=seed,
            pool_batch_size=pool_batch_size,
        )  # fmt: skip

    # what there is

    @property
    def classes(self) -> list[str]:
        return names_of_outputs(self.store)

    @cached_property
    def truth(self) -> Labels:
        return Labels(self.source.evaluate, classes=self.classes)  # nobody knows labels but of whom people are asked

    @property
    def has_answers(self) -> bool:
        return True

    @cached_property
    def labelled_map(self) -> LabelledMap:
        labelled = LabelledMap(len(self.source.train))
        latest = self.store.latest_round
        self._first_round, self._tests = 0 if latest is None else latest + 1, {}
        self._take_over(labelled, self._first_round - 1)
        labelled.exclude(self._set_aside(labelled))
        return labelled

    def _set_aside(self, labelled: LabelledMap, first: int = 0) -> list[int]:
        """Samples from a number on that never train: files that are gone, and those that are drawn to measure with."""
        missing = [number for number in range(first, labelled.num_samples) if number not in self.samples]
        drawn = [number for number in self._measuring if number >= first and not labelled.is_labelled(number)]
        return [*missing, *drawn]

    @cached_property
    def _measuring(self) -> list[int]:
        """Samples that chance has drawn, in random order: content and seed decide, whatever other files there are."""
        draws = {n: derive_seed("measuring", self.seed, sample.hash) % 2**32 for n, sample in self.samples.items()}
        return sorted((n for n, draw in draws.items() if draw < self.test_share * 2**32), key=lambda n: draws[n])

    @property
    def n_tests(self) -> int:
        """Number of labelled samples that measure and never train; 0 where there is a test folder."""
        return len(self._tests)

    @property
    def round_columns(self) -> dict[str, Any]:
        return {} if self.datamodule.test_dataset is not None else {"n_tests": self.n_tests}

    @property
    def val_ids(self) -> list[int]:
        return []

    # asking

    def label(self, scores: PoolScores, source: str = "people") -> float:
        self._attach()
        labelled, current = self.labelled_map, self._first_round + self.round
        queries = self._questions(scores)
        n_ahead = max(len(scores.sample_ids) - self.query_size, 0)
        asked = queries[: len(queries) - n_ahead]
        self.store.ask(queries)
        self.store.set_status(**{**self.store.status(), "phase": "labelling"})
        for answer in self.annotator.annotate(asked):
            self._keep(answer)
        if all(answer.action == "later" for answer in self.store.answers(asked)):
            raise WaitingForLabels("Nobody has answered yet. Go on with the run when somebody has.")
        self.round += 1
        return self._take_over(labelled, current)

    def take_over(self) -> None:
        self._take_over(self.labelled_map, self._first_round + self.round - 1)

    def _attach(self) -> None:
        if self.trainer is not None and self.trainer.world_size > 1:
            raise ConfigurationError(
                f"People label for one process, and this run has {self.trainer.world_size}. Use devices=1."
            )
        if not self._is_attached and hasattr(self.annotator, "attach"):
            self.annotator.attach(self.store)
        self._is_attached = True

    def _keep(self, answer: Answer) -> None:
        """Put an answer into the store, if the annotator has not."""
        known = self.store.decision(answer.sample)
        is_known = known is not None and (known.action, known.label) == (answer.action, answer.label)
        if answer.action != "later" and not is_known:
            self.store.record(answer, source="annotator")

    def _questions(self, scores: PoolScores) -> list[Query]:
        """What a round asks: the samples of the query, and among them some that measure; then those that can wait."""
        guesses = scores.predictions or [None] * len(scores.sample_ids)
        rows = zip(scores.sample_ids, scores.scores.tolist(), guesses, strict=True)
        queries = [self._question(*row) for row in rows]
        now, later = queries[: self.query_size], queries[self.query_size :]
        generator = generator_for(self.seed, "questions", self.round)
        for number in self._next_tests(len(now)):
            place = int(torch.randint(len(now) + 1, (), generator=generator))
            now.insert(place, self._question(number, None, None, "test"))
        return [replace(query, rank=rank) for rank, query in enumerate([*now, *later])]

    def _question(self, number: int, score: float | None, guess: int | None, purpose: Purpose = "train") -> Query:
        sample = self.samples[number]
        known = None if score is None or score != score else score
        said = None if guess is None else self.classes[guess]
        return Query(sample.hash, sample.paths[0], self._first_round + self.round, 0, known, said, purpose)

    def _next_tests(self, n_queries: int) -> list[int]:
        """Samples that measure: so many that ``test_share`` of all questions of the study do, and one at least."""
        if not self.test_share:
            return []
        last_round = self._first_round + self.round - 1
        before = [query for query in self.store.queries() if self._first_round <= query.round <= last_round]
        tests = {query.sample for query in before if query.purpose == "test"}
        n_train = n_queries + len({(query.round, query.sample) for query in before if query.purpose == "train"})
        wanted = max(round(n_train * self.test_share / (1 - self.test_share)), 1)
        can_be_asked = self.labelled_map.excluded - self._tests.keys()
        left = [n for n in self._measuring if n in can_be_asked and self.samples[n].hash not in tests]
        return left[: max(wanted - len(tests), 0)]

    # taking answers

    def _take_over(self, labelled: LabelledMap, last_round: int) -> float:
        """Take over what people did, but for questions of the store's rounds after ``last_round``.

        Returns:
            Seconds that the answers took which were not known before.
        """
        questions = {query.sample: query for query in self.store.queries()}
        known = {
            self._numbers[name]: event
            for name, event in self.store.decisions().items()
            if name in self._numbers and (name not in questions or questions[name].round <= last_round)
        }
        self._take_changes(labelled, known)
        new = [n for n in known if n in self.samples and not labelled.is_labelled(n) and n not in self._tests]
        names = {n: self.samples[n].hash for n in new}
        by_round: dict[int, list[int]] = {}
        for number in sorted(new, key=lambda n: _place(questions.get(names[n]), n)):
            question = questions.get(names[number])
            if known[number].action != "label":
                self._leave_out(labelled, number, known[number])
            elif question is not None and question.purpose == "test" and self.test_share:
                self._tests[number] = self._index(known[number])
            elif number not in labelled.excluded:
                round = -1 if question is None else max(question.round - self._first_round, -1)
                by_round.setdefault(round, []).append(number)
        for round, numbers in sorted(by_round.items()):
            self._add(labelled, round, numbers, [questions.get(names[n]) for n in numbers], [known[n] for n in numbers])
        fresh = [known[n] for n in new if known[n].id > self._last_event]
        self._last_event = max([self._last_event, *(event.id for event in known.values())])
        return sum(event.seconds or 0.0 for event in fresh)

    def _take_changes(self, labelled: LabelledMap, known: Mapping[int, Event]) -> None:
        """Take over labels that people have changed, or taken back, since."""
        for number in [n for n in self._tests if n not in known or known[n].action != "label"]:
            del self._tests[number]
        for number in self._tests:
            self._tests[number] = self._index(known[number])
        for record in labelled.records:
            event = known.get(record.sample_id)
            if event is None:
                labelled.unlabel([record.sample_id])
            elif event.action != "label":
                labelled.unlabel([record.sample_id])
                self._leave_out(labelled, record.sample_id, event)
            elif self._index(event) != record.label:
                labelled.relabel(record.sample_id, self._index(event), event.annotator)

    def _leave_out(self, labelled: LabelledMap, number: int, event: Event) -> None:
        if event.action == "flag" or self.skipped == "out":
            labelled.exclude([number])

    def _add(
        self,
        labelled: LabelledMap,
        round: int,
        numbers: list[int],
        questions: Sequence[Query | None],
        events: Sequence[Event],
    ) -> None:
        guesses = [None if query is None or query.guess is None else query.guess for query in questions]
        labelled.label(
            numbers,
            round=round,
            source=[event.annotator for event in events],
            scores=[None if query is None else query.score for query in questions],
            predictions=[None if guess is None else self.classes.index(guess) for guess in guesses],
            labels=[self._index(event) for event in events],
            seconds=[event.seconds or 0.0 for event in events],
        )

    def _index(self, event: Event) -> int:
        return self.store.classes.index(str(event.label))

    # loaders

    @property
    def _training_source(self) -> Source:
        labels = {record.sample_id: record.label for record in self.labelled_map.records}
        return replace(self.source, train=WithLabels(self.source.train, labels, None))

    def test_dataloader(self) -> Any:
        """The test folder's pictures, or the labelled ones of those that measure; None while there are none."""
        if self.datamodule.test_dataset is not None:
            return super().test_dataloader()
        if not self._tests:
            return None
        source = replace(self.source, evaluate=WithLabels(self.source.evaluate, self._tests, None))
        return source.evaluation_loader(sorted(self._tests))

    def with_data(self, labelled: Any) -> ActiveLearningDataModule:
        raise ConfigurationError(
            "A study that asks people cannot run in folds: each fold would ask for other labels. Label first, then "
            "cross-validate on the folder of class folders that the run writes."
        )

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        if stage == "fit" and hasattr(self.annotator, "close"):
            self.annotator.close()
            self._is_attached = False

    # telling

    def note(self, phase: str, rounds: Sequence[dict[str, Any]]) -> None:
        """Put what the run is doing into the store, where the labelling page finds it."""
        metric = "test/accuracy"
        scored = [row for row in rounds if row.get(metric) == row.get(metric) and row.get(metric) is not None]
        status = {
            "phase": phase, "round": self._first_round + self.round, "metric": metric,
            "curve": [[row["n_labelled"], row[metric]] for row in scored], "n_tests": self.n_tests,
            "seconds": rounds[-1]["seconds_train"] + rounds[-1]["seconds_query"] if rounds else None,
        }  # fmt: skip
        self._attach()
        self.store.set_status(**status)
        if hasattr(self.annotator, "note"):
            self.annotator.note(**status)

    # state

    @property
    def settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("skipped", "test_share", "ahead")}
        return {**super().settings, **own, "number of outputs": len(self.classes)}

    @cached_property
    def description(self) -> dict[str, Any]:
        return {}  # the pool may grow; `_content` says which samples it had

    def _content(self, size: int) -> str:
        """A hash of the first samples of the store, which never change."""
        names = sorted(self._numbers, key=self._numbers.__getitem__)[:size]
        return hashlib.blake2b("".join(names).encode(), digest_size=16).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        people = {
            "first_round": self._first_round, "test_ids": list(self._tests), "test_labels": list(self._tests.values()),
            "samples": self._content(self.labelled_map.num_samples), "last_event": self._last_event,
        }  # fmt: skip
        return {**super().state_dict(), "people": people}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; files that were added since join the pool.

        Raises:
            CheckpointError: the label store is another one.
            DataError: the file of a labelled sample is gone.
        """
        people = state_dict.get("people", {})
        check(people, _PEOPLE, "AnnotatedDataModule: people")
        size = state_dict["labelled_map"]["num_samples"]
        if size > len(self._numbers) or self._content(size) != people["samples"]:
            raise CheckpointError(
                f"{self.store.path} is not the label store of the run: its samples are others. Put that file back."
            )
        grown = {**state_dict["labelled_map"], "num_samples": len(self.source.train)}
        super().load_state_dict({**state_dict, "labelled_map": grown})
        self._first_round, self._last_event = people["first_round"], people["last_event"]
        self._tests = dict(zip(people["test_ids"], people["test_labels"], strict=True))
        labelled = self.labelled_map
        labelled.exclude(self._set_aside(labelled, size))
        labelled.exclude(n for n in labelled.pool_ids if n not in self.samples)
        gone = [n for n in (*labelled.labelled_ids, *self._tests) if n not in self.samples]
        if gone:
            raise DataError(
                f"{len(gone)} labelled pictures are no longer in the pool; their labels are in {self.store.path}. Put "
                f"back the files; the first was {', '.join(self.store.paths(gone[0])) or 'nowhere'}."
            )

    def _check_labels(self, labelled: LabelledMap) -> None:
        """Labels are the people's: those that changed are taken over, not refused."""


def names_of_outputs(store: LabelStore) -> list[str]:
    """Names of the classes, and of the outputs that the model has to spare for those that people add."""
    known = store.classes
    return [*known, *(f"(new class {index})" for index in range(len(known), store.setting("max_classes")))]


def _without(alike: set[int], samples: Sequence[Sample], store: LabelStore) -> list[Sample]:
    """The samples without those that look like others; what is labelled stays."""
    known = store.decisions()
    return [sample for sample in samples if sample.number not in alike or sample.hash in known]


def _set_up(store: LabelStore, folder: Path, classes: Sequence[str], new_classes: int) -> None:
    """Tell the store of its pool, and of the classes that the model has outputs for."""
    store.set_classes(
        list(classes) if len(classes) > len(store.classes) else [*classes, *store.classes[len(classes) :]]
    )
    store.set_setting("max_classes", max(len(classes) + new_classes, len(store.classes)))
    store.set_setting("pool", os.path.abspath(folder))


def _place(question: Query | None, number: int) -> tuple[int, int]:
    """Samples that were asked come in the order of the questions, the others before them by number."""
    return (-1, number) if question is None else (question.round, question.rank)


def _check_settings(skipped: str, test_share: float, new_classes: int, ahead: int) -> None:
    if skipped not in ("out", "back"):
        raise ConfigurationError(f'skipped is "out" or "back", got {skipped!r}.')
    if not 0 <= test_share <= 0.5:
        raise ConfigurationError(f"test_share is a share from 0 to 0.5, got {test_share}.")
    for name, value in (("new_classes", new_classes), ("ahead", ahead)):
        if value < 0:
            raise ConfigurationError(f"{name} must be 0 or more, got {value}.")
