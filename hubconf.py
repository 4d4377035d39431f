"""Entry points for torch.hub: the recogniser and its encoder, with the weights of the bundled model.

    recognizer = torch.hub.load("/path/to/this/repository", "recognizer", source="local")
    embedding = recognizer.embed(waveform, 16000)  # (256,) of unit length

docs/recognition.md, "From Python", describes them.
"""

# Only modules are imported here: torch.hub.list would list imported classes and functions as entry points.
import importlib.machinery
import pathlib
import sys
import typing

if typing.TYPE_CHECKING:
    from model.encoder import Encoder
    from recognition.recognizer import Recognizer

dependencies = ["torch", "numpy", "scipy", "soundfile", "av", "tqdm"]

_ROOT = pathlib.Path(__file__).resolve().parent
# The top-level modules of this project that the entry points import; tests/recognition/test_hub.py checks the list.
_MODULES = ("configure", "dataset", "evaluation", "feat_extract", "loss", "model", "recognition", "system")


def recognizer(checkpoint: str | pathlib.Path | None = None, device: str = "auto") -> "Recognizer":
    """Return a speaker recogniser, which maps recordings to embeddings (256,) float32 of unit length and scores them.

    `embed(waveform, rate)` takes samples (S,), (S, channels) or (channels, S), floats within -1..1 or int16, at `rate`
    Hz; `embed_files(files)` takes paths or open files; `score(a, b)` is the cosine score, -1..1, of two embeddings.
    `checkpoint` is a file of train.py or of the official code (default: the bundled model). `device` is auto (CUDA if
    available), cpu, cuda, cuda:1 or mps. ImportError if the calling program has modules of the same names.
    """
    _refuse_namesakes()
    from recognition.recognizer import Recognizer

    return Recognizer(checkpoint, device)


def encoder(pretrained: bool = True, checkpoint: str | pathlib.Path | None = None) -> "Encoder":
    """Return the network, which maps features (N, 1, 40, T) float32 to embeddings (N, 256) float32, not normalised.

    The features are the logarithms of 40 mel bands in T frames of 10 ms; feat_extract.fbank.log_mel computes them from
    samples on the int16 scale. The network subtracts their mean over time. It is on the CPU, and its weights are
    frozen. `checkpoint` is a file of train.py or of the official code (default: the bundled model). If `pretrained` is
    False, the network is a ResNet-34 with random weights, in training mode. ValueError if `checkpoint` is given and
    `pretrained` is False; ImportError if the calling program has modules of the same names.
    """
    if checkpoint and not pretrained:
        raise ValueError("encoder: a checkpoint is given and pretrained is False; give one of the two")
    _refuse_namesakes()
    from model.encoder import Encoder
    from recognition.recognizer import Recognizer

    return Recognizer(checkpoint, device="cpu").encoder if pretrained else Encoder()


def _refuse_namesakes() -> None:
    """Raise ImportError if a module of another program, imported or importable, has the name of one of ours."""
    for name in _MODULES:
        for file in _files(name):
            if _ROOT not in pathlib.Path(file).resolve().parents:
                raise ImportError(
                    f"{file}: Python cannot load two modules called '{name}' in one process, and {_ROOT} has one, too; "
                    f"run recognize.py from there in a separate process (--json prints results to read), or use the "
                    f"ONNX file that `recognize.py export model.onnx` writes"
                )


def _files(name: str) -> list[str]:
    """Return the files that `import` could load for a module's name, or the file of the module if it is imported."""
    if loaded := sys.modules.get(name):
        return [getattr(loaded, "__file__", None) or f"<module '{name}'>"]
    files: list[str] = []
    for entry in sys.path:
        if spec := importlib.machinery.PathFinder.find_spec(name, [entry]):
            folders = map(pathlib.Path, spec.submodule_search_locations or [])  # a folder of data has no Python files
            files += [spec.origin] if spec.origin else [str(file) for folder in folders for file in folder.glob("*.py")]
    return files
