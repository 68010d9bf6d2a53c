"""The active-learning demo of Lightning's Loops page, imports renamed, on the photographs it downloads."""

from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "hymenoptera_data"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the ants and bees photographs in ../shared/data")
def test_demo_of_the_page(tmp_path, monkeypatch, capsys):
    from torchloops import (
        ActiveLearningDataModule,
        ActiveLearningLoop,
        ImageClassificationData,
        ImageClassifier,
        Probabilities,
        Trainer,
        seed_everything,
    )

    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/hymenoptera_data").symlink_to(DATA)
    seed_everything(0)

    # 1. the data
    datamodule = ActiveLearningDataModule(
        ImageClassificationData.from_folders(train_folder="data/hymenoptera_data/train/", batch_size=2),
        initial_num_labels=5,
        val_split=0.1,
    )

    # 2. the task
    head = torch.nn.Sequential(
        torch.nn.Dropout(p=0.1),
        torch.nn.Linear(512, datamodule.num_classes),
    )
    model = ImageClassifier(backbone="resnet18", head=head, num_classes=datamodule.num_classes, output=Probabilities())
    backbone_before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    head_before = head[1].weight.detach().clone()

    # 3.1 the trainer
    trainer = Trainer(max_epochs=3)

    # 3.2 the loop
    active_learning_loop = ActiveLearningLoop(label_epoch_frequency=1)
    active_learning_loop.connect(trainer.fit_loop)
    trainer.fit_loop = active_learning_loop

    # 3.3 fine-tune
    with pytest.warns(UserWarning, match="validation"):
        trainer.finetune(model, datamodule=datamodule, strategy="freeze")

    # 4. predict
    predictions = model.predict("data/hymenoptera_data/val/bees/65038344_52a45d090d.jpg")
    print(predictions)

    # 5. save
    trainer.save_checkpoint("image_classification_model.pt")

    assert len(active_learning_loop.rounds) == 3
    assert active_learning_loop.rounds["n_labelled"].tolist() == [5, 6, 7]
    assert active_learning_loop.queries["sample_id"].is_unique
    assert all(torch.equal(value, backbone_before[name]) for name, value in model.backbone.named_parameters())
    assert not torch.equal(head[1].weight, head_before)
    probabilities = torch.as_tensor(predictions).flatten()
    assert probabilities.numel() == 2
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)

    loaded = ImageClassifier.load_from_checkpoint("image_classification_model.pt")
    again = loaded.predict("data/hymenoptera_data/val/bees/65038344_52a45d090d.jpg")
    assert torch.allclose(torch.as_tensor(again).flatten(), probabilities, atol=1e-6)
