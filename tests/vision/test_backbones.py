import pytest
import torch
from torch import nn
from torchvision import models

from torchloops.errors import ConfigurationError, MissingDependencyError
from torchloops.vision.backbones import build_backbone
from torchloops.vision.heads import build_head
from torchloops.vision.pretrained import _extra, _take_off_classifier, torchvision_names

SMALLEST = {  # one of every family of torchvision, with its features and an input it takes
    "alexnet": (4096, 64),
    "convnext_tiny": (768, 32),
    "densenet121": (1024, 32),
    "efficientnet_b0": (1280, 32),
    "googlenet": (1024, 64),
    "inception_v3": (2048, 80),
    "mnasnet0_5": (1280, 32),
    "mobilenet_v2": (1280, 32),
    "mobilenet_v3_small": (1024, 32),
    "regnet_y_400mf": (440, 32),
    "resnet18": (512, 32),
    "shufflenet_v2_x0_5": (1024, 32),
    "squeezenet1_1": (512, 64),
    "swin_t": (768, 32),
}


def test_every_model_of_torchvision_loses_its_classifier():
    regnets = [name for name in torchvision_names() if name.startswith("regnet")]  # cannot be built without memory
    for name in set(torchvision_names()) - set(regnets):
        with torch.device("meta"):
            model = models.get_model(name, **_extra(name))
        classifier, features = _take_off_classifier(model, name)
        assert features >= 320, name
        assert isinstance(model.get_submodule(classifier), nn.Identity), name
        left = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert not any(1000 in layer.weight.shape for layer in left), name


@pytest.mark.parametrize("name", SMALLEST)
def test_torchvision_models_give_features(name):
    features, size = SMALLEST[name]
    built = build_backbone(name)
    assert built.num_features == features
    with torch.no_grad():
        assert built.module.eval()(torch.rand(2, 3, size, size)).shape == (2, features)


def test_small_networks_give_features():
    mlp = build_backbone("mlp")
    assert mlp.module(torch.rand(2, 1, 8, 8)).shape == (2, mlp.num_features) == (2, 128)
    cnn = build_backbone("small_cnn", options={"image_size": 8, "in_channels": 3})
    assert cnn.module(torch.rand(2, 3, 8, 8)).shape == (2, cnn.num_features)
    with pytest.raises(ConfigurationError, match=r"\"in_features\": 784"):
        mlp.module(torch.rand(2, 1, 28, 28))
    with pytest.raises(ConfigurationError, match=r"got \(2, 1, 28, 28\)"):
        cnn.module(torch.rand(2, 1, 28, 28))
    with pytest.raises(ConfigurationError, match="8x8 pixels"):
        build_backbone("small_cnn", options={"image_size": 4})


def test_gal_network_has_its_published_size():
    cnn = build_backbone("small_cnn")
    head, _ = build_head(None, cnn.num_features, 10, "small_cnn")
    parameters = sum(p.numel() for p in (*cnn.module.parameters(), *head.parameters()))
    assert parameters == (16 * 32 + 32) + (32 * 32 * 16 + 32) + (32 * 11 * 11 * 128 + 128) + (128 * 10 + 10)


def test_timm_models_give_features():
    pytest.importorskip("timm")
    plain = build_backbone("tf_efficientnet_lite0")
    assert plain.num_features == 1280
    with torch.no_grad():
        assert plain.module.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 1280)
        hidden = build_backbone("mobilenetv3_small_050")
        assert hidden.module.eval()(torch.rand(1, 3, 32, 32)).shape == (1, hidden.num_features)
    assert type(build_backbone("timm/resnet18").module).__module__.startswith("timm")
    assert type(build_backbone("resnet18").module).__module__.startswith("torchvision")


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigurationError, match=r'no backbone "resnet19".*Did you mean "resnet18"'):
        build_backbone("resnet19")
    with pytest.raises(ConfigurationError, match=r"backbone_options: .*colour"):
        build_backbone("mlp", options={"colour": 1})
    with pytest.raises(ConfigurationError, match=r"backbone_options: .*colour"):
        build_backbone("resnet18", options={"colour": 1})
    with pytest.raises(ConfigurationError, match="given by name"):
        build_backbone(nn.Flatten(), options={"colour": 1})


def test_without_timm_its_names_say_how_to_install_it(monkeypatch):
    monkeypatch.setattr("torchloops.vision.pretrained.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigurationError, match=r'pip install "torchloops\[timm\]"'):
        build_backbone("tf_efficientnet_lite0")
    with pytest.raises(MissingDependencyError, match=r'pip install "torchloops\[timm\]"'):
        build_backbone("timm/tf_efficientnet_lite0")


def test_failed_downloads_say_what_to_do(monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(ConfigurationError, match=r"resnet18 could not be built: OSError: no network\n.*weights=<path"):
        build_backbone("resnet18", "DEFAULT")
    with pytest.raises(ConfigurationError, match="no pretrained weights of mlp"):
        build_backbone("mlp", "DEFAULT")


def test_pretrained_weights_tell_their_normalisation(monkeypatch):
    state = build_backbone("resnet18").module.state_dict()
    full = {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **o: full)
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        built = build_backbone("resnet18", weights)
        assert built.mean == (0.485, 0.456, 0.406)
        assert all(torch.equal(value, state[name]) for name, value in built.module.state_dict().items())


def test_head_must_fit():
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, 2))
    head.train()
    assert build_head(head, 512, None, "resnet18") == (head, 2)
    assert all(layer.training for layer in head.modules())
    cases = {
        "gives 512 features, but the head .Linear. takes 100": (nn.Linear(100, 2), 512, 2),
        "has 2 outputs, but num_classes=3": (nn.Linear(512, 2), 512, 3),
        "Neither head nor num_classes": (None, 512, None),
        "num_classes must be 2 or more": (None, 512, 1),
        "number of features of the backbone net is not known": (None, None, 2),
        "cannot be read off this head": (nn.Identity(), None, None),
        "gives 3 dimensions": (nn.Unflatten(1, (2, 256)), 512, 2),
    }
    for message, (part, features, classes) in cases.items():
        with pytest.raises(ConfigurationError, match=message):
            build_head(part, features, classes, "net")
