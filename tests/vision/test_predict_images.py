import pytest
import torch
from conftest import draw
from PIL import Image
from torchvision.transforms import v2

from torchloops import Trainer
from torchloops.errors import ConfigurationError, DataError
from torchloops.vision import ImageClassificationData, ImageClassifier, Labels, Logits
from torchloops.vision.preprocessing import Preprocessing


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ImageClassifier("mlp", num_classes=2, backbone_options={"in_features": 192})
    model.preprocessing = Preprocessing.create(8, 0.5, 0.25)
    model.classes = ["ants", "bees"]
    return model


def test_every_kind_of_input_gives_the_same(folder, model, monkeypatch):
    path = folder / "val" / "ants" / "0.jpg"
    draw(path, seed=9)
    with Image.open(path) as picture:
        picture.load()
    path.unlink()
    path = path.with_suffix(".png")
    picture.save(path)
    expected = model.predict(path)
    assert expected.shape == (2,)
    assert expected.sum() == pytest.approx(1)
    monkeypatch.setenv("HOME", str(folder))
    tensor = v2.functional.pil_to_tensor(picture)
    ready = model.preprocessing.normalise(model.preprocessing.eval_transform()(tensor)[None])
    for same in (str(path), "~/val/ants/0.png", picture, tensor, ready[0]):
        assert torch.equal(model.predict(same), expected)
    for many in ([path], (picture, path), path.parent, [path.parent, tensor], tensor[None], ready):
        rows = model.predict(many)
        assert rows.ndim == 2
        torch.testing.assert_close(rows, expected.expand_as(rows))


def test_folders_are_read_sorted_and_in_batches(folder, model):
    for name in ("b.png", "a.png", "deep/c.png"):
        draw(folder / "pool" / name, seed=len(name) + ord(name[0]))
    paths = [folder / "pool" / name for name in ("a.png", "b.png", "deep/c.png")]
    together = model.predict(folder / "pool", batch_size=2, output=Logits())
    torch.testing.assert_close(together, torch.stack([model.predict(path, output=Logits()) for path in paths]))


def test_labels_are_names(folder, model):
    path = folder / "val" / "ants" / "0.jpg"
    chosen = model.predict(path, output=Labels())
    assert chosen in ("ants", "bees")
    assert model.predict([path, path], output=Labels()) == [chosen, chosen]


def test_modes_and_gradients_are_left_as_they_were(folder, model):
    model.train()
    model.backbone.eval()
    path = folder / "val" / "ants" / "0.jpg"
    modes = [module.training for module in model.modules()]
    assert not model.predict(path).requires_grad
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(model.predict(path), model.predict(path))
    with pytest.raises(DataError):
        model.predict(folder / "gone.png")
    assert [module.training for module in model.modules()] == modes


def test_unusable_inputs_are_named(folder, model):
    (folder / "text.jpg").write_text("no image")
    (folder / "empty").mkdir()
    cases = {
        r"gone\.png": folder / "gone.png",
        r"text\.jpg is not a readable image": [folder / "val" / "ants" / "0.jpg", folder / "text.jpg"],
        "no image to predict": folder / "empty",
        "got int": [3],
        "one shape": [torch.rand(3, 8, 8), torch.rand(3, 8, 9)],
    }
    for message, inputs in cases.items():
        with pytest.raises(DataError, match=message):
            model.predict(inputs)
    with pytest.raises(DataError, match="no image to predict"):
        model.predict([])


def test_unknown_preprocessing_is_an_error(folder):
    model = ImageClassifier("mlp", num_classes=2)
    assert model.predict(torch.rand(5, 1, 8, 8)).shape == (5, 2)
    with pytest.raises(ConfigurationError, match="does not know how to turn a picture"):
        model.predict(folder / "val" / "ants" / "0.jpg")


def test_own_transforms_are_remembered_but_not_saved(tmp_path, folder):
    own = v2.Resize((8, 8))
    data = ImageClassificationData.from_folders(
        train_folder=folder / "train", image_size=8, eval_transform=own, batch_size=2
    )
    model = ImageClassifier("mlp", num_classes=2, backbone_options={"in_features": 192})
    trainer = Trainer(
        max_steps=1, default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    path = data.train_dataset.paths[0]
    expected = model.predict(path)
    trainer.save_checkpoint(tmp_path / "model.pt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match="transform=eval_transform"):
        loaded.predict(path)
    assert torch.equal(loaded.predict(path, transform=own), expected)


def test_grey_models_read_files_as_grey(folder):
    model = ImageClassifier("mlp", num_classes=2)
    model.preprocessing = Preprocessing.create(8, None, None, channels=1)
    assert model.predict(folder / "val" / "ants" / "0.jpg").shape == (2,)


def test_trainer_predicts_a_folder(tmp_path, folder, model):
    data = ImageClassificationData.from_folders(predict_folder=folder / "val", image_size=8, mean=0.5, std=0.25)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    outputs = trainer.predict(model, datamodule=data)
    torch.testing.assert_close(torch.cat(outputs), model.predict(data.predict_dataset.paths))


def test_resnet_trains_on_ants_and_bees(tmp_path, hymenoptera):
    data = ImageClassificationData.from_folders(train_folder=hymenoptera / "train", batch_size=2, image_size=64)
    head = torch.nn.Sequential(torch.nn.Dropout(p=0.1), torch.nn.Linear(512, data.num_classes))
    model = ImageClassifier(backbone="resnet18", head=head, num_classes=data.num_classes)
    trainer = Trainer(max_steps=2, default_root_dir=tmp_path, accelerator="cpu", logger=False)
    trainer.finetune(model, datamodule=data, strategy="freeze")
    picture = hymenoptera / "val" / "bees" / "65038344_52a45d090d.jpg"
    probabilities = model.predict(picture)
    assert probabilities.sum() == pytest.approx(1)
    trainer.save_checkpoint(tmp_path / "image_classification_model.pt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "image_classification_model.pt")
    assert torch.equal(loaded.predict(picture), probabilities)
    assert loaded.predict(picture, output=Labels()) in ("ants", "bees")
