"""A small network that trains fast on any processor, for tests that do not depend on its size."""

import contextlib
from collections.abc import Iterator

import pytest

from model import encoder


@contextlib.contextmanager
def small_network(backbone: str) -> Iterator[pytest.MonkeyPatch]:
    """Let a backbone's name stand, in this process, for a network of four thin blocks.

    Not thinner: with 8 channels, torch 2.13's bfloat16 convolutions in channels-last order corrupt the memory.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder.BACKBONES, backbone, encoder.Layout(encoder.BasicBlock, (1, 1, 1, 1)))
        patch.setattr(encoder, "WIDTHS", (16, 16, 16, 16))
        yield patch
