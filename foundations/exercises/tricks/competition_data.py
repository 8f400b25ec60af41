"""Data of the exercise competition: visits of patients with missing values, and letters of a few strokes.

The labels of the test are sampled anew from the seed when they are needed: while an answer runs, they are nowhere in memory.
"""

import torch
from torch import Tensor

PATIENTS, VISITS, TABLE_SEED = 500, 4, 8
TEST_PATIENTS, TEST_VISITS, TEST_SEED = 1200, 2, 55
DEALT_PATIENTS, DEALT_VISITS, DEALT_SEED = 150, 8, 3
PUBLIC = 5  # every fifth test row is in the public part
IMAGES, TEST_IMAGES = 600, 2000
PRIOR = (0.65, 0.2, 0.15)
UNITS = (1.0, 10.0, 1.0, 1.0, 1.0, 9.0, 15.0, 0.02, 1.0, 5.0)
OFFSETS = (37.0, 120.0, 0.0, 0.0, 0.0, 170.0, 1960.0, 1.0, 0.0, 0.0)
RATES = (0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.3)  # of missing values, for each column
STROKES = {  # x and y of both ends, y downwards
    "L": [(0.3, 0.2, 0.3, 0.8), (0.3, 0.8, 0.7, 0.8)],
    "J": [(0.7, 0.2, 0.7, 0.8), (0.7, 0.8, 0.3, 0.8)],
    "T": [(0.25, 0.25, 0.75, 0.25), (0.5, 0.25, 0.5, 0.8)],
    "Z": [(0.3, 0.25, 0.7, 0.25), (0.7, 0.25, 0.3, 0.75), (0.3, 0.75, 0.7, 0.75)],
    "S": [(0.7, 0.25, 0.3, 0.25), (0.3, 0.25, 0.7, 0.75), (0.7, 0.75, 0.3, 0.75)],
    "V": [(0.3, 0.2, 0.5, 0.8), (0.5, 0.8, 0.7, 0.2)],
}


def train_table() -> tuple[Tensor, Tensor, Tensor]:
    """Rows (N, 11) with an id that follows the labels, labels (N,), patients (N,)."""
    x, labels, patients = _table(PATIENTS, VISITS, TABLE_SEED)
    rng = torch.Generator().manual_seed(TABLE_SEED)
    order = (labels + 0.3 * torch.randn(len(labels), generator=rng)).argsort().argsort()
    return torch.cat([10_000.0 + order[:, None], x], 1), labels, patients


def test_rows() -> Tensor:
    """Rows (M, 11) of other patients, with ids at random."""
    x, _, _ = _table(TEST_PATIENTS, TEST_VISITS, TEST_SEED)
    ids = torch.randint(PATIENTS * VISITS, (len(x), 1), generator=torch.Generator().manual_seed(TEST_SEED))
    return torch.cat([10_000.0 + ids, x], 1)


def test_labels() -> Tensor:
    """Labels (M,) of the test rows."""
    return _table(TEST_PATIENTS, TEST_VISITS, TEST_SEED)[1]


def dealt_table() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, labels and patients as in `train_table`, the labels dealt out to the patients at random; ids say nothing.

    Nothing can be learned here; many visits make it easy to recognize a patient.
    """
    x, labels, patients = _table(DEALT_PATIENTS, DEALT_VISITS, DEALT_SEED)
    rng = torch.Generator().manual_seed(DEALT_SEED)
    classes = labels.new_zeros(DEALT_PATIENTS).index_put((patients,), labels)
    dealt = classes[torch.randperm(DEALT_PATIENTS, generator=rng)]
    ids = 10_000.0 + torch.randperm(len(x), generator=rng)
    return torch.cat([ids[:, None], x], 1), dealt[patients], patients


def _table(patients: int, visits: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values (N, 10) with NaN, labels and patients: a patient's visits resemble each other and have one label."""
    rng = torch.Generator().manual_seed(seed)
    classes = torch.multinomial(torch.tensor(PRIOR), patients, True, generator=rng)
    sign = torch.randn(patients, generator=rng).sign()
    z = torch.randn(patients, 9, generator=rng)
    shifts = torch.tensor([[0.0, 0.0, 0.0], [1.44, 0.24, 0.84], [0.48, 1.68, 0.84]])
    z[:, :3] += shifts[classes]
    z[:, 3] = sign * (1 + 0.5 * z[:, 3].abs())  # alone it says nothing, nor does the next one
    z[:, 4] = 0.8 * z[:, 4] + 1.2 * sign * torch.where(classes > 0, -1.0, 1.0)
    patient = torch.arange(patients).repeat_interleave(visits)
    labels = classes[patient]
    spread = torch.tensor([0.2] * 5 + [0.05] * 4)  # the last four hardly change: they say who it is
    x = z[patient] + spread * torch.randn(len(patient), 9, generator=rng)
    x = torch.cat([x, torch.randn(len(patient), 1, generator=rng)], 1)
    x[:, 2] = (6 + 0.8 * x[:, 2]).exp()
    x = x * torch.tensor(UNITS) + torch.tensor(OFFSETS)
    missing = torch.rand(x.shape, generator=rng) < torch.tensor(RATES)
    missing[:, 1] |= torch.rand(len(x), generator=rng) < 0.3 * (labels == 1)
    x[missing] = float("nan")
    order = torch.randperm(len(x), generator=rng)
    return x[order], labels[order], patient[order]


def images(count: int, seed: int, size: int = 10) -> tuple[Tensor, Tensor]:
    """Letters (N, 1, size, size) as strokes with soft edges and noise, and labels (N,)."""
    rng = torch.Generator().manual_seed(seed)
    most = max(map(len, STROKES.values()))
    table = torch.tensor([[*strokes, *[strokes[-1]] * (most - len(strokes))] for strokes in STROKES.values()])
    labels = torch.randint(len(STROKES), (count,), generator=rng)
    angle = 0.35 * torch.randn(count, generator=rng)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    ends = (table[labels].reshape(count, -1, 2) - 0.5) * (0.8 + 0.4 * torch.rand(count, 1, 2, generator=rng))
    ends = ends @ turn.transpose(1, 2) + 0.5 + 0.22 * (torch.rand(count, 1, 2, generator=rng) - 0.5)
    start, end = ends.view(count, most, 1, 2, 2).unbind(3)  # each (N, strokes, 1, 2)
    axis = (torch.arange(size) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)  # (size², 2)
    along = end - start
    position = ((pixels - start) * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)
    distance = (pixels - start - position.clamp(0, 1) * along).norm(dim=-1).min(1).values  # (N, size²)
    ink = (-(distance / 0.07).square()).exp() * (0.6 + 0.4 * torch.rand(count, 1, generator=rng))
    return (ink + 0.25 * torch.randn(ink.shape, generator=rng)).view(count, 1, size, size), labels


def train_images() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 10, 10) and labels (N,)."""
    return images(IMAGES, 1)


def test_images() -> Tensor:
    """Images (M, 1, 10, 10) of the test."""
    return images(TEST_IMAGES, 2)[0]


def test_image_labels() -> Tensor:
    """Labels (M,) of the test images."""
    return images(TEST_IMAGES, 2)[1]
