import pytest
import torch
from torch import nn

from torchloops.errors import ConfigurationError
from torchloops.vision import ImageClassifier
from torchloops.vision.weights import load_weights


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_many_shapes_load(tmp_path, wrap, prefix):
    state = {f"{prefix}{name}": value for name, value in net().state_dict().items()}
    torch.save(wrap({**state, f"{prefix}classifier.weight": torch.ones(2, 3)}), tmp_path / "w.pt")
    target = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    load_weights(target, tmp_path / "w.pt", ignore=("classifier.",))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in net().state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    cases = {
        r"missing \(1\): 1.bias\n  unexpected \(1\): other": {
            **{k: v for k, v in net().state_dict().items() if k != "1.bias"},
            "other": torch.ones(1),
        },
        r"other shapes than the net: 0.bias \(expected \(3,\), got \(7,\)\)": {
            **net().state_dict(),
            "0.bias": torch.ones(7),
        },
        "holds no state dict": {"a": 1},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ConfigurationError, match=message):
            load_weights(net(), tmp_path / "w.pth", name="the net")


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_could_run_code_are_refused(tmp_path, capsys):
    torch.save({"weight": Hostile()}, tmp_path / "w.pt")
    with pytest.raises(ConfigurationError, match="could run code"):
        load_weights(net(), tmp_path / "w.pt")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04damaged")
    with pytest.raises(ConfigurationError, match=rf"{name} is not a readable|could run code"):
        load_weights(net(), tmp_path / name)
    with pytest.raises(ConfigurationError, match=f'no weights ".*none_{name}" of the net'):
        load_weights(net(), tmp_path / f"none_{name}", name="the net")


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(net().state_dict(), tmp_path / "w.pt")
    load_weights(net(), "~/w.pt")


def test_the_backbone_of_a_saved_classifier_is_used(tmp_path):
    model = ImageClassifier("mlp", num_classes=10)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.ckpt")
    other = ImageClassifier("mlp", num_classes=3, weights=tmp_path / "model.ckpt")
    assert torch.equal(other.backbone.layers[1].weight, model.backbone.layers[1].weight)


def test_real_timm_weights_recognise_nothing_else(lite0_weights):
    pytest.importorskip("timm")
    model = ImageClassifier("tf_efficientnet_lite0", num_classes=2, weights=lite0_weights)
    assert model.head.in_features == 1280
    with pytest.raises(ConfigurationError, match="Give the file of resnet18"):
        ImageClassifier("resnet18", num_classes=2, weights=lite0_weights)
