"""Code whose imports were changed: every public name of Lightning's module, data module and callback is there."""

import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchloops import Callback, CSVLogger, DataModule, LoopModule, Trainer
from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.module_hooks import DataHooks, ModuleHooks

pl = pytest.importorskip("pytorch_lightning")

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(pl.LightningModule, LoopModule), (pl.LightningDataModule, DataModule), (pl.Callback, Callback)],
    ids=["module", "data", "callback"],
)
def test_every_public_name_is_there(theirs, ours):
    known = public(ours)
    # what a name is for hyper-parameters that older files pickled
    assert public(theirs) - known <= {"CHECKPOINT_HYPER_PARAMS_TYPE"}


class Data:
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(12.0).reshape(6, 2)), batch_size=2)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Plain(LoopModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def module_with_super(base):
    """A module that overrides every hook, calls what it overrides, and notes it."""

    class Net(Data, base):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(2, 1), []

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).mean()

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)

        def test_step(self, batch, batch_idx):
            super().test_step(batch, batch_idx)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

        def forward(self, batch):
            return self.layer(batch[0])

    def calling(name):
        def hook(self, *args, **kwargs):
            self.seen.append(name)
            return getattr(super(Net, self), name)(*args, **kwargs)

        return hook

    loaders = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
    for name in sorted(public(ModuleHooks)):
        if callable(getattr(ModuleHooks, name)) and name not in (*loaders, "configure_sharded_model"):
            setattr(Net, name, calling(name))
    return Net()


@pytest.mark.parametrize("clip", [None, 0.01])
def test_super_of_every_hook_does_what_is_done_without_it(clip):
    weights, orders = [], []
    for base, trainer_type in ((LoopModule, Trainer), (pl.LightningModule, pl.Trainer)):
        torch.manual_seed(0)
        net = module_with_super(base)
        trainer = trainer_type(max_epochs=2, gradient_clip_val=clip, accelerator="cpu", **QUIET)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(net)
            trainer.test(net, verbose=False)
            trainer.predict(net)
        weights.append(net.layer.weight.detach().clone())
        orders.append(set(net.seen))
    assert torch.equal(*weights)
    assert orders[0] == orders[1]


def test_hooks_left_alone_are_no_work():
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(Plain(), Data().train_dataloader())
    called = [name for name in public(ModuleHooks) if trainer.run.hooks(name, last=None)]
    assert called == []
    assert trainer.batch_mover() is None
    assert trainer.fit_loop.epoch_loop.val_loop.skip


def test_the_older_name_of_configure_model_is_called():
    class Net(Plain):
        def __init__(self):
            super().__init__()
            del self.layer

        def configure_sharded_model(self):
            super().configure_sharded_model()
            self.layer = nn.Linear(2, 1)

    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(Net(), Data().train_dataloader())
    assert trainer.global_step == 3


@pytest.mark.parametrize("base", [LoopModule, pl.LightningModule])
def test_no_optimizer_trains_nothing_and_says_so(base, tmp_path):
    class Net(base):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            self.log("loss", loss := self.layer(batch[0]).mean())
            return loss

        def configure_optimizers(self):
            return None

    net = Net()
    before = net.layer.weight.detach().clone()
    trainer = Trainer(max_epochs=1, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="Net.configure_optimizers returned None"):
        trainer.fit(net, Data().train_dataloader())
    assert torch.equal(net.layer.weight, before)
    assert "loss" in trainer.callback_metrics
    again = Trainer(max_epochs=2, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="returned None"):
        again.fit(net, Data().train_dataloader(), ckpt_path="last")
    assert (again.current_epoch, again.global_step, trainer.global_step) == (2, 6, 3)


def test_freeze_unfreeze_dtype_and_ranks():
    net = LoopModule()
    net.layer = nn.Linear(2, 1).double()
    assert (net.dtype, net.device, net.on_gpu) == (torch.float64, torch.device("cpu"), False)
    assert (net.global_rank, net.local_rank, net.fabric, net.device_mesh) == (0, 0, None, None)
    net.freeze()
    assert not net.training
    assert not net.layer.weight.requires_grad
    net.unfreeze()
    assert net.training
    assert net.layer.weight.requires_grad
    assert net.strict_loading
    assert net.example_input_array is None


def test_toggled_optimizer_is_undone_after_an_error():
    class Net(LoopModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.a, self.b, self.seen = nn.Linear(2, 1), nn.Linear(2, 1), []

        def training_step(self, batch, batch_idx):
            first, _ = self.optimizers()
            with self.toggled_optimizer(first):
                self.seen.append((self.a.weight.requires_grad, self.b.weight.requires_grad))
            self.seen.append((self.a.weight.requires_grad, self.b.weight.requires_grad))

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.a, self.b)]

    net = Net()
    Trainer(max_epochs=1, **QUIET).fit(net, Data().train_dataloader())
    assert net.seen == [(True, False), (True, True)] * 3


def test_exports_work_or_say_what_to_use(tmp_path):
    class Net(LoopModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x)

    net = Net()
    with pytest.raises(ConfigurationError, match=r"torch\.export\.export"):
        net.to_torchscript()
    with pytest.raises(ConfigurationError, match="torch_tensorrt"):
        net.to_tensorrt()
    with pytest.raises(ConfigurationError, match="input_sample"):
        net.to_onnx(tmp_path / "net.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net.eval(), (torch.ones(1, 2),)), tmp_path / "net.pt2")
        exported = torch.export.load(tmp_path / "net.pt2").module()
    assert torch.equal(exported(torch.ones(1, 2)), net(torch.ones(1, 2)))
    net.example_input_array = torch.ones(1, 2)
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigurationError, match="pip install onnxscript"):
            net.to_onnx(tmp_path / "net.onnx")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.train().to_onnx(tmp_path / "net.onnx")
        assert (tmp_path / "net.onnx").stat().st_size > 0
        assert net.training


class WithArguments(Data, DataModule):
    def __init__(self, batch_size=2, transform=nn.Identity):
        self.save_hyperparameters()


class TheirsWithArguments(Data, pl.LightningDataModule):
    def __init__(self, batch_size=2, transform=nn.Identity):
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("kind", [WithArguments, TheirsWithArguments])
def test_hyperparameters_of_a_data_module_are_saved_logged_and_taken_back(tmp_path, kind):
    logger = CSVLogger(tmp_path / "logs")
    trainer = Trainer(max_epochs=1, enable_progress_bar=False, default_root_dir=tmp_path / "run", logger=logger)
    trainer.fit(Plain(), datamodule=kind(batch_size=3, transform=nn.Tanh))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    again = kind.load_from_checkpoint(path)
    assert (again.hparams.batch_size, again.hparams.transform) == (3, nn.Tanh)
    assert kind.load_from_checkpoint(path, batch_size=5).hparams["batch_size"] == 5
    assert "batch_size: 3" in next((tmp_path / "logs").rglob("hparams.yaml")).read_text()


def test_a_file_without_them_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="no hyper-parameters of a data module"):
        WithArguments.load_from_checkpoint(tmp_path / "weights.ckpt")


def test_arguments_of_load_from_checkpoint(tmp_path):
    class Net(LoopModule):
        def __init__(self, width=1):
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(2, width)

    wide = Net(3)
    state = {"state_dict": {**wide.state_dict(), "more": torch.ones(1)}, "hyper_parameters": {"width": 2}}
    torch.save(state, tmp_path / "net.ckpt")
    (tmp_path / "hparams.yaml").write_text("width: 3\n")
    with pytest.raises(CheckpointError, match="more"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", None, tmp_path / "hparams.yaml")
    loaded = Net.load_from_checkpoint(tmp_path / "net.ckpt", None, tmp_path / "hparams.yaml", strict=False)
    assert torch.equal(loaded.layer.weight, wide.layer.weight)
    assert loaded.hparams.width == 3
    with pytest.raises(ConfigurationError, match="add_safe_globals"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", weights_only=False)
    with pytest.raises(CheckpointError, match="hparams_file"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", hparams_file=tmp_path / "no.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(CheckpointError, match="names and values"):
        Net.load_from_checkpoint(tmp_path / "net.ckpt", hparams_file=tmp_path / "list.yaml")


@pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")
def test_from_datasets_makes_a_loader_of_each():
    data = TensorDataset(torch.arange(6.0))
    given = (data, [data, data], None, data)
    ours, theirs = (kind.from_datasets(*given, batch_size=4) for kind in (DataModule, pl.LightningDataModule))
    for one in (pickle.loads(pickle.dumps(ours)), ours, theirs):
        torch.manual_seed(0)
        assert [batch[0].tolist() for batch in one.val_dataloader()[1]] == [[0, 1, 2, 3], [4, 5]]
        assert sorted(torch.cat([batch[0] for batch in one.train_dataloader()]).tolist()) == [0, 1, 2, 3, 4, 5]
        assert len(one.val_dataloader()) == 2
        assert one.predict_dataloader().batch_size == 4
    assert ours.test_dataloader() is None
    several = DataModule.from_datasets(train_dataset={"a": data, "b": data}, batch_size=4)
    assert sorted(several.train_dataloader()) == ["a", "b"]


def test_prepare_data_of_one_process_in_all():
    class Prepared(DataHooks):
        def prepare_data(self):
            """Nothing."""

    assert Prepared.prepare_data_per_node
    assert DataModule.prepare_data_per_node
