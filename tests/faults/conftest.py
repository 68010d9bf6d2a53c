"""``FAULTS_KILLS=100 pytest tests/faults``: so many kills a scenario; ``FAULTS_SEED`` draws others."""

import os
import tempfile
from pathlib import Path

import pytest
from driver import Driver
from server import Server

MEMORY = "/dev/shm"  # a disk's fsync would take most of the time, and most of the kills
SURVIVED = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def driver(request):
    """A driver with its server; tells at the end how many kills were survived."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        server = Server()
        made = Driver(server, Path(folder))
        request.config.stash[SURVIVED] = made.survived
        yield made
        server.close()


@pytest.fixture(scope="session")
def kills():
    """Kills a scenario gets."""
    return int(os.environ.get("FAULTS_KILLS", "3"))


@pytest.fixture(scope="session")
def seed():
    """What draws the kills."""
    return int(os.environ.get("FAULTS_SEED", "0"))


def pytest_terminal_summary(terminalreporter, config):
    survived = config.stash.get(SURVIVED, {})
    for name, count in survived.items():
        terminalreporter.write_line(f"{count:6} kills survived  {name}")
    if survived:
        terminalreporter.write_line(f"{sum(survived.values()):6} kills survived in all")
