"""Play command: `python -m projects.policy_gradient.play --checkpoint PATH`.

Prints the return of each episode, and with `--video` writes an animation of the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, add_checkpoint, positive, report_errors, seed_value
from common.errors import UserError


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.policy_gradient.play", description="Plays episodes with a trained policy, and records one."
    )
    add_checkpoint(parser)
    help_text = "Its environment, where that is your own, MODULE:ENV: code that a checkpoint alone does not run."
    parser.add_argument("--source", metavar="ID", help=help_text)
    parser.add_argument("--episodes", type=positive, default=10, metavar="N", help="Number of episodes (default: 10).")
    parser.add_argument(
        "--seed", type=seed_value, default=0, help="Seed of the first episode; the others count on (default: 0)."
    )
    parser.add_argument("--stochastic", action="store_true", help="Sample actions as in training, instead of greedy ones.")
    parser.add_argument("--video", type=Path, metavar="GIF", help="Write the first episode as an animation.")
    parser.add_argument("--untrained", action="store_true", help="In the video, an untrained agent on the left.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    parser = new_parser()
    options = parser.parse_args(args)
    if options.untrained and options.video is None:
        parser.error("argument --untrained: it is for a video, add --video GIF")
    return report_errors(lambda: play(options))


def play(options: argparse.Namespace) -> None:
    """Prints the return of each episode and their mean, and records the first."""
    from projects.policy_gradient.inference import load
    from projects.policy_gradient.metrics import episode_metrics
    from projects.policy_gradient.video import record_agent

    agent = load(options.checkpoint, source=options.source)
    seeds = range(options.seed, options.seed + options.episodes)
    stats = agent.evaluate(seeds, options.stochastic)
    for seed, episode_return, length in zip(seeds, stats.returns, stats.lengths, strict=True):
        print(f"episode {seed}: return {episode_return:.1f} in {length} steps")
    metrics = episode_metrics(stats.returns, stats.lengths)
    print(
        f"{agent.env_info.id}, {len(stats)} episodes: mean return {metrics['return_mean']:.1f}, "
        f"standard deviation {metrics['return_std']:.1f}, minimum {metrics['return_min']:.1f}"
    )
    if options.video is not None:
        try:
            print(record_agent(agent, options.video, options.seed, options.stochastic, options.untrained))
        except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing writes
            raise UserError(f"--video {options.video}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
