"""Options of the networks and of decoding, one frozen dataclass each, and the ids of the special tokens. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from common.errors import UserError
from common.options import Exponent, Fraction

PAD, BOS, EOS, UNK = range(4)  # padding, beginning and end of a sentence, unknown

TieWordEmbeddings = Literal["all", "target", "none"]


@dataclass(frozen=True)
class RecurrentConfig:
    """Recurrent encoder-decoder with attention (Luong et al., arXiv 1508.04025).

    Args:
        embed_dim: Dimension of the embeddings and of the attentional hidden state.
        hidden_dim: Dimension of the decoder's hidden state, and of both directions of the encoder together.
        num_layers: Number of layers of the encoder and of the decoder.
        cell: Recurrent cell: `lstm` or `gru`.
        attention: Attention score: `multiplicative` (Luong et al.) or `additive` (Bahdanau et al., arXiv 1409.0473).
        input_feeding: Whether the last attentional hidden state is part of the decoder's next input. Without it all steps
            attend at once, which is faster, but the decoder cannot know what it has attended to.
        dropout: Dropout probability of embeddings, encoder states and attentional hidden states.
        teacher_forcing: Teacher forcing ratio at the start and at the end of training: the fraction of decoder steps
            whose input is the target token, not the model's own prediction (scheduled sampling, arXiv 1506.03099).
    """

    embed_dim: PositiveInt = 256
    hidden_dim: PositiveInt = 384
    num_layers: PositiveInt = 1
    cell: Literal["lstm", "gru"] = "lstm"
    attention: Literal["multiplicative", "additive"] = "multiplicative"
    input_feeding: bool = True
    dropout: Fraction = 0.35
    teacher_forcing: tuple[ClosedUnitInterval, ClosedUnitInterval] = (1.0, 1.0)


@dataclass(frozen=True)
class TransformerConfig:
    """Transformer encoder-decoder (Vaswani et al., arXiv 1706.03762).

    Args:
        d_model: Dimension of the embeddings and of every layer's input and output.
        ff_dim: Hidden dimension of the feed-forward networks.
        num_heads: Number of attention heads; `d_model` is a multiple of it.
        num_layers: Number of layers of the encoder and of the decoder.
        norm_first: Pre-norm: layer normalization before each sublayer, which trains more easily (arXiv 2002.04745); else
            after it (post-norm), as in the paper.
        position_embedding: `sinusoidal`, added to the embeddings as in the paper, or `rotary` (RoPE, arXiv 2104.09864),
            applied to queries and keys of every attention, the cross-attention too.
        dropout: Dropout probability of embeddings and of each sublayer's output.
    """

    d_model: PositiveInt = 128
    ff_dim: PositiveInt = 256
    num_heads: PositiveInt = 4
    num_layers: PositiveInt = 4
    norm_first: bool = True
    position_embedding: Literal["sinusoidal", "rotary"] = "sinusoidal"
    dropout: Fraction = 0.3


@dataclass(frozen=True)
class DecodingConfig:
    """Beam search at the test. Lengths are in tokens, EOS included.

    Args:
        num_beams: Beam size: hypotheses that are kept at each step; 1 is greedy search.
        length_penalty: Exponent p of the length in score = log probability / length ** p, -10 to 10; above 0 favors longer.
        max_length: Maximum length of a translation.
    """

    num_beams: PositiveInt = 5
    length_penalty: Exponent = 1.0
    max_length: PositiveInt = 128


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling in place of beam search.

    Args:
        temperature: Softmax temperature, at least 1e-6: divides the logits; below 1 sharpens the distribution.
        top_k: Top-k sampling: sample from the k most probable tokens; 0 for all.
        top_p: Nucleus sampling (Holtzman et al., arXiv 1904.09751): sample from the fewest tokens whose probabilities
            reach this sum, after temperature and top-k.
        seed: Random seed.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class GenerationConfig(DecodingConfig):
    """Decoding with the options of the `translate` command too; names as in `transformers`.

    Args:
        num_return_sequences: Hypotheses returned per sentence (n-best list), at most `num_beams` in beam search.
        min_length: Minimum length of a translation.
        no_repeat_ngram_size: n-gram blocking: no n-gram of this size occurs twice in a translation; 0 for none.
        early_stopping: When beam search leaves a sentence. `never`: when no unfinished hypothesis can still win (exact).
            `heuristic`: when `num_beams` finished hypotheses score higher than the best unfinished one does at its present
            length; fewer steps, but with a length penalty above 0 a better one may be missed. (`early_stopping="never"` and
            `False`, its default, of `generate` in `transformers`.)

    Raises:
        UserError: The minimum length is above the maximum, or the length penalty out of range.
    """

    num_return_sequences: PositiveInt = 1
    min_length: NonNegativeInt = 0
    no_repeat_ngram_size: NonNegativeInt = 0
    early_stopping: Literal["never", "heuristic"] = "never"

    def __post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise UserError(f"--min_length {self.min_length}: more than --max_length {self.max_length}; lower it")
        if not -10 <= self.length_penalty <= 10:
            raise UserError(f"--length_penalty {self.length_penalty}: use a number from -10 to 10")
