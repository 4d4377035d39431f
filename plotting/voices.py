"""A map of enrolled speakers."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from plotting.style import as_text, new_figure, styles
from recognition.speakers import load_voices
from system.console import UserError


def draw_embeddings(inputs: dict[str, Path]) -> Figure:
    """Draw the enrolled speakers on the plane in which their prototypes differ most (principal components)."""
    ((title, folder),) = inputs.items()
    voices = load_voices(folder)
    if len({voice.digest for voice in voices}) > 1:
        raise UserError(f"{folder}: holds voices of several checkpoints, which no map can show together")
    if len(voices) < 3:
        raise UserError(f"{folder}: a map needs three speakers or more, this is {len(voices)}")
    prototypes = np.stack([voice.prototype for voice in voices])
    centre = prototypes.mean(axis=0)
    _, spread, components = np.linalg.svd(prototypes - centre, full_matrices=False)
    shares = 100 * spread**2 / (spread**2).sum()
    figure, (axes,) = new_figure(height=5.2)
    for voice, prototype, look in zip(voices, prototypes, styles(len(voices)), strict=True):
        x, y = (prototype - centre) @ components[:2].T
        recordings = (voice.embeddings - centre) @ components[:2].T
        for recording in recordings:
            axes.plot([x, recording[0]], [y, recording[1]], color=look["color"], linewidth=0.6)
        axes.plot(*recordings.T, ".", color=look["color"], markersize=4)
        axes.plot(x, y, look["marker"], color=look["color"], markersize=7)
        axes.annotate(as_text(voice.name), (x, y), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set(title=f"{title}: {len(voices)} speakers; dots: recordings, large marks: prototypes")
    axes.set(xlabel=f"first component ({shares[0]:.0f} % of the prototypes' variance)")
    axes.set(ylabel=f"second component ({shares[1]:.0f} %)", aspect="equal")
    axes.margins(0.12)
    return figure
