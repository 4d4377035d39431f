"""The encoder as an ONNX file, for runtimes without PyTorch."""

import importlib.util
from pathlib import Path

import torch

from configure import N_MELS, SAMPLE_RATE
from feat_extract import fbank
from model.encoder import EMBEDDING_SIZE, Encoder
from system.console import UserError
from system.files import replacing


def export_onnx(encoder: Encoder, path: Path, digest: str) -> None:
    """Write the encoder as ONNX: `features` (N, 1, 40, T) float32, any N and T >= 1, to `embedding` (N, 256).

    The input is the transpose of what feat_extract.fbank.log_mel returns. The network subtracts its mean over time. The
    embedding is not normalised. The metadata of the file describe input and output, and contain `digest`, the SHA-256
    of the checkpoint. UserError if a package that torch's exporter needs is not installed.
    """
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript")):
        raise UserError("export to ONNX needs more packages: pip install -r requirements-export.txt")
    example = torch.zeros(2, 1, N_MELS, 200)
    dynamic = {0: torch.export.Dim("batch"), 3: torch.export.Dim("frames")}
    program = torch.onnx.export(
        encoder,
        (example,),
        dynamo=True,
        dynamic_shapes=(dynamic,),
        input_names=["features"],
        output_names=["embedding"],
        verbose=False,
    )
    assert program is not None  # with dynamo=True, a program is returned
    program.model.metadata_props.update(
        {
            "features": "log mel energies, 20 log10(energy), as feat_extract.fbank.log_mel returns them, transposed",
            "n_mels": str(N_MELS),
            "sample_rate": str(SAMPLE_RATE),
            "sample_scale": "int16",
            "window_ms": f"{1000 * fbank.WINDOW / SAMPLE_RATE:g}",
            "step_ms": f"{1000 * fbank.STEP / SAMPLE_RATE:g}",
            "mean_subtraction": "over time, inside the network",
            "embedding_size": str(EMBEDDING_SIZE),
            "embedding_normalised": "no",
            "checkpoint_sha256": digest,
        }
    )
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
