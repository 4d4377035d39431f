"""The paper's losses of embeddings and labels.

A logit is the product of an embedding with a class vector of unit length. The class vectors are parameters, one for
each training speaker (softmax, global classification), or the prototypes of the episode.
"""

from loss.objective import LOSS_TYPES, EpisodeMetrics, Objective, class_logits, prototypes

__all__ = ["LOSS_TYPES", "EpisodeMetrics", "Objective", "class_logits", "prototypes"]
