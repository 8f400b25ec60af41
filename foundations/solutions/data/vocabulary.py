"""Vocabulary: numbers for words

The most frequent words of the training texts get numbers; all others share one. The first four numbers are reserved:
padding, unknown, begin and end of a sequence.
"""

from collections import Counter


class Vocabulary:
    """Vocabulary of the words between white space, most frequent first.

    The ids 0 to 3 are <pad>, <unk>, <bos> and <eos>. The words follow from 4 on; of words that are equally frequent the
    alphabetically first comes first, so that the same texts give the same ids everywhere. It never changes afterwards.

    Args:
        texts: Training texts.
        max_size: Largest number of ids, the four included; at least 4. Rarer words have no id.

    Example:
        Vocabulary(["b a b", "c b"], max_size=6) has 6 ids: the four, b with 4 and a with 5.
    """

    def __init__(self, texts: list[str], max_size: int) -> None:
        counts = Counter(word for text in texts for word in text.split())
        words = sorted(counts, key=lambda word: (-counts[word], word))
        self.words = ["<pad>", "<unk>", "<bos>", "<eos>", *words][:max_size]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's words, without <bos> and <eos>; a word without an id is <unk>, 1.

        Example:
            "b  z" gives [4, 1] with the vocabulary above
        """
        return [self.ids.get(word, 1) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        """Words of a sequence of ids up to its first <eos>, without <pad> and <bos>, joined by spaces.

        Example:
            [2, 4, 1, 3, 4] gives "b <unk>" with the vocabulary above
        """
        end = ids.index(3) if 3 in ids else len(ids)
        return " ".join(self.words[i] for i in ids[:end] if i not in (0, 2))
