"""The paper's losses, computed from embeddings and labels.

Every logit is the product of an embedding with a class vector of length one. The class vectors are either parameters,
one for each training speaker (softmax, global classification), or the prototypes of the episode.
"""

from loss.objective import LOSS_TYPES, EpisodeMetrics, Objective, class_logits, prototypes

__all__ = ["LOSS_TYPES", "EpisodeMetrics", "Objective", "class_logits", "prototypes"]
