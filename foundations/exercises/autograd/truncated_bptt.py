"""Exercise truncated_bptt: detach the whole state, and nothing else."""

import random
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Truncated backpropagation through time: learning from a sequence that is too long to keep",
    level="core",
    minutes=12,
    link="projects.policy_gradient.advantages:generalized_advantage_estimate",
    why="the nearest: a rollout is cut, and the value estimate stands for what comes after; no capstone truncates gradients",
    hints=(
        "After each update, go on with the state's values but without its graph.",
        "state = (h.detach(), c.detach()) between chunks; the first chunk takes the state as it is given.",
        "for part in x.split(chunk, 1): loss, (h, c) = step(part, state); update(loss); state = h.detach(), c.detach()",
    ),
    source="torch.utils.checkpoint:detach_variable",
    look_at="Gradient checkpointing cuts the graph in this way. Why is requires_grad set again?",
)

State = tuple[Tensor, Tensor]
Step = Callable[[Tensor, State], tuple[Tensor, State]]


class Recorder:
    """LSTM that records the lengths of its chunks and its losses, and raises if a state comes with a graph."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.optimizer = torch.optim.SGD(self.lstm.parameters(), lr=0.1)
        self.lengths: list[int] = []
        self.losses: list[float] = []

    def step(self, part: Tensor, state: State) -> tuple[Tensor, State]:
        """Loss of a chunk, and the state after it."""
        self.lengths.append(part.shape[1])
        with_graph = [name for name, value in zip("hc", state, strict=True) if value.requires_grad]
        if with_graph:
            raise RuntimeError(f"the state's {' and '.join(with_graph)} bring the graph of the chunk before along")
        out, (h, c) = self.lstm(part, (state[0][None], state[1][None]))
        return out.square().mean(), (h[0], c[0])

    def update(self, loss: Tensor) -> None:
        """Backward and a step."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def case(time: int) -> tuple[Tensor, State]:
    """A sequence of a batch of two, and a state before it."""
    torch.manual_seed(1)
    return torch.randn(2, time, 2), (torch.randn(2, 3), torch.randn(2, 3))


def reference(time: int, chunk: int) -> tuple[Recorder, State]:
    """Chunk by chunk, from copied states."""
    recorder, (x, state) = Recorder(), case(time)
    for begin in range(0, time, chunk):
        loss, after = recorder.step(x[:, begin : begin + chunk], state)
        recorder.update(loss)
        state = torch.tensor(after[0].tolist()), torch.tensor(after[1].tolist())
    return recorder, state


def run(answer: ModuleType, time: int, chunk: int) -> tuple[Recorder, State]:
    """The answer's run. Raises Failure if it raises."""
    recorder, (x, state) = Recorder(), case(time)
    try:
        return recorder, answer.truncated_bptt(recorder.step, x, state, chunk, recorder.update)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", {"time": time, "chunk": chunk}, got=error) from error


@exercise.property("chunks")
def chunks(answer: ModuleType, rng: random.Random) -> None:
    for time, chunk in [(2, 2), (4, 2), (5, 2), (3, 5)]:
        recorder, _ = run(answer, time, chunk)
        expected, _ = reference(time, chunk)
        check_that(
            recorder.lengths == expected.lengths,
            "the chunks differ",
            expected.lengths,
            recorder.lengths,
            time=time,
            chunk=chunk,
        )


@exercise.property("the state goes on, its graph does not")
def carried(answer: ModuleType, rng: random.Random) -> None:
    for time, chunk in [(4, 2), (5, 2)]:
        recorder, state = run(answer, time, chunk)
        expected, final = reference(time, chunk)
        reason = difference(recorder.losses, expected.losses, 1e-4, 1e-6)
        check_that(not reason, f"losses: {reason}", expected.losses, recorder.losses, time=time, chunk=chunk)
        reason = difference(state, final, 1e-4, 1e-6)
        check_that(not reason, f"the state after the sequence: {reason}", final, state, time=time, chunk=chunk)
        check_that(not any(s.requires_grad for s in state), "the state that is returned has a graph", time=time, chunk=chunk)


@exercise.property("the weights learn from every chunk")
def learns(answer: ModuleType, rng: random.Random) -> None:
    recorder, _ = run(answer, 6, 2)
    expected, _ = reference(6, 2)
    for (name, got), want in zip(recorder.lstm.named_parameters(), expected.lstm.parameters(), strict=True):
        reason = difference(got, want, 1e-4, 1e-6)
        check_that(not reason, f"{name} after three updates: {reason}")


@exercise.wrong("truncated_bptt", "c is forgotten: an LSTM's state is h and c, and both bring their graph along.")
def forgets_c(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    for part in x.split(chunk, 1):
        loss, (h, c) = step(part, state)
        update(loss)
        state = h.detach(), c
    return state


@exercise.wrong("truncated_bptt", "The state is set to zero at each chunk: nothing is carried on.")
def zeroed(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    first = state
    for part in x.split(chunk, 1):
        loss, (h, c) = step(part, state)
        update(loss)
        state = torch.zeros_like(first[0]), torch.zeros_like(first[1])
    return h.detach(), c.detach()


@exercise.wrong(
    "truncated_bptt",
    "The state goes on with its graph: the second backward() would run into the first chunk, which is freed already.",
)
def not_detached(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    for part in x.split(chunk, 1):
        loss, state = step(part, state)
        update(loss)
    return state[0].detach(), state[1].detach()


@exercise.wrong("truncated_bptt", "The last, shorter chunk is left out.")
def last_dropped(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    for i in range(x.shape[1] // chunk):
        loss, (h, c) = step(x[:, i * chunk : (i + 1) * chunk], state)
        update(loss)
        state = h.detach(), c.detach()
    return state


@exercise.wrong("truncated_bptt", "Every chunk begins from the first state: carry on with the state that step returned.")
def same_state(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    for part in x.split(chunk, 1):
        loss, (h, c) = step(part, state)
        update(loss)
    return h.detach(), c.detach()


@exercise.also_right("truncated_bptt")
def by_index(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    begin = 0
    while begin < x.size(1):
        loss, after = step(x[:, begin : begin + chunk], tuple(s.detach() for s in state))
        update(loss)
        state, begin = after, begin + chunk
    return state[0].detach().clone(), state[1].detach().clone()


@exercise.also_right("truncated_bptt")
def recursive(step: Step, x: Tensor, state: State, chunk: int, update: Callable[[Tensor], None]) -> State:
    loss, (h, c) = step(x[:, :chunk], state)
    update(loss)
    state = (h.data, c.data)
    return state if x.shape[1] <= chunk else recursive(step, x[:, chunk:], state, chunk, update)
