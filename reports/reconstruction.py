"""The paper's reconstructions by VAEs, to stand beside ours."""

from __future__ import annotations

from reports.markup import Cell, Table
from reports.published import load_published


def published_reconstruction() -> Table:
    """Rows of the paper's table of VAE reconstruction, and what differs from the protocol `roundtrip`."""
    printed = load_published().table("vae_reconstruction")
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    header = [
        f"{metric.name}{', ' + metric.unit if metric.unit else ''}{arrows[metric.better]}" for metric in printed.metrics
    ]
    where = ", ".join(f"{load_published().works[source.work].title}, {source.where}" for source in printed.source)
    return Table(
        id="published",
        title="As published, by another protocol",
        header=["Method", *header],
        rows=[[Cell(row.name), *(Cell(f"{value:g}") for value in row.values)] for row in printed.rows],
        caption=f"{where}, on complex meshes of Objaverse. {' '.join(printed.notes)} "
        "Above: other meshes, in a cube of side 2, distances to the surface itself, CD the mean of "
        "both directions. Read orders of magnitude from these rows, not ranks.",
    )
