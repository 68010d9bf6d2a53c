"""The point "resumes": stop a fit at every safe point, go on in new objects, and end as if nothing had happened."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torchloops.seeding import isolated_generators
from torchloops.testing.case import SEED, Broken, Case, digest, watch_of

__all__ = ["check_resumes"]

_WALL_CLOCK = "seconds"


def check_resumes(case: Case) -> None:
    """Raise `Broken` where a resumed fit ends otherwise than the one that was not stopped."""
    if case.entry != "fit":
        return
    with tempfile.TemporaryDirectory() as folder:
        whole, files = _fit(case, Path(folder, "whole"), SEED)
        for index, file in enumerate(files):
            path = Path(folder, f"stop_{index}.ckpt")
            path.write_bytes(file)
            resumed, _ = _fit(case, Path(folder, str(index)), SEED + 1 + index, path)
            where = f"stopped at safe point {index + 1} of {len(files)} and resumed, it ended with other "
            for what, value in resumed.items():
                if not _same(what, value, whole[what]):
                    raise Broken(
                        f"{where}{what} than the fit that was not stopped. All that a later iteration depends on, and "
                        "all results so far, belong in on_save_checkpoint; on_run_start and reset must not undo it "
                        "while `restarting`."
                    )


def _fit(case: Case, folder: Path, seed: int, checkpoint: Path | None = None) -> tuple[dict[str, Any], list[bytes]]:
    """What a fit ends with, and the checkpoints it wrote; generators start from ``seed``, for a resumed fit any."""
    loop = case.make()
    trainer = case.trainer(loop, enable_checkpointing=True, checkpoint_every="0 seconds", default_root_dir=folder)
    keeper, files = trainer.keeper, []
    save = keeper.save

    def save_and_collect() -> None:
        save()
        assert keeper.path is not None
        files.append(keeper.path.read_bytes())

    keeper.save = save_and_collect  # type: ignore[method-assign]
    module, data, watch = case.module(), case.data(), watch_of(trainer)
    watch.begin()
    with isolated_generators(seed):
        trainer.fit(module, data, ckpt_path=checkpoint)
    watch.take(module)
    metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    state = _without_wall_clock(loop.state_dict())
    return {"weights": watch.weights, "logged values": digest(metrics), "state": digest(state)}, files


def _same(what: str, resumed: Any, whole: Any) -> bool:
    """Of weights at the end of inner fits, a resumed one knows only those that ended after it."""
    return resumed == (whole[-len(resumed) :] if what == "weights" else whole)


def _without_wall_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_wall_clock(item) for key, item in value.items() if _WALL_CLOCK not in str(key)}
    return [_without_wall_clock(item) for item in value] if isinstance(value, list | tuple) else value
