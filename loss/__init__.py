"""The paper's losses; they see embeddings and labels only.

Every logit is the embedding's product with a class vector of length one. What differs is where the class vectors
come from: learnt, one for each training speaker (softmax, global classification), or the episode's prototypes.
"""

from loss.objective import LOSS_TYPES, Objective, Terms, class_logits, prototypes

__all__ = ["LOSS_TYPES", "Objective", "Terms", "class_logits", "prototypes"]
