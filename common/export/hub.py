"""Upload of an exported folder to a model repository of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError, one_line
from common.io.connectivity import within

ANSWER_SECONDS = 20.0  # for the server to say who the token belongs to
MIN_BYTES_PER_SECOND = 1e5  # of an upload that is waited for
T = TypeVar("T")


def check_hub(repo_id: str) -> None:
    """Raises UserError if `repo_id` cannot be a repository's, there is no token, or the hub does not take it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push {repo_id}: name the repository as ORGANIZATION/NAME") from error
    if "/" not in repo_id:
        raise UserError(f"--push {repo_id}: name the repository as ORGANIZATION/NAME")
    if get_token() is None:
        raise UserError(f"--push {repo_id}: no token of the hub; set HF_TOKEN, or run `hf auth login`")
    ask(repo_id, ANSWER_SECONDS, lambda: new_api().whoami())


def push(folder: Path, repo_id: str, private: bool = True) -> str:
    """Uploads the folder in one commit, and returns the repository's address; a new repository is made if there is none.

    Raises:
        UserError: The hub refuses, or does not answer in time; the folder stays where it is.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = ANSWER_SECONDS + size / MIN_BYTES_PER_SECOND
    message = "Export of Lightning Capstones"

    def upload() -> str:
        api = new_api()
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        return str(url)

    try:
        return ask(repo_id, seconds, upload)
    except UserError as error:
        raise UserError(f"{error}; {folder} is written, `hf upload {repo_id} {folder}` tries it again") from error


def new_api() -> Any:
    """Client of the hub, or of the server of HF_ENDPOINT."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="lightning-capstones")


def ask(repo_id: str, seconds: float, request: Callable[[], T]) -> T:
    """Result of a request. Raises UserError if the hub refuses it, or does not answer within `seconds`."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return within(seconds, request)
    except TimeoutError as error:
        raise UserError(f"--push {repo_id}: the hub has not answered in {seconds:.0f} seconds; try again later") from error
    except Exception as error:  # what goes wrong on the way to a server has a dozen types
        raise UserError(f"--push {repo_id}: {one_line(error, 200)}") from error
