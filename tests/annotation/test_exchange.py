"""Labels in and out: round trips of all three formats, and files that are wrong or hostile."""

import json
import unicodedata

import pytest
from PIL import Image

from torchloops.annotation import (
    Answer,
    LabelStore,
    Query,
    export_class_folders,
    export_csv,
    export_label_studio,
    import_labels,
    index_pool,
)
from torchloops.annotation.exchange.class_folders import folder_name
from torchloops.annotation.pool import content_hash
from torchloops.errors import AnnotationError

ODD = ["a/b", "..", "=1+1", "Käfer", "-", "x" * 200, "ß" * 200, ".hidden", "con.", 'say "hi", <b>', "100%", "a%2Fb"]


@pytest.fixture
def another(tmp_path, pool):
    """A second store over the same pool, that knows no labels."""
    stores = []

    def make(classes):
        store = LabelStore(tmp_path / f"another_{len(stores)}.sqlite")
        stores.append(store)
        store.set_classes(classes)
        store.set_setting("pool", str(pool))
        index_pool(store, pool)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def labelled(store, samples):
    """The store with a label of every odd class, a skip and a flag."""
    store.set_classes([*store.classes, *ODD])
    store.ask([Query(sample.hash, sample.paths[0], 2, rank, 0.5, "dark") for rank, sample in enumerate(samples[:16])])
    for sample, label in zip(samples, ODD, strict=False):
        store.record(Answer(sample.hash, "label", label, "Ada, B.", 1.5))
    store.record(Answer(samples[12].hash, "skip", annotator="Ada, B."))
    store.record(Answer(samples[13].hash, "flag", annotator="Ada, B."))
    return store


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(store, source, match, **options):
    """The import is refused with these words, and nothing of it was written."""
    before = store.events()
    with pytest.raises(AnnotationError, match=match):
        import_labels(store, source, **options)
    assert store.events() == before


def said(store):
    return {name: (event.action, event.label) for name, event in store.decisions().items()}


# round trips


def test_a_table_brings_every_decision_to_another_store(labelled, another, tmp_path):
    path = export_csv(labelled, tmp_path / "labels.csv")
    other = another(labelled.classes)
    assert import_labels(other, path) == 14
    assert said(other) == said(labelled)
    assert import_labels(other, path) == 0, "nothing is written twice"


def test_class_folders_bring_every_label_to_another_store(labelled, another, tmp_path):
    assert export_class_folders(labelled, tmp_path / "sorted") == len(ODD)
    other = another(labelled.classes)
    assert import_labels(other, tmp_path / "sorted") == len(ODD)
    assert other.labels() == labelled.labels()


def test_label_studio_json_brings_labels_and_skips_to_another_store(labelled, another, tmp_path, samples):
    path = export_label_studio(labelled, tmp_path / "tasks.json")
    other = another(labelled.classes)
    assert import_labels(other, path) == len(ODD) + 1
    assert said(other) == {name: what for name, what in said(labelled).items() if what[0] != "flag"}
    first = json.loads(path.read_text())[0]
    assert first["data"]["image"] == samples[0].paths[0].name
    assert first["predictions"][0]["result"][0]["value"] == {"choices": ["dark"]}


def test_a_table_tells_where_a_label_came_from(labelled, tmp_path, samples):
    lines = export_csv(labelled, tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "sample,path,label,action,annotator,round,seconds,guess,score,time"
    name, path = samples[2].hash, samples[2].paths[0].name
    assert lines[3].startswith(f'{name},{path},=1+1,label,"Ada, B.",2,1.5,dark,0.5,')
    assert lines[3].endswith("+00:00")


def test_an_address_is_made_of_a_path(labelled, tmp_path, samples):
    by_text = export_label_studio(labelled, tmp_path / "a.json", image_url="/data/local-files/?d=photos/{name}")
    by_function = export_label_studio(labelled, tmp_path / "b.json", image_url=lambda path: f"https://x/{path.stem}")
    file = samples[0].paths[0]
    assert json.loads(by_text.read_text())[0]["data"]["image"] == f"/data/local-files/?d=photos/{file.name}"
    assert json.loads(by_function.read_text())[0]["data"]["image"] == f"https://x/{file.stem}"


def test_labels_follow_files_that_were_moved(labelled, another, pool, tmp_path):
    path = export_csv(labelled, tmp_path / "labels.csv")
    (pool / "deep").mkdir()
    for number, file in enumerate(sorted(pool.glob("*.png"))):
        file.rename(pool / "deep" / f"{number}.png")
    other = another(labelled.classes)
    import_labels(other, path)
    assert said(other) == said(labelled)


# tables


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n{0},bright\n",
        "\ufeffpath,label\r\n{0},bright\r\n",
        " Path , LABEL \n {0} , bright \n",
        "label;file\nbright;{0}\n",
        "filename\tclass\n{0}\tbright\n",
        "sample,path,label\n,{0},bright\n",
        'image,target,note\n"{0}","bright","two\nlines"\n',
        "path,label,action\n{0},bright,\n",
        "path,label\n./x/../{0},bright\n",
        "path,label\n.\\{0},bright\n",
    ],
)
def test_tables_of_many_kinds_are_read(store, samples, tmp_path, text):
    import_labels(store, write(tmp_path / "labels.csv", text.format(samples[3].paths[0].name)))
    assert store.labels() == {samples[3].hash: "bright"}


def test_a_path_may_be_whole_or_relative_to_the_table(store, samples, tmp_path):
    a, b = samples[0].paths[0], samples[1].paths[0]
    import_labels(store, write(tmp_path / "labels.csv", f"path,label\n{a},dark\npool/{b.name},bright\n"))
    assert store.labels() == {samples[0].hash: "dark", samples[1].hash: "bright"}


def test_accents_may_be_spelt_in_two_ways(store, pool, tmp_path):
    store.set_classes([*store.classes, "Käfer"])
    Image.new("RGB", (4, 4), "green").save(pool / unicodedata.normalize("NFD", "Grün.png"))
    store.set_setting("pool", str(pool))
    index_pool(store, pool)
    spelt = unicodedata.normalize("NFD", "Käfer")
    assert spelt != "Käfer"
    import_labels(store, write(tmp_path / "labels.csv", f"path,label\nGrün.png,{spelt}\n"))
    assert list(store.labels().values()) == ["Käfer"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; expected one of sample"),
        ("\n", "is empty; expected one of sample"),
        ("path,lable\n{0},dark\n", "has the columns 'path', 'lable'.* Did you mean \"label\"?"),
        ("pth,label\n{0},dark\n", 'Did you mean "path"?'),
        ("path,label\n{0},dark\n{1},wasp\n", r"line 3: The label 'wasp' is none of the classes 'dark', 'bright'"),
        ("path,label\n{0},brigth\n", 'line 2.*Did you mean "bright"?'),
        ("path,label\n{0},dark\n{0},bright\n", "line 3 says 'bright' of a sample that .*line 2 says 'dark'"),
        ("path,label,action\n{0},dark,label\n{0},,skip\n", "line 3 says 'skip' of a sample that .*line 2 says 'dark'"),
        ("path,label,action\n{0},dark,lable\n", "line 2: the action 'lable' is none of.* Did you mean \"label\"?"),
        ("path,label\n{0},dark\n,bright\n", "line 3: no sample is named in path"),
        ("path,label\n{0},dark,bright\n", "line 2: it has more cells than the first line"),
        ('path,label\n{0},dark\n{1},"bright\n', "line 3: no readable CSV"),
        ("path,label\n{0},dark\n../../etc/passwd,dark\n", r"1 of 2 samples are not in the pool.*etc/passwd.*line 3"),
        (
            "path,label\n{0},dark\n/elsewhere/{1},dark\n",
            r"1 of 2 samples are not in the pool, the first is '/elsewhere",
        ),
        ("path,label\n{0},dark\n\x00,dark\n", r"1 of 2 samples are not in the pool"),
        ("path,label\n{0},dark\n".encode("utf-16"), "is not written in UTF-8"),
        ("path,label\nGrün.png,dark\n".encode("latin-1"), "is not written in UTF-8"),
    ],
)
def test_wrong_tables_are_refused_and_nothing_of_them_is_kept(store, samples, tmp_path, text, words):
    names = [sample.paths[0].name for sample in samples[:2]]
    refused(store, write(tmp_path / "l.csv", text.format(*names) if isinstance(text, str) else text), words)


def test_a_huge_cell_is_refused(store, samples, tmp_path):
    refused(store, write(tmp_path / "l.csv", "path,label\n" + "x" * 200_000 + ",dark\n"), "line 2: no readable CSV")


def test_rows_without_a_label_say_nothing(store, samples, tmp_path):
    names = [sample.paths[0].name for sample in samples[:3]]
    text = "path,label,action\n{},,\n{},,later\n{},,skip\nunknown.png,,\n".format(*names)
    assert import_labels(store, write(tmp_path / "labels.csv", text)) == 1
    assert said(store) == {samples[2].hash: ("skip", None)}


def test_the_same_label_twice_counts_once(store, samples, tmp_path):
    name = samples[0].paths[0].name
    source = write(tmp_path / "l.csv", f"sample,path,label\n,{name},dark\n{samples[0].hash},,dark\n")
    assert import_labels(store, source) == 1


def test_strangers_can_be_left_out(store, samples, tmp_path):
    source = write(tmp_path / "l.csv", f"path,label\n{samples[0].paths[0].name},dark\nunknown.png,bright\n")
    assert import_labels(store, source, unknown="skip") == 1
    refused(store, source, 'unknown is "refuse" or "skip", got \'ignore\'', unknown="ignore")


def test_a_file_name_that_two_pictures_have_is_refused(store, pool, tmp_path):
    for place, seed in (("one", 100), ("two", 101)):
        (pool / place).mkdir()
        Image.new("RGB", (4, 4), (seed, 0, 0)).save(pool / place / "same.png")
    store.set_setting("pool", str(pool))
    index_pool(store, pool)
    refused(store, write(tmp_path / "l.csv", "path,label\nsame.png,dark\n"), "2 different pictures of the name")
    assert import_labels(store, write(tmp_path / "l.csv", "path,label\none/same.png,dark\n")) == 1


def test_what_somebody_changed_since_stays_changed(store, samples, tmp_path):
    name = samples[0].hash
    first = write(tmp_path / "first.csv", f"sample,label\n{name},dark\n")
    import_labels(store, first)
    store.ask([Query(name)])
    store.record(Answer(name, "label", "bright", "Ada"))
    assert import_labels(store, first) == 0
    assert store.labels() == {name: "bright"}
    assert import_labels(store, write(tmp_path / "second.csv", f"sample,action,label\n{name},flag,\n")) == 1
    assert said(store) == {name: ("flag", None)}, "another file says something new"


@pytest.mark.parametrize("name", ["labels.txt", "labels", "gone.csv", "gone.json"])
def test_other_files_are_refused(store, samples, tmp_path, name):
    source = tmp_path / name if name.startswith("gone") else write(tmp_path / name, "path,label\n")
    refused(store, source, "cannot be imported: expected a .csv or .json file, or a folder")


# class folders


@pytest.mark.parametrize("label", ODD)
def test_a_class_is_one_folder(label):
    name = folder_name(label)
    assert "/" not in name
    assert "\\" not in name
    assert name not in ("", ".", "..")
    assert not name.startswith(".")
    assert len(name.encode()) <= 200


def test_classes_have_folders_of_their_own():
    names = [*ODD, "x" * 201, "ß" * 199 + "s", "%2E.", "."]
    assert len({folder_name(name) for name in names}) == len(names)


def test_no_picture_leaves_the_folder(labelled, tmp_path):
    export_class_folders(labelled, tmp_path / "here" / "sorted")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["sorted"]
    assert len(list((tmp_path / "here" / "sorted").glob("*/*.png"))) == len(ODD)


def test_pictures_of_one_name_stand_side_by_side(store, pool, tmp_path):
    for place, seed in (("one", 100), ("two", 101), ("three", 102)):
        (pool / place).mkdir()
        Image.new("RGB", (4, 4), (seed, 0, 0)).save(pool / place / ("Same.png" if place == "three" else "same.png"))
    samples = [sample for sample in index_pool(store, pool) if sample.paths[0].parent != pool]
    store.ask([Query(sample.hash) for sample in samples])
    for sample in samples:
        store.record(Answer(sample.hash, "label", "bright"))
    export_class_folders(store, tmp_path / "sorted")
    found = {content_hash(path): path.name.lower() for path in (tmp_path / "sorted").glob("bright/*")}
    assert found.keys() == {sample.hash for sample in samples}
    assert sorted(found.values()) == ["same-2.png", "same-3.png", "same.png"]


def test_a_folder_is_brought_up_to_date_and_what_others_put_there_stays(labelled, samples, tmp_path):
    folder = tmp_path / "sorted"
    export_class_folders(labelled, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")}
    export_class_folders(labelled, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.png")} == before, "nothing is copied again"

    mine = [write(folder / "dark" / "notes.txt", "mine"), write(folder / "dark" / samples[0].paths[0].name, "mine")]
    labelled.record(Answer(samples[0].hash, "label", "dark", "Ada, B."))
    export_class_folders(labelled, folder)
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    copies = [path for path in folder.glob("*/*.png") if content_hash(path) == samples[0].hash]
    assert copies == [folder / "dark" / f"{samples[0].paths[0].stem}-2.png"], "it moved from its old class"


def test_an_export_that_was_cut_short_is_finished(labelled, samples, tmp_path, monkeypatch):
    calls = []

    def copy_five(source, target):
        calls.append(target)
        if len(calls) > 5:
            write(target, b"half")
            raise OSError(28, "No space left on device")
        target.write_bytes(source.read_bytes())

    folder = tmp_path / "sorted"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", copy_five)
        with pytest.raises(OSError, match="No space left"):
            export_class_folders(labelled, folder)
    assert {content_hash(path) for path in folder.glob("*/*.png")} <= {sample.hash for sample in samples}
    export_class_folders(labelled, folder)
    assert {content_hash(path) for path in folder.glob("*/*.png")} == set(labelled.labels())


def test_a_folder_of_something_else_is_refused(labelled, tmp_path, pool):
    before = sorted(pool.iterdir())
    with pytest.raises(AnnotationError, match="is not empty"):
        export_class_folders(labelled, pool)
    assert sorted(pool.iterdir()) == before


def test_pictures_that_are_gone_are_named(labelled, samples, tmp_path):
    samples[0].paths[0].unlink()
    with pytest.raises(AnnotationError, match=f"1 labelled pictures are no longer in the pool.*{samples[0].hash}"):
        export_class_folders(labelled, tmp_path / "sorted")
    assert not (tmp_path / "sorted").exists()


def test_class_folders_that_contradict_themselves_are_refused(store, samples, truth):
    (truth / "dark" / "again.png").write_bytes((truth / "bright" / "01.png").read_bytes())
    refused(store, truth, "says '(dark|bright)' of a sample that .* says '(dark|bright)'")


def test_class_folders_of_other_classes_or_without_pictures_are_refused(store, samples, pool, truth):
    refused(store, pool, "There is no picture in a class folder")
    (truth / "wasp").mkdir()
    (truth / "dark" / "00.png").rename(truth / "wasp" / "00.png")
    refused(store, truth, r"wasp/00.png: The label 'wasp' is none of the classes")


# Label Studio


def task(name=None, choices=("dark",), image="/data/upload/1/0a1b2c3d-photo.png", **annotation):
    result = [{"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": list(choices)}}]
    data = {"image": image} if name is None else {"image": image, "torchloops_sample": name}
    return {"id": 7, "data": data, "annotations": [{"result": result, "was_cancelled": False, **annotation}]}


@pytest.mark.parametrize(
    "address",
    [
        "{0}",
        "/data/upload/3/0a1b2c3d-{0}",
        "/data/local-files/?d=photos/{0}",
        "/data/local-files/?d=a%20b/{0}&x=1",
        "https://example.org/bucket/{0}?token=1",
        "s3://bucket/photos/{0}",
    ],
)
def test_tasks_of_other_projects_are_known_by_their_file(store, samples, tmp_path, address):
    tasks = [task(image=address.format(samples[4].paths[0].name))]
    assert import_labels(store, write(tmp_path / "t.json", json.dumps(tasks))) == 1
    assert store.labels() == {samples[4].hash: "dark"}


def test_the_last_annotation_of_a_task_counts(store, samples, tmp_path):
    one = task(samples[0].hash, updated_at="2026-01-02T00:00:00Z")
    one["annotations"] += task(choices=["bright"], updated_at="2026-01-01T00:00:00Z")["annotations"]
    other = task(samples[1].hash, was_cancelled=True)
    unanswered = [{"data": {"image": "x.png"}, "annotations": []}, task(samples[2].hash, choices=[])]
    import_labels(store, write(tmp_path / "t.json", json.dumps([one, other, *unanswered])))
    assert said(store) == {samples[0].hash: ("label", "dark"), samples[1].hash: ("skip", None)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"tasks": []}', "expected a list of tasks"),
        ("[1]", "task 0: no task of Label Studio"),
        ('[{"id": 3, "image": "x.png", "choice": "dark"}]', "task 3: .*Export the project as JSON, not as JSON-MIN"),
        ([task("unknown")], "1 of 1 samples are not in the pool, the first is 'unknown'"),
        ([task(choices=["wasp"], image="photo_00.png")], "task 7: The label 'wasp' is none of the classes"),
        ([task(choices=["dark", "bright"])], r"task 7: There are 2 choices \['dark', 'bright'\]"),
        ([{**task(), "data": {"number": 3}}], "task 7: its data name no picture"),
        ([{**task(), "data": {"image": "../../etc/passwd"}}], "1 of 1 samples are not in the pool"),
    ],
)
def test_wrong_json_is_refused(store, samples, tmp_path, content, words):
    text = content if isinstance(content, str) else json.dumps(content)
    refused(store, write(tmp_path / "t.json", text), words)


@pytest.mark.parametrize("junk", [5, "x", [5], [{"result": 5}], [{"result": [{"value": {"choices": "dark"}}]}]])
def test_annotations_of_another_kind_say_nothing(store, samples, tmp_path, junk):
    tasks = [{"data": {"torchloops_sample": samples[0].hash}, "annotations": junk}]
    assert import_labels(store, write(tmp_path / "t.json", json.dumps(tasks))) == 0
