"""kNN machine translation (kNN-MT, Khandelwal et al., arXiv 2010.00710): the nearest neighbors in a datastore vote.

The network reads all training pairs once more; the output layer's input at each target position is a key, and the token
there its value. In a search the keys nearest to a hypothesis vote for the next token, and their votes are interpolated with
the network's own probabilities. Nothing is trained, and the search is the one of `decoding.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.nn.parallel import parallel_map
from projects.seq2seq.config import PAD
from projects.seq2seq.data import Ids, collate
from projects.seq2seq.hypotheses import Nest
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.transformer import TransformerModel

MAX_NLIST = 1024  # cells of a large index; each has its centroid, and 64 keys or more
NPROBE = 16  # cells that are searched, those of the nearest centroids: they hold nearly all neighbors


@dataclass(frozen=True)
class KNNConfig:
    """Options of kNN-MT.

    Args:
        k: Number of neighbors of a token.
        interpolation: Weight lambda of the neighbors' distribution, 0 to 1; the network's is 1 - lambda.
        temperature: Softmax temperature: a neighbor's weight is exp(-squared distance / temperature). Distances grow with
            the network's dimension, so choose it on validation.
    """

    k: int = 256
    interpolation: float = 0.4
    temperature: float = 6.0


def load_faiss() -> Any:
    """The faiss library. Raises UserError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError('faiss is not installed; run `pip install "lightning-capstones[knn]"`') from error
    return faiss


class Datastore:
    """Datastore: keys with a token each, in an inverted file index of faiss.

    It holds the keys in memory: 512 bytes a token at 128 dimensions, and twice that while it is built.

    Args:
        keys: (tokens, dim) float32, on the CPU.
        values: (tokens,) int64.

    Raises:
        UserError: There is no key, or faiss is not installed.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        faiss = load_faiss()
        if not len(keys):
            raise UserError("there is no training pair for the datastore")
        dim, nlist = keys.shape[1], max(1, min(MAX_NLIST, len(keys) // 64))
        self.faiss, self.values = faiss, values
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, nlist)
        self.index.nprobe = min(NPROBE, nlist)
        self.index.train(keys.numpy())
        self.index.add(keys.numpy())

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Nearest keys of each of `queries` (queries, dim), on their device.

        Returns:
            Squared distances, nearest first, and tokens, both (queries, k), or all keys if they are fewer. Where the
            searched cells hold fewer, distances are infinite.
        """
        # faiss has threads of its own, and asks each thread that calls it how many
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        distances, indices = self.index.search(queries.float().cpu().numpy(), min(k, len(self.values)))
        found = torch.from_numpy(indices)  # -1 is none
        squared = torch.from_numpy(distances).masked_fill(found < 0, torch.inf)
        return squared.to(queries.device), self.values[found].to(queries.device)


def build_datastore(
    net: RecurrentModel | TransformerModel, pairs: Ids, device: torch.device, batch_size: int = 100
) -> Datastore:
    """Datastore of a network's hidden states before each target token, EOS included.

    Args:
        net: Network in eval mode, on `device`.
        pairs: Ids of source and target sentences, without BOS and EOS.
        device: Where to compute.
        batch_size: Pairs in a batch; on a CPU each core has a batch of its own.
    """
    load_faiss()  # or it would be missed only after all was read
    source, target = pairs
    order = torch.tensor([len(ids) for ids in target]).argsort(descending=True, stable=True)
    batches = order.split(batch_size)
    entries: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values by batch, as cores finish in any order

    @torch.no_grad()
    def work(numbers: Iterable[int]) -> None:
        for number in numbers:
            batch = collate(source, target, batches[number], 1.0)
            hidden = net(batch.source.to(device), batch.source_lengths, batch.target[:, :-1].to(device))
            labels = batch.target[:, 1:]  # (batch, time)
            entries[number] = hidden.float().cpu()[labels != PAD], labels[labels != PAD]

    parallel_map(work, range(len(batches)), device)
    keys, values = (torch.cat(column) for column in zip(*(entries[number] for number in range(len(batches))), strict=True))
    return Datastore(keys, values)


class KNNModel:
    """Network whose next-token distribution is interpolated with its nearest neighbors'; see `SupportsTranslation`.

    Args:
        net: Network in eval mode.
        datastore: Of this network's own hidden states.
        config: Options of kNN-MT.
    """

    def __init__(self, net: RecurrentModel | TransformerModel, datastore: Datastore, config: KNNConfig) -> None:
        self.net, self.datastore, self.config = net, datastore, config
        self.encode: Any = net.encode
        self.init_state: Any = net.init_state

    def decode_step(self, tokens: Tensor, state: Nest, memory: Nest) -> tuple[Tensor, Nest, Tensor]:
        """See `SupportsDecoding.decode_step`; the logits are log probabilities."""
        hidden, state, attention = self.net.decode_hidden(tokens, state, memory)  # (batch, beams, dim)
        logits = self.net.output_layer(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        knn = self.knn_probabilities(hidden.flatten(0, 1), logits.shape[2]).view_as(logits)
        return torch.lerp(logits.softmax(2), knn.to(logits.dtype), self.config.interpolation).log(), state, attention

    def knn_probabilities(self, hidden: Tensor, vocab_size: int) -> Tensor:
        """Distribution of the neighbors' tokens: (queries, dim) -> (queries, vocab_size)."""
        squared, tokens = self.datastore.search(hidden, self.config.k)
        weights = (-squared / self.config.temperature).softmax(1)  # (queries, neighbors)
        return weights.new_zeros(len(hidden), vocab_size).scatter_add_(1, tokens, weights)
