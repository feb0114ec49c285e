"""Files of questions: on this machine, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import DataError
from ratchet.pairs.hub import commit_of
from ratchet.plan.suite import Files
from ratchet.store.files import at_home


def folder_of(files: Files, patterns: Sequence[str]) -> Path:
    """Return the file or folder that is named; one on the hub is fetched, or found in the local cache.

    `patterns` say which files of a repository are wanted. Raises DataError where there is none, or no way to the hub.
    """
    if files.path is not None:
        path = at_home(files.path)
        if not path.exists():
            raise DataError(
                "no such file or folder",
                where=files.path,
                fix="give the file itself as questions: {path: …}; in a suite it counts from the suite's file",
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"hub:{files.hub}"
    try:
        commit = commit_of(files.repository, str(files.hub), files.revision)
        return Path(
            snapshot_download(
                str(files.hub), repo_type=files.repository, revision=commit, allow_patterns=list(patterns)
            )
        )
    except RepositoryNotFoundError as error:
        raise DataError(
            f"the hub has no {files.repository} of this name that you may read",
            where=where,
            fix="correct the name or questions.repository, or set HF_TOKEN for a private one",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            f"is not in the local cache and cannot be fetched: {type(error).__name__}: {str(error)[:300]}",
            where=where,
            fix="check name, revision and network; or download it elsewhere and give questions: {path: …}",
        ) from error
