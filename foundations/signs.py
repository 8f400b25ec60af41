"""Signs of the twelve faults: what each does to the curves, and to what `--debug` and the callbacks report."""

from __future__ import annotations

CURVES = {
    "no_shuffle": "the training's loss goes in waves of an epoch, near 0 within a class, high where the next begins.",
    "broadcast": "both curves stop early at the variance of the targets, as if nothing could be learned.",
    "flow": "the loss does not leave its first value, or falls once from a huge one to that of a guess.",
    "frozen": "the loss falls a little at first, then stays well above what the network could reach.",
    "zero_grad": "the loss falls, then swings wider and wider, though nothing was changed.",
    "softmax": "the loss falls slowly and stops at a floor far above 0, though the answers get better.",
    "leak": "training and validation both look good; on data that nobody has seen the model is clearly worse.",
    "lr": "the loss jumps from the first steps on, by whole orders, or is no number any more.",
    "axis": "the validation may look well or badly; one sample at a time, the model is worse by far.",
    "eval_mode": "the training's loss falls as it should, and the validation's stays far above it and uneven.",
    "shift": "training and validation end far above what a sound network reaches: the pairs do not belong together.",
    "metric": "nothing is wrong with the curves; the metric says a little more than a count of the right answers.",
}
REPORTS = {
    "no_shuffle": "grad/norm swings between almost 0 and large; one batch can be overfitted: the network is sound.",
    "broadcast": "shapes end in (B, 1) where the targets are (B,); one batch cannot be overfitted below its variance.",
    "flow": "the weights' gradients and the outputs are tiny in the first step, or grad/norm begins in the hundreds.",
    "frozen": "`--debug gradients` checks only some of the parameters: the others are not trainable.",
    "zero_grad": "grad/norm grows and grows, while one batch can be overfitted by an optimizer that clears its gradients.",
    "softmax": "all outputs lie between 0 and 1, or one batch cannot be overfitted though the gradients are right.",
    "leak": "every check passes, and the validation says the same if it is asked again: compare it with new patients.",
    "lr": "grad/norm is fine in the first step and jumps after it; the gradients themselves agree with the loss.",
    "axis": "every check passes, and the shapes are right; the validation, asked one by one, says something else.",
    "eval_mode": "gradients agree, one batch can be overfitted; in evaluation mode the same model gives another number.",
    "shift": "one batch can be overfitted (repetition teaches any pairs), and the validation says the same if asked again.",
    "metric": "every check passes; the validation, asked again, is a little lower, though the model is sound.",
}
