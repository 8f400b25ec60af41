"""Quiz: asks predictions in the terminal, explains wrong answers, and lets them come back in new variants."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from common.errors import UserError
from foundations.catalog import CHAPTERS, all_exercises, is_prediction, load_questions
from foundations.predictions import Family, Question, could_answer, is_right, make_question, parse_answer
from foundations.progress import Progress

QUESTIONS = 6
SKIP = "?"  # as an answer
PLACE_QUESTIONS = 10


class Asker:
    """Source of answers: those of the command line, else the terminal.

    Args:
        answers: Answers in order; None to ask in the terminal.
    """

    def __init__(self, answers: Sequence[str] | None) -> None:
        self.given: Iterator[str] | None = None if answers is None else iter(answers)

    def ask(self, question: Question, heading: str) -> bool:
        """Asks `question`, says whether the answer is right and why, and returns it. Raises UserError without an answer."""
        print(f"{heading}\n{question.text}")
        answer = parse_answer(self.read())
        while answer != SKIP and not could_answer(question, answer):
            if self.given is not None:
                raise UserError(f"{answer!r} is no answer to: {question.ask} (`{SKIP}` skips it)")
            print(f"  Not an answer to: {question.ask} (`{SKIP}` skips it)")
            answer = parse_answer(self.read())
        if is_right(question, answer):
            print(f"  Right. {question.reason}\n")
            return True
        print(f"  It is {question.answer}. {question.message(answer)}\n")
        return False

    def read(self) -> str:
        """The next answer as it is typed. Raises UserError without one."""
        if self.given is None:
            try:
                return input("  > ")
            except EOFError:
                raise UserError("no answer: run it in a terminal, or give the answers as `--answers ANSWER ...`") from None
        text = next(self.given, "")
        if not text:
            raise UserError("fewer answers than questions: give one for each, as `--answers ANSWER ...`")
        print(f"  > {text}")
        return text


def ask_prediction(progress: Progress, exercise: str, answers: Sequence[str] | None) -> int:
    """Asks the questions of a prediction, each of its families once.

    What is answered wrongly is explained and comes back later, in a new variant (`review`). The exercise is passed when
    no question of it is left.
    """
    families: dict[str, Family] = load_questions(exercise)
    asked = sorted(families, key=lambda family: random.Random(f"{progress.seed}-{family}").random())[:QUESTIONS]
    waiting = [item for item in known_questions(progress) if item[0] == exercise]
    return _ask(progress, waiting or [(exercise, family, progress.seed) for family in asked], Asker(answers))


def review(progress: Progress, answers: Sequence[str] | None) -> int:
    """Asks what was answered wrongly before, in new variants."""
    questions = known_questions(progress)
    if not questions:
        print("No question waits.")
        return 0
    return _ask(progress, questions, Asker(answers))


def known_questions(progress: Progress) -> list[tuple[str, str, int]]:
    """Questions that come back; those of a family that is no longer there are forgotten."""
    progress.review = [item for item in progress.review if item[1] in load_questions(item[0])]
    progress.save()
    return list(progress.review)


def _ask(progress: Progress, questions: Sequence[tuple[str, str, int]], asker: Asker) -> int:
    """Asks questions (exercise, family, seed), keeps what was wrong for later, and passes what is complete."""
    wrong = 0
    for number, (exercise, family, seed) in enumerate(questions, 1):
        question = make_question(load_questions(exercise), family, seed)
        right = asker.ask(question, f"{exercise} {number}/{len(questions)}")
        progress.review = [item for item in progress.review if item[:2] != (exercise, family)]
        if not right:
            wrong += 1
            progress.review.append((exercise, family, seed + 1))
        progress.save()
    for exercise in dict.fromkeys(name for name, _, _ in questions):
        if not any(name == exercise for name, _, _ in progress.review):
            progress.entry(exercise).passed = "answered"
    progress.save()
    again = "They come back in new variants: `review`." if wrong else ""
    print(f"{len(questions) - wrong} of {len(questions)} right. {again}".rstrip())
    return int(wrong > 0)


def place(answers: Sequence[str] | None, seed: int = 0) -> None:
    """Asks ten questions over all chapters, and says at which chapter to begin: the first with a wrong answer."""
    asker = Asker(answers)
    pool = [(name, family) for name in all_exercises() if is_prediction(name) for family in sorted(load_questions(name))]
    rng = random.Random(seed)
    by_chapter = {chapter.name: [item for item in pool if item[0] in chapter.exercises] for chapter in CHAPTERS}
    chosen: list[tuple[str, str]] = []
    while len(chosen) < min(PLACE_QUESTIONS, len(pool)):  # one of each chapter in turn
        for items in by_chapter.values():
            if items and len(chosen) < PLACE_QUESTIONS:
                chosen.append(items.pop(rng.randrange(len(items))))
    chosen.sort(key=lambda item: all_exercises().index(item[0]))
    first_wrong = ""
    for number, (exercise, family) in enumerate(chosen, 1):
        right = asker.ask(make_question(load_questions(exercise), family, seed), f"{number}/{len(chosen)}")
        first_wrong = first_wrong or ("" if right else exercise)
    for chapter in CHAPTERS:
        if first_wrong in chapter.exercises:
            print(f"Begin with chapter {CHAPTERS.index(chapter) + 1}, {chapter.name}: foundations/lessons/{chapter.name}.md")
            return
    print(f"All right. Begin with a challenge: {', '.join(chapter.exercises[-1] for chapter in CHAPTERS)}")
