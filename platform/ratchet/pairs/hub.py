"""A name on the Hugging Face hub becomes a commit before anything is read: names move, and commits do not."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Literal

from ratchet.plan.model import is_commit

Kind = Literal["dataset", "model", "space"]
_SECONDS = 30.0
_log = logging.getLogger(__name__)


@functools.cache
def commit_of(kind: Kind, name: str, revision: str | None) -> str:
    """Return the commit that a name with its revision (None: the default branch) means, the same all through a process.

    Where the hub cannot be asked, it is the one that this machine's cache has under that name. Raises what the hub's
    library raises where that is missing too.
    """
    if revision is not None and is_commit(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_SECONDS).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        if (kept := _in_cache(kind, name, revision)) is None:
            raise
        _log.warning("the hub does not say what %s is now (%s): its commit %s is here", name, _kind_of(error), kept)
        return kept


def _in_cache(kind: Kind, name: str, revision: str | None) -> str | None:
    """Return the commit to which a branch or tag leads in the local cache, or None."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    try:
        commit = (home / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def _kind_of(error: Exception) -> str:
    return type(error).__name__
