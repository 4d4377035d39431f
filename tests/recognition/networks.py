"""Small untrained networks, and a calibration whose LLRs can be computed by hand."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from evaluation.calibration import Calibration
from feat_extract.fbank import log_mel
from model.checkpoint import Checkpoint, save_checkpoint, state_dict_of
from model.encoder import Encoder

CALIBRATION = Calibration(-2.0, (2.5, -0.2, 0.1, 0.4, 0.5), (0.8, 2.0), (0.6, 1.5), 9000, 9000)


def write_checkpoint(path: Path, seed: int, spread: Iterable[np.ndarray] = ()) -> None:
    """Write an untrained network; embeddings of the `spread` samples, of equal length, point in all directions."""
    torch.manual_seed(seed)
    encoder = Encoder("resnet18")
    if features := [log_mel(samples).T for samples in spread]:
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.inference_mode():
            encoder.train()(torch.from_numpy(np.stack(features)[:, None]))
    save_checkpoint(path, Checkpoint(1, state_dict_of(encoder, None), speakers=["id00001"], data_type="vox2"))


def ratio(score: float, enrolment: float, test: float) -> float:
    """Return the LLR of CALIBRATION, computed from its coefficients."""
    z, e, t = (
        np.arctanh(np.clip(score, -0.999, 0.999)),
        np.log(np.clip(enrolment, 0.8, 2)),
        np.log(np.clip(test, 0.6, 1.5)),
    )
    return float(np.clip(-2 + 2.5 * z - 0.2 * e + 0.1 * t + 0.4 * z * e + 0.5 * z * t, -np.log(9001), np.log(9001)))
