"""Rows of data sets on the Hugging Face hub. The only module that reads them with `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratchet.errors import DataError
from ratchet.plan.data import Hub


def hub_rows(hub: Hub) -> Iterator[dict[str, Any]]:
    """Stream a split's rows without storing them. Raises DataError where the hub cannot serve them."""
    import datasets

    try:
        rows = datasets.load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision, streaming=True)
        yield from rows
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        raise DataError(
            f"cannot read the data set from the hub: {type(error).__name__}: {str(error)[:300]}",
            where=hub_label(hub),
            fix="check name, config, split and revision, and that this machine reaches huggingface.co; "
            "or save the data set with `save_to_disk` and give its folder as `path:`",
        ) from error


def hub_label(hub: Hub) -> str:
    """Return the name under which a data set's rows are reported."""
    return "hub:" + "/".join(filter(None, (hub.name, hub.config, hub.split)))
