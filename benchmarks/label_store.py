"""The label store and the labelling page over a large pool: how long until the first picture shows, and what it keeps.

    python benchmarks/label_store.py [--files 100000] [--labels 2000]

Prints seconds of each step, with the ratio of the second look at the pool to the first (files that have not changed
are not read again), and how memory grows while labels are given.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import httpx

from torchloops.annotation import Answer, LabelStore, Query, index_pool
from torchloops.annotation.web import LabellingServer

WHO = {"session": "tab", "annotator": "Ada"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=2_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder, "pool")
        make_pool(pool, given.files)
        with LabelStore(Path(folder, "labels.sqlite")) as store:
            store.set_classes(["ant", "bee"])
            measure(store, pool, given.labels)


def make_pool(pool: Path, count: int) -> None:
    """Small PNG files, a thousand in a folder; each differs from the others."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "gray").save(buffer, "PNG")
    for index in range(count):
        place = pool / f"{index // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:06d}.png").write_bytes(buffer.getvalue() + index.to_bytes(4, "big"))


def measure(store: LabelStore, pool: Path, n_labels: int) -> None:
    first = timed("first look at the pool", lambda: index_pool(store, pool))
    second = timed("second look", lambda: index_pool(store, pool))
    print(f"{'':>34}   ratio second / first {second / first:.2f}")
    samples = index_pool(store, pool)
    queries = [Query(sample.hash, sample.paths[0], 0, rank) for rank, sample in enumerate(samples[:n_labels])]
    del samples
    with LabellingServer(store) as server, httpx.Client(base_url=server.address) as client:
        start = time.perf_counter()
        store.ask(queries[:20])
        client.get("/")
        state = client.get("/api/state", params=WHO).json()
        client.get(f"/picture/{state['next'][0]['sample']}")
        print(f"{'from 20 questions to the picture':>34} {time.perf_counter() - start:8.3f} s")
    store.ask(queries)
    before = memory()
    start = time.perf_counter()
    for query in queries:
        store.take("tab", "Ada")
        store.record(Answer(query.sample, "label", "bee", "Ada", 1.0))
    each = (time.perf_counter() - start) / n_labels
    print(
        f"{'a label (take and record)':>34} {1000 * each:8.2f} ms, memory +{memory() - before:.0f} MiB after {n_labels}"
    )
    print(f"{'largest memory':>34} {memory():8.0f} MiB")


def timed(name: str, function) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    print(f"{name:>34} {seconds:8.2f} s")
    return seconds


def memory() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
