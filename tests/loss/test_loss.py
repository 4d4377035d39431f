import math

import pytest
import torch
from conftest import present

from loss import Objective, class_logits, prototypes


def test_logits_by_hand() -> None:
    x, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, -5.0], [3.0, 4.0]])
    torch.testing.assert_close(class_logits(x, w), torch.tensor([[3.0, -4.0, 5.0]]))


def test_prototypes_are_means_over_the_shots() -> None:
    support = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 4.0]]])  # 2 shots, 2 ways
    torch.testing.assert_close(prototypes(support), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))


def test_episodic_loss_with_two_shots_and_two_queries_by_hand() -> None:
    support = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[4.0, 0.0], [0.0, 3.0]]])  # prototypes on the axes
    query = torch.tensor(
        [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 2.0]]]
    )  # the third is nearer to the other speaker
    terms = Objective("prototypical", False, 9, 2)(support, query, torch.tensor([5, 7]))
    right, wrong, sure = math.log(1 + math.exp(-1)), math.log(1 + math.exp(2)), math.log(1 + math.exp(-2))
    assert float(terms.loss) == pytest.approx((2 * right + wrong + sure) / 4)
    assert float(terms.episodic_accuracy) == 0.75
    assert terms.global_loss.isnan() and terms.global_accuracy.isnan()


def test_global_classification_of_supports_and_queries() -> None:
    objective = Objective("prototypical", True, 3, 2)
    present(objective.class_vectors).data.copy_(torch.tensor([[1.0, 0.0], [0.0, 9.0], [-1.0, 0.0]]))
    support, query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    terms = objective(support, query, torch.tensor([0, 1]))

    def cross_entropy(right: float, *logits: float) -> float:
        return math.log(sum(map(math.exp, logits))) - right

    expected = [cross_entropy(1, 1, 0, -1), cross_entropy(1, 0, 1, 0)]
    expected += [cross_entropy(2, 2, 0, -2), cross_entropy(2, 0, 2, 0)]
    assert float(terms.global_loss.detach()) == pytest.approx(sum(expected) / 4, rel=1e-6)
    torch.testing.assert_close(terms.loss, terms.episodic_loss + terms.global_loss)
    assert float(terms.global_accuracy) == 1


def test_class_vectors_exist_if_a_term_needs_them() -> None:
    assert Objective("prototypical", False, 7, 4).class_vectors is None
    for loss_type, use_GC in (("prototypical", True), ("softmax", False)):
        vectors = present(Objective(loss_type, use_GC, 7, 4).class_vectors)
        assert vectors.shape == (7, 4) and float(vectors.detach().abs().max()) <= math.sqrt(6 / 11)
