"""How well an agent plays: `python -m projects.policy_gradient.play --checkpoint PATH`; `--help` lists the flags.

Prints the return of each episode, and with `--film` writes an animation of one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.command import OneLineParser, positive, report_errors
from common.errors import UserError


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.policy_gradient.play", description="Plays episodes with a trained policy, and films one."
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="A checkpoint of a run.")
    parser.add_argument("--episodes", type=positive, default=10, metavar="N", help="How many (default: 10).")
    parser.add_argument("--seed", type=int, default=0, help="Of the first episode; the others count on (default: 0).")
    parser.add_argument("--sample", action="store_true", help="Draw actions as in training, not the likeliest ones.")
    parser.add_argument("--film", type=Path, metavar="GIF", help="Write the first episode as an animation.")
    parser.add_argument(
        "--untrained", action="store_true", help="In the film, on the left, an agent that has learned nothing."
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    parser = new_parser()
    options = parser.parse_args(args)
    if options.seed < 0:
        parser.error(f"argument --seed: {options.seed} is below 0")
    if options.untrained and options.film is None:
        parser.error("argument --untrained: it is for a film, add --film GIF")
    return report_errors(lambda: play(options))


def play(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for."""
    from projects.policy_gradient.films import film_episode, save_film
    from projects.policy_gradient.inference import load_agent, score
    from projects.policy_gradient.pictures import film_beside_untrained

    agent = load_agent(options.checkpoint)
    episodes = score(agent, list(range(options.seed, options.seed + options.episodes)), options.sample)
    for seed, total, length in zip(
        range(options.seed, options.seed + options.episodes), episodes.returns, episodes.lengths, strict=True
    ):
        print(f"episode {seed}: return {total:.1f} in {length} steps")
    returns = episodes.returns
    print(
        f"{agent.task.id}, {len(returns)} episodes: mean return {returns.mean():.1f}, "
        f"deviation {returns.std(correction=0):.1f}, lowest {returns.min():.1f}"
    )
    if options.film is None:
        return
    try:
        if options.untrained:
            print(film_beside_untrained(agent, options.film, options.seed))
        else:
            print(
                save_film(
                    [film_episode(agent.task, agent.policy(options.sample, options.seed), options.seed)[0]], options.film
                )
            )
    except (OSError, ValueError) as error:  # no such folder, or a suffix that nothing writes
        raise UserError(f"--film {options.film}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
