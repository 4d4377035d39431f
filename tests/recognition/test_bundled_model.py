"""The bundled model."""

import csv
import gzip
from pathlib import Path

import numpy as np
import torch

from corpora.naming import clean
from model.checkpoint import load_checkpoint
from recognition.recognizer import BUNDLED_MODEL, Recognizer
from recognition.utterance import read_utterance


def test_it_is_an_encoder_with_its_calibration() -> None:
    checkpoint = load_checkpoint(BUNDLED_MODEL)
    assert BUNDLED_MODEL.stat().st_size < 12e6 and not checkpoint.optimizer and checkpoint.class_vectors is None
    assert checkpoint.state_dict["fc1"].dtype == torch.float16
    calibration = Recognizer().calibration  # None if it belonged to another file
    assert calibration and calibration.test_seconds[0] <= 0.5 and len(calibration.sets) == 6


def test_its_training_speakers_are_those_of_the_list() -> None:
    """The speakers in the checkpoint are excluded from evaluations, under the names that an import gives them."""
    with gzip.open(BUNDLED_MODEL.parent / "open_speech_data.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    train, test = ({row["speaker"] for row in rows if row["split"] == split} for split in ("train", "test"))
    speakers = set(load_checkpoint(BUNDLED_MODEL).speakers)
    other_names = {speaker for speaker in speakers if speaker.startswith("id")}  # of the 90 in speechocean762
    assert len(other_names) == 90 and not train & test
    assert speakers - other_names == {clean(name) for name in train if not name.startswith("SPEAKER")}


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
