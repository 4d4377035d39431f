"""The bundled model."""

from pathlib import Path

import numpy as np
import torch

from model.checkpoint import load_checkpoint
from recognition.recognizer import BUNDLED_MODEL, Recognizer
from recognition.utterance import read_utterance


def test_it_is_an_encoder_with_its_calibration() -> None:
    checkpoint = load_checkpoint(BUNDLED_MODEL)
    assert BUNDLED_MODEL.stat().st_size < 12e6 and not checkpoint.optimizer and checkpoint.class_vectors is None
    assert checkpoint.state_dict["fc1"].dtype == torch.float16
    assert len(checkpoint.speakers) == 642  # excluded from evaluations
    calibration = Recognizer().calibration  # None if it belonged to another file
    assert calibration and calibration.test_seconds[0] == 0.5


def test_it_separates_speakers(shared: Path) -> None:
    folder = shared / "corpus" / "vox1_test"
    speakers = sorted(path.name for path in folder.iterdir())[:6]
    files = [sorted((folder / speaker).rglob("*.flac"))[i] for speaker in speakers for i in (0, -1)]
    recognizer, utterances = Recognizer(), [read_utterance(file) for file in files]
    embeddings, seconds = recognizer.embed_utterances(utterances), np.array([u.speech for u in utterances])
    llr = recognizer.llr(embeddings[:, None], embeddings, seconds[:, None], seconds)
    same = np.kron(np.eye(len(speakers)), [[0, 1], [1, 0]]) > 0
    others = np.kron(np.eye(len(speakers)), np.ones((2, 2))) == 0
    assert (llr[same] > 0).all() and (llr[others] < 0).mean() > 0.7
