"""How a selection is shown on a terminal."""

from __future__ import annotations

from distill.terminal import print_cells, print_line
from distill.transfer.select import Selection

COLUMNS = ("candidate", "layers", "expected macro-F1", "95 % interval", "LogME", "H-score", "s", "cached")


def print_selection(selection: Selection) -> None:
    """Print the table, the recommendation, and what else was asked for."""
    rows = [
        (
            one.candidate,
            str(one.layers),
            f"{one.expected_macro_f1:.4f}",
            f"{one.interval[0]:.4f}-{one.interval[1]:.4f}",
            f"{one.log_maximum_evidence:.4f}",
            f"{one.h_score:.4f}",
            f"{one.seconds:.1f}",
            str(one.num_cached),
        )
        for one in selection.ranked
    ]
    print_cells(COLUMNS, rows)
    print_line(f"{selection.words} Ranked on {selection.num_texts} texts.")
    if selection.curve:
        print_cells(("labels", "macro-F1"), [(str(count), f"{score:.4f}") for count, score in selection.curve])
    for suspect in selection.suspects:
        text = " ".join(suspect.text.split())[:80]
        print_line(f"suspect label {suspect.label!r}, likely {suspect.likely!r} ({suspect.confidence:.3f}): {text}")
