"""The encoder as an ONNX file, for runtimes without PyTorch."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch

from configure import N_MELS
from model.encoder import Encoder
from system.console import UserError
from system.files import replacing

PACKAGES = ("onnx", "onnxscript")  # that torch's exporter works with


def export_onnx(encoder: Encoder, path: Path) -> None:
    """Write the encoder as ONNX: `features` (N, 1, 40, T) float32, any N and T >= 1, to `embedding` (N, 256).

    The input is what feat_extract.fbank.log_mel returns, transposed; the mean over time is subtracted inside. The
    embedding is not normalised. UserError if torch's exporter lacks its packages.
    """
    if any(importlib.util.find_spec(package) is None for package in PACKAGES):
        raise UserError(f"export needs two more packages: pip install {' '.join(PACKAGES)}")
    example = torch.zeros(2, 1, N_MELS, 200)
    dynamic = {0: torch.export.Dim("batch"), 3: torch.export.Dim("frames")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making; parity is tested
        program = torch.onnx.export(
            encoder.cpu().eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=["features"],
            output_names=["embedding"],
            verbose=False,
        )
    assert program is not None  # dynamo=True returns one
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
