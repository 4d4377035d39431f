import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataset.features import write_feature
from dataset.index import FeatureIndex
from dataset.trials import Trials
from evaluation.embedding import Segments, embed, equal_length_batches, score, unique_segments
from evaluation.verification import find_trials
from model.encoder import Encoder
from system.compute import Compute

CPU = Compute(torch.device("cpu"), torch.float32, 0)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    tree, rng = tmp_path_factory.mktemp("verification") / "feat", np.random.default_rng(0)
    for s in range(3):
        for u, n_frames in enumerate((60, 60, 90, 25)):
            write_feature(tree / f"s{s}" / "v" / f"{u}.pkl", 10 * rng.normal(size=(n_frames, 40)), f"s{s}")
    return FeatureIndex([tree])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("resnet18").eval()


def embed_one_by_one(encoder: Encoder, features: FeatureIndex, segments: Segments) -> torch.Tensor:
    """Embed one segment at a time."""
    with torch.no_grad():
        crops = (features.crop(row, start, length) for row, start, length in zip(*segments, strict=True))
        return torch.cat([encoder(torch.from_numpy(crop.T.copy())[None, None]) for crop in crops])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_do_not_depend_on_the_batch(features: FeatureIndex, encoder: Encoder, num_workers: int) -> None:
    full = Segments.full(features, np.arange(len(features)))
    crops = Segments(np.array([0, 5, 3, 3]), np.array([10, 0, 7, 7]), np.array([40, 40, 40, 31]))
    for segments in (full, crops):
        together = embed(encoder, features, segments, CPU._replace(num_workers=num_workers))
        alone = embed_one_by_one(encoder, features, segments)
        assert float((together - alone).norm(dim=1).max() / alone.norm(dim=1).min()) <= 1e-5


def test_batches_have_equal_lengths_and_all_segments_once() -> None:
    lengths = np.random.default_rng(0).integers(50, 60, 200)
    batches = equal_length_batches(lengths, batch_frames=400)
    assert sorted(at for batch in batches for at in batch) == list(range(200))
    assert all(len({lengths[at] for at in batch}) == 1 and sum(lengths[at] for at in batch) <= 400 for batch in batches)
    assert equal_length_batches(np.array([900]), batch_frames=400) == [[0]]


def test_scores_are_cosines(features: FeatureIndex, encoder: Encoder) -> None:
    enrol, test = (Segments.full(features, np.array(rows)) for rows in ([0, 1, 5, 0], [1, 0, 7, 0]))
    scores = score(encoder, features, enrol, test, CPU)
    e = embed_one_by_one(encoder, features, Segments.full(features, np.arange(len(features))))
    expected = F.cosine_similarity(e[[0, 1, 5, 0]], e[[1, 0, 7, 0]])
    np.testing.assert_allclose(scores, expected.double().numpy(), atol=1e-5)
    assert scores[3] == pytest.approx(1, abs=1e-6)


def test_equal_segments_are_found() -> None:
    sides = [(3, 0, 9), (1, 5, 9), (3, 0, 9), (3, 1, 9)], [(3, 0, 8), (2**40, 0, 9), (1, 5, 9)]
    unique, index = unique_segments([Segments(*np.array(side).T) for side in sides])
    listed = [segment for side in sides for segment in side]
    found = list(zip(*(column.tolist() for column in unique), strict=True))
    assert found == sorted(set(listed)) and [found[i] for i in index] == listed
    nothing, index = unique_segments([Segments(*[np.zeros(0, np.int64)] * 3)] * 2)
    assert [len(column) for column in (*nothing, index)] == [0, 0, 0, 0]


def test_models_without_a_trial_are_removed(features: FeatureIndex) -> None:
    models = {"m0": ["s0/v/0", "s0/v/1"], "m1": ["s1/v/2"], "m2": ["s2/v/3", "s2/v/0", "s0/v/2"]}
    names = [("m1", "s0/v/3"), ("m2", "s2/v/1"), ("m0", "s1/v/1"), ("m2", "s1/v/0")]
    trials = Trials(np.array([0, 1, 0, 0], bool), *np.array(names, object).T)
    trial_set = find_trials(features, trials, models)
    kept = trial_set.where(np.array([False, True, False, True]))
    expected = find_trials(features, trials.where(np.array([False, True, False, True])), models)
    assert kept.of_trial.tolist() == [0, 0] and kept.model.tolist() == [0, 0, 0]
    assert [features.name(row) for row in kept.enrolled.row] == models["m2"]
    assert kept.enrol_seconds.tolist() == pytest.approx([(25 + 60 + 90) / 100] * 2)
    two = np.array([True, False, True, False])
    for ours, theirs in (
        (kept, expected),
        (trial_set.where(two), find_trials(features, trials.where(two), models)),
        (trial_set.where(two | True), trial_set),
    ):
        for column, wanted in zip((*ours.enrolled, *ours[2:]), (*theirs.enrolled, *theirs[2:]), strict=True):
            np.testing.assert_array_equal(column, wanted)


def test_trials_of_an_utterance_with_itself_are_found(features: FeatureIndex) -> None:
    names = [("s0/v/0", "s0/v/0.wav"), ("s0/v/0", "s0/v/1"), ("s1/v/2", "s1/v/2"), ("s2/v/3", "s0/v/3")]
    trials = Trials(np.array([1, 1, 1, 0], bool), *np.array(names, object).T)
    assert find_trials(features, trials).same_utterance.tolist() == [True, False, True, False]
    models = {"s0/v/0": ["s0/v/1", "s0/v/2"], "s1/v/2": ["s1/v/0"], "s2/v/3": ["s2/v/1", "s0/v/3"]}
    assert find_trials(features, trials, models).same_utterance.tolist() == [False, True, False, True]
