"""A process that writes labels is killed at a random moment: every label that was acknowledged is there."""

import random
import signal
import subprocess
import sys

from torchloops.annotation import LabelStore, Query

KILLS, LABELS = 50, 1000
WRITER = """
import sys
from torchloops.annotation import Answer, LabelStore
store = LabelStore(sys.argv[1])
print("ready", flush=True)
for index in range(int(sys.argv[2])):
    store.record(Answer(f"{index:08x}", "label", store.classes[index % 2], "Ada"))
    print(index, flush=True)
"""


def test_no_acknowledged_label_is_lost(tmp_path):
    draw, lost, cut = random.Random(0), [], 0
    for kill in range(KILLS):
        file = tmp_path / f"{kill}.sqlite"
        with LabelStore(file) as store:
            store.set_classes(["dark", "bright"])
            store.ask([Query(f"{index:08x}", rank=index) for index in range(LABELS)])
        command = [sys.executable, "-c", WRITER, str(file), str(LABELS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            wanted = draw.randrange(LABELS)
            acknowledged = -1
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged >= wanted:
                    process.send_signal(signal.SIGKILL)
                    break
            rest = process.stdout.read().split()
            acknowledged = max([acknowledged, *(int(line) for line in rest)])
        cut += process.returncode == -signal.SIGKILL
        with LabelStore(file) as store:
            labels = store.labels()
            assert store.database.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert len(labels) <= acknowledged + 2, "at most the one that was being written"
        lost += [
            index for index in range(acknowledged + 1) if labels.get(f"{index:08x}") != ["dark", "bright"][index % 2]
        ]
    assert lost == []
    assert cut >= KILLS * 0.8
