"""Broadcasting: the shape of a sum, from the shapes of its terms

Two tensors of unequal shapes meet in an operation; the rules that stretch one to the other fit in five lines.
"""


def broadcast_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a result of tensors of the shapes `a` and `b`.

    Args:
        a: Sizes of one.
        b: Sizes of the other; the number of dimensions may differ.

    Returns:
        Sizes of the result.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        (3, 1) and (1, 4) give (3, 4); (5,) and (2, 1) give (2, 5); (2,) and (3,) raise.
    """
    dims = max(len(a), len(b))
    a, b = (1,) * (dims - len(a)) + a, (1,) * (dims - len(b)) + b  # aligned at the right
    result = []
    for n, m in zip(a, b, strict=True):
        if n != m and 1 not in (n, m):
            raise ValueError(f"{n} and {m} do not fit")
        result.append(m if n == 1 else n)
    return tuple(result)
