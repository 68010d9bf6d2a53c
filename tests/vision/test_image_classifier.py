import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassF1Score

from torchloops import LoopModule, Trainer
from torchloops.errors import ConfigurationError, DataError
from torchloops.module import evaluating
from torchloops.trainer.checkpoint_file import read_checkpoint, write_checkpoint
from torchloops.vision import ImageClassificationData, ImageClassifier, Labels, Logits, Probabilities, optimizers


def digits(count=40, val=20):
    torch.manual_seed(0)
    return ImageClassificationData.from_datasets(
        TensorDataset(torch.rand(count, 1, 8, 8), torch.arange(count) % 10),
        TensorDataset(torch.rand(val, 1, 8, 8), torch.arange(val) % 10),
        TensorDataset(torch.rand(val, 1, 8, 8), torch.arange(val) % 10),
        batch_size=8,
    )


def trainer(tmp_path, **options):
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=tmp_path, **{"max_epochs": 1, **quiet, **options})


def test_page_example_builds():
    head = nn.Sequential(nn.Dropout(p=0.1), nn.Linear(512, 2))
    model = ImageClassifier(backbone="resnet18", head=head, num_classes=2, output=Probabilities())
    assert isinstance(model, LoopModule)
    assert model.head is head
    assert isinstance(model.backbone, nn.Module)
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_own_modules_are_checked_at_first_use():
    own = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    model = ImageClassifier(own, head=nn.Linear(5, 2))
    assert model.num_classes == 2
    with pytest.raises(ConfigurationError, match=r"Sequential gives 6 features, but the head .Linear. takes 5"):
        model(torch.rand(2, 3, 2, 2))
    spatial = ImageClassifier(nn.Identity(), head=nn.Linear(5, 2))
    with pytest.raises(ConfigurationError, match=r"features of shape \(2, 3, 2, 2\)"):
        spatial(torch.rand(2, 3, 2, 2))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model(torch.rand(2, 3, 2, 3))
    own.num_features = 6
    assert ImageClassifier(own, num_classes=4)(torch.rand(2, 3, 2, 2)).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adm"}, 'Did you mean "adam"'),
        ({"lr_scheduler": "cosin"}, 'Did you mean "cosine"'),
        ({"learning_rate": 0}, "positive"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ImageClassifier("mlp", num_classes=10, **options)


def test_it_learns_and_logs(tmp_path):
    data = digits()
    metric = MulticlassF1Score(num_classes=10, average="micro")
    model = ImageClassifier("mlp", num_classes=10, learning_rate=3e-3, metrics={"f1": metric})
    run = trainer(tmp_path, max_epochs=60)
    run.fit(model, datamodule=data)
    names = {"train/loss", "train/accuracy", "train/f1", "val/loss", "val/accuracy", "val/f1"}
    assert names <= set(run.callback_metrics)
    assert float(run.callback_metrics["train/accuracy"]) > 0.5
    assert float(run.callback_metrics["val/f1"]) == pytest.approx(float(run.callback_metrics["val/accuracy"]))
    run.test(model, datamodule=data)
    images, targets = data.test_dataset.source.tensors
    with evaluating(model), torch.no_grad():
        accuracy = (model(images).argmax(1) == targets).float().mean()
    assert float(run.callback_metrics["test/accuracy"]) == pytest.approx(float(accuracy))


@pytest.mark.parametrize(
    ("choice", "kind", "fused"),
    [
        ("adam", torch.optim.Adam, True),
        ("AdamW", torch.optim.AdamW, True),
        ("sgd", torch.optim.SGD, True),
        (lambda params, lr: torch.optim.RMSprop(params, lr=lr), torch.optim.RMSprop, None),
    ],
)
def test_optimizers_by_name_are_fused(tmp_path, choice, kind, fused):
    model = ImageClassifier("mlp", num_classes=10, optimizer=choice, learning_rate=0.01)
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, datamodule=digits())
    (optimizer,) = run.optimizers
    assert isinstance(optimizer, kind)
    assert optimizer.param_groups[0].get("fused") is fused
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_devices_without_a_fused_kernel_get_the_plain_one(monkeypatch):
    def build(parameters, lr, fused=False):
        if fused:
            raise RuntimeError("`fused=True` requires supported devices")
        return torch.optim.Adam(parameters, lr=lr)

    monkeypatch.setitem(optimizers._OPTIMIZERS, "adam", build)
    built = optimizers.build_optimizer("adam", [nn.Parameter(torch.zeros(2))], 0.1)
    assert not built.param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_schedulers_by_name_last_the_whole_run(tmp_path, name):
    model = ImageClassifier("mlp", num_classes=10, lr_scheduler=name, learning_rate=0.1)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=digits())
    assert run.global_step == 10
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-4


def test_scheduler_callables_and_endless_runs(tmp_path):
    model = ImageClassifier(
        "mlp", num_classes=10, lr_scheduler=lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1), learning_rate=0.1
    )
    run = trainer(tmp_path, max_epochs=2)
    run.fit(model, datamodule=digits())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)


def test_number_of_classes_must_fit_the_data(tmp_path):
    with pytest.raises(ConfigurationError, match="data has 10 classes, but the model has num_classes=3"):
        trainer(tmp_path).fit(ImageClassifier("mlp", num_classes=3), datamodule=digits())


def test_batches_that_are_no_pair_are_refused(tmp_path):
    model = ImageClassifier("mlp", num_classes=10)
    with pytest.raises(DataError, match="images, targets"):
        model.training_step(torch.rand(2, 1, 8, 8), 0)


def test_uint8_batches_are_normalised_as_in_training(folder):
    data = ImageClassificationData.from_folders(train_folder=folder / "train", image_size=8)
    model = ImageClassifier("mlp", num_classes=2, backbone_options={"in_features": 192}).eval()
    model.preprocessing = data.preprocessing
    samples = [data.train_dataset_eval[index] for index in range(4)]
    raw = torch.stack([image for image, _ in samples])
    assert torch.equal(model(raw), model(data.collate_fn(samples)[0]))


def test_wrong_normalisation_for_pretrained_weights_warns(tmp_path, folder):
    data = ImageClassificationData.from_folders(train_folder=folder / "train", image_size=8)
    model = ImageClassifier("mlp", num_classes=2, backbone_options={"in_features": 192})
    model._expected_statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.warns(UserWarning, match=r"weights of mlp expect mean=\(0.5, 0.5, 0.5\)"):
        trainer(tmp_path, max_steps=1).fit(model, datamodule=data)


def test_outputs():
    logits = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert Logits()(logits) is logits
    assert torch.allclose(Probabilities()(logits).sum(1), torch.ones(2))
    assert Labels()(logits) == [1, 0]
    assert Labels()(logits, ["ants", "bees"]) == ["bees", "ants"]
    assert Labels(["a", "b"])(logits, ["ants", "bees"]) == ["b", "a"]
    with pytest.raises(ConfigurationError, match="3 classes, but the model has 2 outputs"):
        Labels(["a", "b", "c"])(logits)


def test_checkpoints_hold_head_output_and_preprocessing(tmp_path, folder):
    data = ImageClassificationData.from_folders(train_folder=folder / "train", image_size=8, mean=0.4, std=0.3)
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    model = ImageClassifier("mlp", head, output=Labels(), backbone_options={"in_features": 192})
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "model.pt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.pt")
    assert loaded.classes == ["ants", "bees"]
    assert loaded.preprocessing == data.preprocessing
    assert loaded.output == Labels()
    paths = data.train_dataset.paths
    assert loaded.predict(paths) == model.predict(paths)
    assert torch.equal(loaded.predict(paths, output=Logits()), model.predict(paths, output=Logits()))


class OwnHead(nn.Linear):
    """A head that a checkpoint cannot describe."""


def test_own_parts_are_asked_for_again(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    model = ImageClassifier("mlp", OwnHead(128, 10), optimizer=lambda params, lr: torch.optim.SGD(params, lr=lr))
    run.fit(model, datamodule=digits())
    run.save_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match=r"head of your own, OwnHead.*load_from_checkpoint\(path, head=...\)"):
        ImageClassifier.load_from_checkpoint(tmp_path / "model.pt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.pt", head=OwnHead(128, 10))
    assert torch.equal(loaded.head.weight, model.head.weight)
    with pytest.raises(ConfigurationError, match="optimizer of your own"):
        trainer(tmp_path).fit(loaded, datamodule=digits())


def test_backbone_weights_are_not_needed_to_load(tmp_path):
    torch.save(ImageClassifier("mlp", num_classes=2).backbone.state_dict(), tmp_path / "w.pt")
    model = ImageClassifier("mlp", num_classes=10, weights=tmp_path / "w.pt")
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, datamodule=digits())
    run.save_checkpoint(tmp_path / "model.pt")
    (tmp_path / "w.pt").unlink()
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "model.pt")
    assert torch.equal(loaded.backbone.layers[1].weight, model.backbone.layers[1].weight)


def test_a_checkpoint_does_not_say_which_file_weights_are_read_from(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(ImageClassifier("mlp", num_classes=10), datamodule=digits())
    run.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = read_checkpoint(tmp_path / "model.ckpt")
    checkpoint["hyper_parameters"]["weights"] = str(tmp_path / "elsewhere.pt")
    write_checkpoint(checkpoint, tmp_path / "model.ckpt")
    ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt")  # elsewhere.pt, which is not there, is not missed


def test_model_can_be_copied_and_pickled():
    model = ImageClassifier("mlp", num_classes=10).eval()
    images = torch.rand(2, 1, 8, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))


def test_freezing_keeps_the_backbone_as_it_is(tmp_path, folder):
    data = ImageClassificationData.from_folders(train_folder=folder / "train", image_size=32, batch_size=4)
    model = ImageClassifier("resnet18", num_classes=2)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    weight = model.head.weight.clone()
    trainer(tmp_path, max_steps=2).finetune(model, datamodule=data, strategy="freeze")
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(weight, model.head.weight)
