"""A map of enrolled speakers."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from plotting.style import as_text, new_figure, styles
from recognition.speakers import load_speakers
from system.console import UserError


def draw_embeddings(inputs: dict[str, Path]) -> Figure:
    """Draw the enrolled speakers on the plane of the two principal components of their prototypes."""
    ((title, folder),) = inputs.items()
    speakers = load_speakers(folder)
    if len({speaker.digest for speaker in speakers}) > 1:
        raise UserError(f"{folder}: contains speakers of several checkpoints, which no map can show together")
    if len(speakers) < 3:
        raise UserError(f"{folder}: a map needs three speakers or more, this is {len(speakers)}")
    prototypes = np.stack([speaker.prototype for speaker in speakers])
    centre = prototypes.mean(axis=0)
    _, spread, components = np.linalg.svd(prototypes - centre, full_matrices=False)
    shares = 100 * spread**2 / (spread**2).sum()
    figure, (axes,) = new_figure(height=5.2)
    for speaker, prototype, look in zip(speakers, prototypes, styles(len(speakers)), strict=True):
        x, y = (prototype - centre) @ components[:2].T
        recordings = (speaker.embeddings - centre) @ components[:2].T
        for recording in recordings:
            axes.plot([x, recording[0]], [y, recording[1]], color=look["color"], linewidth=0.6)
        axes.plot(*recordings.T, ".", color=look["color"], markersize=4)
        axes.plot(x, y, look["marker"], color=look["color"], markersize=7)
        axes.annotate(as_text(speaker.name), (x, y), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set(title=f"{title}: {len(speakers)} speakers; dots: recordings, large marks: prototypes")
    axes.set(xlabel=f"first component ({shares[0]:.0f} % of the prototypes' variance)")
    axes.set(ylabel=f"second component ({shares[1]:.0f} %)", aspect="equal")
    axes.margins(0.12)
    return figure
