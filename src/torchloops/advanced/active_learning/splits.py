"""Seeded draws of samples that keep the classes' shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["draw_samples"]


def draw_samples(
    sample_ids: Sequence[int],
    count: int,
    generator: torch.Generator,
    labels: Sequence[int] | None = None,
    leave_one: bool = False,
) -> list[int]:
    """Draw ``count`` different ids; stratified where labels are given.

    Stratified means: classes get seats in proportion to their size (largest remainder), and where there are
    at least as many seats as classes, every class gets one or more. With fewer seats than classes, classes
    are drawn at random in proportion to nothing: each at most once.

    Args:
        sample_ids: ids to draw from.
        count: how many; at most ``len(sample_ids)``.
        generator: source of randomness.
        labels: class of every id in ``sample_ids``; None: a plain random draw.
        leave_one: leave at least one sample of every class behind, as far as ``count`` allows.

    Returns:
        The drawn ids, ascending.
    """
    if labels is None:
        order = torch.randperm(len(sample_ids), generator=generator)[:count].tolist()
        return sorted(sample_ids[i] for i in order)
    members: dict[int, list[int]] = {}
    for sample_id, label in zip(sample_ids, labels, strict=True):
        members.setdefault(int(label), []).append(sample_id)
    classes = sorted(members)
    sizes = [len(members[label]) for label in classes]
    limits = [max(size - 1, 0) for size in sizes] if leave_one else sizes
    if sum(limits) < count:
        limits = sizes
    seats = _share_out(sizes, limits, count, generator)
    drawn: list[int] = []
    for label, number in zip(classes, seats, strict=True):
        order = torch.randperm(len(members[label]), generator=generator)[:number].tolist()
        drawn.extend(members[label][i] for i in order)
    return sorted(drawn)


def _share_out(sizes: list[int], limits: list[int], count: int, generator: torch.Generator) -> list[int]:
    """Seats per class: one each where there are enough, the rest by largest remainder, never above a limit."""
    total = sum(sizes)
    open_classes = sum(limit > 0 for limit in limits)
    seats = [int(limit > 0) if count >= open_classes else 0 for limit in limits]
    tie_break = torch.rand(len(sizes), generator=generator).tolist()
    while sum(seats) < count:
        lacking = [count * size / total - seat for size, seat in zip(sizes, seats, strict=True)]
        candidates = [k for k in range(len(sizes)) if seats[k] < limits[k]]
        if count < open_classes:
            candidates = [k for k in candidates if seats[k] == 0]
            best = max(candidates, key=lambda k: tie_break[k])
        else:
            best = max(candidates, key=lambda k: (lacking[k], tie_break[k]))
        seats[best] += 1
    return seats
