"""Predictions about sizes: outputs of convolutions, pooling and recurrent layers, and their numbers of parameters."""

import random

from foundations.predictions import Answer, Family, Question

SHAPE = "Its shape, or error?"
COUNT = "How many?"
ALL = "sum(p.numel() for p in {}.parameters())"


def out_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Size of an output."""
    return (size + 2 * padding - kernel) // stride + 1


def without(right: Answer, wrong: dict[Answer, str]) -> dict[Answer, str]:
    """The wrong answers, but for one that happens to be right."""
    return {answer: reason for answer, reason in wrong.items() if answer != right}


def conv_shape(rng: random.Random) -> Question:
    n, c, out, size = rng.choice([2, 5, 16]), rng.choice([1, 3]), rng.choice([8, 32]), rng.choice([28, 32])
    kernel, padding = rng.choice([(3, 0), (5, 0), (5, 1), (3, 1)])
    right = out_size(size, kernel, padding=padding)
    return Question(
        f"x = torch.zeros({n}, {c}, {size}, {size})\nnn.Conv2d({c}, {out}, {kernel}, padding={padding})(x).shape",
        SHAPE,
        "Each side is size + 2 * padding - kernel + 1, and the channels are the filters.",
        without(
            (n, out, right, right),
            {
                (n, out, size + padding - kernel + 1, size + padding - kernel + 1): "Padding is added on both sides.",
                (n, out, size, size): "A window fits in fewer places than there are pixels, unless padding makes up for it.",
                (n, c, right, right): "The channels that come out are the number of filters.",
                (n, c * out, right, right): "Each filter looks at all channels and gives one.",
            },
        ),
    )


def conv_stride(rng: random.Random) -> Question:
    size, kernel, stride, padding = rng.choice([(32, 3, 2, 0), (28, 3, 2, 1), (32, 5, 3, 0), (224, 7, 2, 3)])
    right = out_size(size, kernel, stride, padding)
    return Question(
        f"x = torch.zeros(1, 3, {size}, {size})\nnn.Conv2d(3, 8, {kernel}, stride={stride}, padding={padding})(x).shape[-1]",
        "The width?",
        "(size + 2 * padding - kernel) // stride + 1, rounded down: a window that does not fit wholly is left out.",
        without(
            right,
            {
                (size + 2 * padding - kernel) // stride: "One window is there before the first step: + 1.",
                size // stride: "Only with padding that makes up for the kernel.",
                -(-(size + 2 * padding - kernel) // stride) + 1: "Rounded up: the last window would hang over the edge.",
            },
        ),
    )


def dilation(rng: random.Random) -> Question:
    size, kernel, step = rng.choice([(16, 3, 2), (20, 3, 4), (12, 5, 2)])
    reach = step * (kernel - 1) + 1
    return Question(
        f"nn.Conv2d(1, 1, {kernel}, dilation={step})(torch.zeros(1, 1, {size}, {size})).shape[-1]",
        "The width?",
        f"A kernel of {kernel} with dilation {step} reaches over {step} * ({kernel} - 1) + 1 = {reach} pixels.",
        without(
            size - reach + 1,
            {
                size - kernel + 1: "Dilation makes the kernel reach further.",
                size - step * kernel + 1: "There are kernel - 1 gaps, not kernel.",
            },
        ),
    )


def too_small(rng: random.Random) -> Question:
    size, kernel, padding = rng.choice([(3, 5, 0), (3, 5, 1), (2, 3, 0), (1, 3, 1)])
    right: Answer = (1, 1, *2 * [out_size(size, kernel, padding=padding)]) if size + 2 * padding >= kernel else "error"
    return Question(
        f"nn.Conv2d(1, 1, {kernel}, padding={padding})(torch.zeros(1, 1, {size}, {size})).shape",
        SHAPE,
        "The kernel must fit into the padded image once; then one pixel comes out.",
        without(right, {"error": "With the padding it fits.", (1, 1, 0, 0): "An empty output is an error."}),
    )


def pool_size(rng: random.Random) -> Question:
    size, kernel = rng.choice([(7, 2), (13, 2), (10, 3), (32, 3)])
    return Question(
        f"nn.MaxPool2d({kernel})(torch.zeros(1, 4, {size}, {size})).shape[-1]",
        "The width?",
        "The stride of a pooling is its kernel size unless you say otherwise, and the rest at the edge is dropped.",
        {
            -(-size // kernel): "ceil_mode=True rounds up; the default rounds down.",
            size - kernel + 1: "That is stride 1, the default of a convolution.",
        },
    )


def pool_overlap(rng: random.Random) -> Question:
    size = rng.choice([112, 56, 15, 8])
    return Question(
        f"nn.MaxPool2d(3, stride=2, padding=1)(torch.zeros(1, 4, {size}, {size})).shape[-1]",
        "The width?",
        "(size + 2 * 1 - 3) // 2 + 1: half the size, rounded up, as kernel and padding fit each other.",
        without(
            (size - 1) // 2 + 1,
            {
                size // 3: "The stride is given, so it is not the kernel size.",
                (size - 3) // 2 + 1: "There is padding, a pixel on each side.",
            },
        ),
    )


def conv_count(rng: random.Random) -> Question:
    c, out, kernel = rng.choice([(3, 32, 3), (3, 64, 7), (16, 8, 5), (1, 6, 5)])
    bias = rng.random() < 0.6
    weights = c * out * kernel**2
    return Question(
        ALL.format(f"nn.Conv2d({c}, {out}, {kernel}" + ("" if bias else ", bias=False") + ")"),
        COUNT,
        f"{out} filters of {c} * {kernel} * {kernel} weights, and one bias for each filter unless bias=False. "
        "(The article counts 864 for 3 to 32 channels: that is without the bias, 896 with it.)",
        without(
            weights + bias * out,
            {
                weights: "Each filter has a bias, unless you switch it off.",
                weights + out: "bias=False: there is none.",
                out * kernel**2: "A filter has weights for each input channel.",
                out * kernel**2 + out: "A filter has weights for each input channel.",
            },
        ),
    )


def conv_any_image(rng: random.Random) -> Question:
    size = rng.choice([48, 64, 100])
    return Question(
        f"# a layer made for images of 32 x 32\nlayer = nn.Conv2d(3, 32, 3, padding=1)\n"
        f"layer(torch.zeros(1, 3, {size}, {size})).shape",
        SHAPE,
        "The same weights slide over any size: their number does not depend on the image.",
        {"error": "No weight belongs to a position.", (1, 32, 32, 32): "The output is as large as the input."},
    )


def dense_count(rng: random.Random) -> Question:
    size, out = rng.choice([(32, 32), (28, 8), (16, 32)])
    c = 3 if size == 32 else 1
    inputs, outputs = c * size * size, out * size * size
    return Question(
        f"nn.Linear({c} * {size} * {size}, {out} * {size} * {size}, bias=False, device='meta').weight.numel()",
        f"A layer that could do what Conv2d({c}, {out}, 3, padding=1) does to {size} x {size} pixels. How many weights?",
        f"{inputs} inputs times {outputs} outputs. The convolution has {c * out * 9}: it shares them among all positions.",
        {c * out * 9: "That is the convolution.", inputs + outputs: "Each output has a weight for each input."},
    )


def flat_features(rng: random.Random) -> Question:
    size, out = rng.choice([(28, 16), (32, 8), (20, 10)])
    side = (size - 2) // 2
    return Question(
        f"net = nn.Sequential(nn.Conv2d(1, {out}, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())\n"
        f"net(torch.zeros(4, 1, {size}, {size})).shape",
        SHAPE,
        f"{size} becomes {size - 2} by the convolution and {side} by the pooling: {out} * {side} * {side} features.",
        {
            (4, out * (size // 2) ** 2): "Without padding the convolution takes a pixel off each side.",
            (4 * out * side**2,): "nn.Flatten keeps the batch.",
            (4, out): "The pixels are flattened, too.",
        },
    )


def recurrent_count(rng: random.Random) -> Question:
    kind, gates = rng.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    i, h = rng.choice([(10, 20), (3, 4), (8, 16)])
    one = i * h + h * h + 2 * h
    return Question(
        ALL.format(f"nn.{kind}({i}, {h})"),
        COUNT,
        f"{gates} times ({i} * {h} from the input, {h} * {h} from the state, and two biases of {h}).",
        without(
            gates * one,
            {
                one: f"That is a plain RNN; a {kind} has {gates} such parts.",
                gates * (one - h): "torch keeps two biases, one for the input and one for the state.",
                gates * (one - 2 * h): "There are biases, too: two of them.",
                4 * one: "An LSTM has four parts, a GRU three, an RNN one.",
            },
        ),
    )


def recurrent_order(rng: random.Random) -> Question:
    b, t, h = rng.choice([(5, 2, 4), (8, 3, 6), (4, 7, 5)])
    return Question(
        f"output, h_n = nn.RNN(3, {h})(torch.zeros({b}, {t}, 3))\nh_n.shape",
        SHAPE,
        f"Without batch_first=True it reads (time, batch, features): {b} steps of a batch of {t}. h_n is (layer, batch, h).",
        {
            (1, b, h): f"The first dimension was read as time: the batch is {t}.",
            (b, h): "h_n has a first dimension for layers and directions.",
            (b, 1, h): "h_n is never batch-first, and here neither is the input.",
            (b, t, h): "That is the output: the state after every step.",
        },
    )


def bidirectional(rng: random.Random) -> Question:
    b, t, h = rng.choice([(2, 5, 4), (3, 7, 6), (6, 4, 5)])
    layers = rng.choice([1, 2])
    asked = rng.choice(["output", "h_n"])
    output, states = (b, t, 2 * h), (2 * layers, b, h)
    wrong: dict[Answer, str] = {
        (b, t, h): "Each step has two states, one of each direction, joined.",
        (t, b, 2 * h): "batch_first=True: the batch comes first.",
        states: "That is h_n.",
    }
    if asked == "h_n":
        wrong = {
            (2 * layers, b, 2 * h): "h_n holds each direction on its own.",
            (layers, b, 2 * h): "h_n holds each direction on its own, not joined.",
            (layers, b, h): "There are two directions for each layer.",
            (b, 2 * layers, h): "h_n has the batch second, even with batch_first=True.",
            output: "That is the output.",
        }
    return Question(
        f"gru = nn.GRU(3, {h}, num_layers={layers}, bidirectional=True, batch_first=True)\n"
        f"output, h_n = gru(torch.zeros({b}, {t}, 3))\n{asked}.shape",
        SHAPE,
        "output (batch, time, 2 h) joins the directions of the last layer; h_n (2 layers, batch, h) holds them one by one.",
        without(output if asked == "output" else states, wrong),
    )


families: dict[str, Family] = {
    "conv_shape": conv_shape,
    "conv_stride": conv_stride,
    "dilation": dilation,
    "too_small": too_small,
    "pool_size": pool_size,
    "pool_overlap": pool_overlap,
    "conv_count": conv_count,
    "conv_any_image": conv_any_image,
    "dense_count": dense_count,
    "flat_features": flat_features,
    "recurrent_count": recurrent_count,
    "recurrent_order": recurrent_order,
    "bidirectional": bidirectional,
}
