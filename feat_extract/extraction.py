"""Extract the features of one wav, in a worker process of feature_extraction.py."""

from pathlib import Path

from configure import SAMPLE_RATE
from dataset.features import write_feature
from feat_extract.audio import read_and_warn
from feat_extract.fbank import log_mel
from system.console import UserError

Job = tuple[str, str, str]  # a wav, the feature file to write, the speaker
Failure = tuple[str, str]  # a wav, and why it cannot be used


def extract_features(job: Job) -> tuple[float, bool, Failure | None]:
    """Write a feature file; return the seconds of audio, whether they were converted, and the failure, if any."""
    wav, feature, speaker = job
    try:
        samples, converted, _ = read_and_warn(Path(wav))
        feat = log_mel(samples)
    except UserError as error:
        return 0.0, False, (wav, str(error))
    except MemoryError:
        return 0.0, False, (wav, f"{wav}: too long for this machine's memory")
    write_feature(Path(feature), feat, speaker)
    return len(samples) / SAMPLE_RATE, converted, None
