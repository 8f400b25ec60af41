"""Assert shapes: sizes with names, the same in every call

A shape that is checked where it is made fails there, and not three layers later, or never.
"""

from torch import Tensor


class ShapeChecker:
    """Checks of shapes in which a name stands for the same size in all calls.

    Args:
        sizes: Names and their sizes that are known from the start.

    Example:
        shapes = ShapeChecker(B=2); shapes.expect(torch.zeros(2, 3), "B T") binds T to 3;
        shapes.expect(torch.zeros(2, 4), "B T") raises ValueError: expected B T (B=2, T=3) but got (2, 4)
    """

    def __init__(self, **sizes: int) -> None:
        self.sizes = dict(sizes)

    def expect(self, x: Tensor, spec: str, **sizes: int) -> Tensor:
        """Returns `x` itself if its shape is that of `spec`.

        Args:
            x: Any tensor.
            spec: For each dimension a name or a number, with spaces between; "" for a tensor without dimensions. A name
                that has no size yet is bound to the size found here, for later dimensions and later calls.
            sizes: Sizes of names, bound as those of the constructor.

        Raises:
            ValueError: A dimension has another size, their number differs, or `sizes` contradicts a name's size. A size of
                1 is not special. The message holds `spec`, every size that is known of its names as `B=4`, and the shape of
                `x` as a tuple. After an error no name is bound that was not bound before.
        """
        known = {**sizes, **self.sizes}
        parts = spec.split()
        fits = x.ndim == len(parts) and all(known[name] == size for name, size in sizes.items())
        for part, size in zip(parts, x.shape, strict=False):
            if part.isdigit():
                fits = fits and int(part) == size
            elif fits:
                fits = known.setdefault(part, size) == size
        if not fits:
            given = {**sizes, **self.sizes}
            names = ", ".join(f"{part}={given[part]}" for part in dict.fromkeys(parts) if part in given)
            raise ValueError(f"expected {spec} ({names}) but got {tuple(x.shape)}")
        self.sizes = known
        return x
