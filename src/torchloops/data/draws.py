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
    at least as many seats as classes, every class gets one or more. With fewer seats than classes, that many
    different classes are drawn at random and get one each.

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
    """Seats per class, ``count`` in all: in proportion to size, one or more each, never above a limit."""
    tie_break = torch.rand(len(sizes), generator=generator).tolist()
    open_classes = [k for k, limit in enumerate(limits) if limit > 0]
    if count < len(open_classes):
        chosen = set(sorted(open_classes, key=lambda k: tie_break[k])[:count])
        return [int(k in chosen) for k in range(len(sizes))]
    quotas = [count * size / sum(sizes) for size in sizes]
    seats = [min(max(int(quota), 1), limit) for quota, limit in zip(quotas, limits, strict=True)]
    while sum(seats) != count:
        step = 1 if sum(seats) < count else -1
        movable = [k for k in open_classes if (seats[k] < limits[k] if step > 0 else seats[k] > 1)]
        seats[max(movable, key=lambda k: (step * (quotas[k] - seats[k]), tie_break[k]))] += step
    return seats
