"""The order of classes, which numbers them, and of two says which one the F1 is of."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence


def usual_order(names: Collection[str]) -> list[str]:
    """Numbers by value, or else names by the alphabet."""
    return sorted(names, key=int if all(re.fullmatch("-?[0-9]+", name) for name in names) else str)


def in_order_of(orders: Sequence[Sequence[str]], names: Sequence[str]) -> list[str]:
    """The names in the first of some orders that has all of them, as it stands or but for case; else as they are.

    Args:
        orders: names, of which each may have more.
        names: those to bring into order.
    """
    for order in orders:
        for folded in (str, str.lower):
            places = {folded(name): place for place, name in reversed(list(enumerate(order)))}
            keys = [folded(name) for name in names]
            if len(set(keys)) == len(keys) and places.keys() >= set(keys):
                return sorted(names, key=lambda name: places[folded(name)])
    return list(names)
