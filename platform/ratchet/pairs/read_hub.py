"""Rows of data sets on the Hugging Face hub. The only module that reads them with `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.hub import commit_of
from ratchet.plan.data import Hub


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
    if Path(hub.name).exists():
        raise DataError(
            f"{hub.name} is a file or folder here, whose changes would go unnoticed",
            where=hub_label(hub),
            fix="give it as `path:`, where its content is looked at; or call the folder otherwise",
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
    )


def hub_label(hub: Hub) -> str:
    """Return the name under which a data set's rows are reported."""
    return "hub:" + "/".join(filter(None, (hub.name, hub.config, hub.split)))
