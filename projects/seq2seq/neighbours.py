"""A translator that looks up, at every token, what followed in its training pairs where it was in nearly the same state.

Nearest-neighbour machine translation (Khandelwal et al., arXiv 2010.00710). The network reads all training pairs once more;
what its output layer reads at a token is a key, and the token its value. In a search the keys nearest to a hypothesis vote
for the next token, and their votes are mixed into the network's own probabilities. Nothing is trained, and the search is
the one in `search.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.nn.device import parallel_map
from projects.seq2seq.data import Ids, collate
from projects.seq2seq.networks import PAD, RecurrentTranslator, TransformerTranslator
from projects.seq2seq.search import Nest

CELLS = 1024  # parts that a large set of keys is divided into; each has its centre, and 64 keys or more
LOOKED_INTO = 16  # those whose centres are nearest to a query: they hold nearly all of its neighbours


@dataclass(frozen=True)
class NeighbourOptions:
    """How neighbours vote.

    Args:
        count: neighbours of a token.
        share: of the next token's probability that is theirs; the rest is the network's.
        temperature: a neighbour's weight is e to the minus squared distance / temperature. Distances grow with the width of
            the network, so choose this on validation.

    Raises:
        UserError: a value is out of range.
    """

    count: int = 256
    share: float = 0.4
    temperature: float = 6.0

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.share < 1 and self.temperature > 0):
            given = f"neighbours {self.count}, neighbour_share {self.share}, neighbour_temperature {self.temperature}"
            raise UserError(f"{given}: choose >= 1, in [0, 1), and > 0")


def load_faiss() -> Any:
    """The library that searches. Raises UserError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError('faiss is not installed; run `pip install "lightning-capstones[neighbours]"`') from error
    return faiss


class Datastore:
    """Keys with a token each, divided into cells so that a search looks into a few of them (faiss' inverted file).

    It holds the keys in memory: 512 bytes a token at width 128, and twice that while it is made.

    Args:
        keys: (tokens, width) float32, on the CPU.
        values: (tokens,) int64.

    Raises:
        UserError: there is no key, or faiss is not installed.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        faiss = load_faiss()
        if not len(keys):
            raise UserError("there is no training pair to look up")
        width, cells = keys.shape[1], max(1, min(CELLS, len(keys) // 64))
        self.faiss, self.values = faiss, values
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, cells)
        self.index.nprobe = min(LOOKED_INTO, cells)
        self.index.train(keys.numpy())
        self.index.add(keys.numpy())

    def __len__(self) -> int:
        return len(self.values)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` keys nearest to each of `queries` (queries, width), on their device.

        Returns:
            Their squared distances, nearest first, and their tokens, both (queries, found): `count`, or all if they are
            fewer. Where the cells that were looked into hold fewer, distances are infinite.
        """
        # faiss has threads of its own, and asks each thread that calls it how many
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        distances, places = self.index.search(queries.float().cpu().numpy(), min(count, len(self)))
        found = torch.from_numpy(places)  # -1 is none
        squared = torch.from_numpy(distances).masked_fill(found < 0, torch.inf)
        return squared.to(queries.device), self.values[found].to(queries.device)


def read_pairs(
    net: RecurrentTranslator | TransformerTranslator, pairs: Ids, device: torch.device, batch_size: int = 100
) -> Datastore:
    """What `net`, in evaluation mode on `device`, has before it at each token of the targets, EOS too.

    Args:
        net: whose output layer reads the keys.
        pairs: ids of source and target sentences, without BOS and EOS.
        device: where to compute.
        batch_size: pairs read at once; on a CPU by each core.
    """
    load_faiss()  # or it would be missed only after all was read
    source, target = pairs
    order = torch.tensor([len(ids) for ids in target]).argsort(descending=True, stable=True)
    batches = order.split(batch_size)
    kept: dict[int, tuple[Tensor, Tensor]] = {}  # by the batch's number, as cores finish in any order

    @torch.no_grad()
    def work(numbers: Iterable[int]) -> None:
        for number in numbers:
            batch = collate(source, target, batches[number], 1.0)
            hidden = net(batch.source.to(device), batch.source_lengths.to(device), batch.target[:, :-1].to(device))
            wanted = batch.target[:, 1:]  # (batch, time)
            kept[number] = hidden.float().cpu()[wanted != PAD], wanted[wanted != PAD]

    parallel_map(work, range(len(batches)), device)
    keys, values = (torch.cat(column) for column in zip(*(kept[number] for number in range(len(batches))), strict=True))
    return Datastore(keys, values)


class NeighbourTranslator:
    """A network whose next token its neighbours have a say in: an `EncoderDecoder`, which the search takes as it is.

    Args:
        net: in evaluation mode.
        datastore: of `net`'s own states; another network's mean nothing to it.
        options: how they vote.
    """

    def __init__(
        self, net: RecurrentTranslator | TransformerTranslator, datastore: Datastore, options: NeighbourOptions
    ) -> None:
        self.net, self.datastore, self.options = net, datastore, options

    def encode(self, source: Tensor, lengths: Tensor) -> Nest:
        """See `EncoderDecoder.encode`."""
        return self.net.encode(source, lengths)

    def start(self, memory: Nest, beams: int) -> Nest:
        """See `Decoder.start`."""
        return self.net.start(memory, beams)

    def step(self, tokens: Tensor, live: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]:
        """See `Decoder.step`; the logits are log-probabilities."""
        hidden, live, attention = self.net.advance(tokens, live, memory)  # (batch, beams, width)
        own = self.net.output(hidden)
        exact = own.to(torch.promote_types(own.dtype, torch.float32))
        votes = self.votes(hidden.flatten(0, 1), exact.shape[2]).view_as(exact)
        return torch.lerp(exact.softmax(2), votes.to(exact.dtype), self.options.share).log(), live, attention

    def votes(self, hidden: Tensor, vocabulary: int) -> Tensor:
        """(queries, width) what the output layer reads -> (queries, vocabulary) the neighbours' probabilities."""
        squared, tokens = self.datastore.nearest(hidden, self.options.count)
        weights = (-squared / self.options.temperature).softmax(1)  # (queries, neighbours)
        return weights.new_zeros(len(hidden), vocabulary).scatter_add_(1, tokens, weights)
