"""Attention: each query's mean of the values, weighted by how well the keys match it

One product for the scores, one for the mean. The mask between them decides what may be seen.
"""

import math

from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., arXiv 1706.03762, equation 1).

    The scores are the products of queries and keys, divided by the square root of D; each query's weights are their
    softmax over the keys that it may attend to.

    Args:
        query: (..., T, D).
        key: (..., S, D).
        value: (..., S, V).
        mask: Boolean, broadcast to (..., T, S): True where the query may attend to the key. None: everywhere.

    Returns:
        (..., T, V), of the inputs' dtype; zeros, with a gradient of zeros, for a query that may attend to no key.

    Example:
        query = [[0]], key = [[1], [2]] and value = [[3], [5]] give [[4]]: both scores are 0, both weights a half. With
        mask = [[True, False]] the result is [[3]].
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (..., T, S)
    if mask is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)  # NaN in a row without a key
    return weights.masked_fill(~mask, 0.0) @ value
