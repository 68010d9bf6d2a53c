import os
import signal

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # in the background of a shell; processes that tests start heed it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow each other down on a busy machine

import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # processes that tests start compute with as many threads as this one


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same generators, and leaves torch's global switches as they were."""
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_grad_enabled(True)


@pytest.fixture
def make_trainer(tmp_path):
    """``make_trainer(**arguments)``: a Trainer on the CPU that writes nothing and shows nothing, unless told to."""
    from torchloops import Trainer

    def make(**arguments):
        quiet = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(**{**quiet, **arguments})

    return make
