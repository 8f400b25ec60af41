"""One-line messages of jsonargparse's errors, which span lines and name Python types."""

from __future__ import annotations

import difflib
import re
from importlib import import_module

MAX_LENGTH = 300
CLASS_MODULES = ("callbacks", "loggers", "plugins", "profilers", "strategies")  # of Lightning, with classes for an option


def one_line_message(message: str) -> str:
    """`message` as one line: of a union what its members say, if that is more than their types."""
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    text = re.sub(r'^Parser key "(.+?)":', r"--\1:", text)
    text = re.sub(r"^Option '(.+?)' is required but .*", r"the following arguments are required: --\1", text)
    if found := re.match(r"(--.+?): .*Subtypes: \[(.*)\] Errors: .* Given value: (.*)", text):
        key, types, value = found.groups()
        text = f"{key}: {union_message(key, types, value, message)}"
    return text[:MAX_LENGTH]


def union_message(key: str, types: str, value: str, message: str) -> str:
    """What is wrong with the `value` of an option that has several `types`, of which `message` has each one's error."""
    errors = [line.strip(" -") for line in message.partition("Errors:")[2].splitlines()]
    own = [error for error in errors if re.match("Option '|the following arguments are required", error)]
    if own:
        return own[0].removesuffix(" (see --help)")
    if problem := re.search(r"Problem with given class_path '.*?':\s*(.*)", message):
        return f"the class {value} cannot be imported: {problem[1]}"
    if any(error.startswith("Expected a dot import path") for error in errors):
        return f"there is no class {value}{class_suggestion(value)}"
    types = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", types).replace("NoneType, ", "")
    choices = [choice for literal in re.findall(r"Literal\[(.*?)\]", types) for choice in re.findall("'(.*?)'", literal)]
    meant = difflib.get_close_matches(value, choices, 1)
    types = re.sub(r"Literal\[(.*?)\]", lambda literal: literal[1].replace("'", ""), types)
    return f"{value} is none of {types}{f'; did you mean {meant[0]}?' if meant else ''}"


def class_suggestion(name: str) -> str:
    """What follows an unknown class: the one of Lightning's that may be meant; how another is named, if there is none."""
    known = [each for module in CLASS_MODULES for each in import_module(f"lightning.pytorch.{module}").__all__]
    meant = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
    return f"; did you mean {meant[0]}?" if meant else "; write a class of your own as MODULE.CLASS"
