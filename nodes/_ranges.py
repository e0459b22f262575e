"""The start_percent and end_percent inputs, which mean the same in every node that has them."""

from __future__ import annotations

from ._api import io


def percent_inputs(effect: str) -> list:
    """The two inputs; `effect` names what they switch on and off, for the tooltips."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=f"Where in the noise schedule {effect} begins: 0 is pure noise, 1 the finished picture.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=f"Where in the noise schedule {effect} ends: 1 keeps it to the last step.",
        ),
    ]


def check_range(node: str, start_percent: float, end_percent: float) -> None:
    """Raise ValueError, naming the node, for a range outside 0 to 1 or one that ends before it starts."""
    for name, value in (("start_percent", start_percent), ("end_percent", end_percent)):
        if not 0 <= value <= 1:
            raise ValueError(f"{node}: {name} is {value:g}; it must lie between 0 and 1")
    if start_percent > end_percent:
        raise ValueError(
            f"{node}: start_percent {start_percent:g} is after end_percent {end_percent:g}, so nothing would happen; "
            "swap them"
        )
