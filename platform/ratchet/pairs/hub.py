"""Data sets on the Hugging Face hub. A name becomes a commit before anything is read: names move, commits do not."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ratchet.errors import DataError
from ratchet.plan.data import Hub
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
    # Here, as it takes half a second to load, and most plans name no place on the hub.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_SECONDS).sha)
    # The hub has answered. What the cache has under this name is then of the past.
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        if (kept := _in_cache(kind, name, revision)) is None:
            raise
        _log.warning("the hub does not say what %s is now (%s): its commit %s is here", name, _kind_of(error), kept)
        return kept


def cached_file(kind: Kind, name: str, revision: str | None, file: str) -> Path | None:
    """Return a file of a commit that this machine's cache has, or None. No request is sent."""
    commit = revision if revision is not None and is_commit(revision) else _in_cache(kind, name, revision)
    path = None if commit is None else _home(kind, name) / "snapshots" / commit / file
    return path if path is not None and path.is_file() else None


def _home(kind: Kind, name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def _in_cache(kind: Kind, name: str, revision: str | None) -> str | None:
    """Return the commit to which a branch or tag leads in the local cache, or None."""
    try:
        commit = (_home(kind, name) / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def _kind_of(error: Exception) -> str:
    return type(error).__name__


def hub_rows(hub: Hub) -> Iterator[dict[str, Any]]:
    """Stream a split's rows without storing them. Raises DataError where the hub cannot serve them."""
    import datasets

    hub = at_commit(hub)
    try:
        rows = datasets.load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision, streaming=True)
        yield from rows
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        raise _unread(hub, error) from error


def at_commit(hub: Hub) -> Hub:
    """Return a data set with the commit that its revision means as its revision.

    Raises DataError where the name is also a folder's, which `datasets` would read in place of the hub's, and where
    the hub cannot say.
    """
    # `datasets` takes a folder of this name before the hub.
    if Path(hub.name).exists():
        raise DataError(
            f"{hub.name} is a file or folder here, whose changes would go unnoticed",
            where=hub_label(hub),
            fix="give it as `path:`, where its content is looked at; or call the folder otherwise",
            code="data.hub-or-folder",
        )
    try:
        return hub.model_copy(update={"revision": commit_of("dataset", hub.name, hub.revision)})
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        raise _unread(hub, error) from error


def _unread(hub: Hub, error: Exception) -> DataError:
    return DataError(
        f"cannot read the data set from the hub: {type(error).__name__}: {str(error)[:300]}",
        where=hub_label(hub),
        fix="check name, config, split and revision, and that this machine reaches huggingface.co; "
        "or save the data set with `save_to_disk` and give its folder as `path:`",
        code="data.hub",
    )


def hub_label(hub: Hub) -> str:
    """Return the name under which a data set's rows are reported."""
    return "hub:" + "/".join(filter(None, (hub.name, hub.config, hub.split)))
