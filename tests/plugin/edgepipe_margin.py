"""A step for int8 recipes: every range a tenth wider, for images brighter than those it knows."""

from dataclasses import replace


class Margin:
    """Use it behind a step that chooses ranges: ``--recipe least-squares,margin``."""

    name = "margin"

    def apply(self, draft, data):
        ranges = {name: (1.1 * low, 1.1 * high) for name, (low, high) in draft.ranges.items()}
        return replace(draft, ranges=ranges)
