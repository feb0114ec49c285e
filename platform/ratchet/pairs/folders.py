"""Which files of a folder a source reads: one saved by `datasets`, or the clone of a data set of the hub.

A split is chosen first, so that no training file is ever read together with a test file. Where the folder does not
say what is what, nothing is guessed, and the error names the files that are there.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ratchet.errors import DataError, some
from ratchet.pairs.splits import TRAIN, choose_split

CARD = "README.md"
_STATE = "state.json"
_DICT = "dataset_dict.json"
_NO_ROWS = (_DICT, _STATE, "dataset_info.json", "dataset_infos.json")
# As `datasets` writes shards: the whole of what stands before is the split.
_SHARD = re.compile(r"(?P<of>(?:.*/)?(?P<split>[^/]+?))-(?P<at>\d{5})-of-(?P<all>\d{5})\.[^/]*")
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder: the names of all files below it, the way to read one, and what kind of rows one has by its name."""

    root: str
    names: Sequence[str]
    read: Callable[[str], bytes]
    kind: Callable[[str], str | None]


def files_below(folder: Folder, split: str | None, config: str | None) -> list[str]:
    """Return the names of the files of a split, in order.

    Raises DataError where the folder has none, has several and none is named, or does not say what is what.
    """
    if _STATE in folder.names:
        if split or config:
            raise _bad_split(folder, "the folder is one data set without splits", "leave `split:` and `config:` out")
        return _saved(folder, "")
    saved = sorted({name.split("/")[0] for name in folder.names if name.count("/") == 1 and name.endswith(_STATE)})
    if saved:
        return _saved(folder, choose_split(saved, split, folder.root, "split") + "/")
    if _DICT in folder.names:
        raise _gone(folder, "no split is there, of those that it was saved with", "fetch or save it again")
    rows = [name for name in folder.names if folder.kind(name) is not None and name.split("/")[-1] not in _NO_ROWS]
    if not rows:
        there = some(sorted(folder.names)) or "nothing"
        fix = "give a folder saved by `datasets`, a clone of a data set, or the files themselves"
        raise DataError(f"the folder has no file of rows; it has {there}", where=folder.root, fix=fix, code="data.form")
    of_card = _of_card(folder, config)
    splits = of_card if of_card is not None else _by_name(folder, rows, config)
    if not splits:
        raise DataError(
            f"the folder was not saved by `datasets`, and its files name no split: {some(rows)}",
            where=folder.root,
            fix=f"give the files themselves, for example path: {folder.root}/{_pattern(rows)}",
            code="data.form",
        )
    name = choose_split(sorted(splits), split, folder.root, "split")
    files = sorted(set(splits[name]))
    if not files:
        raise _gone(folder, f"no file is there that the card names for the split {name}", "fetch the data set again")
    if of_card is None:
        _check_alike(folder, name, files)
    _check_shards(folder, files)
    return files


def _bad_split(folder: Folder, what: str, fix: str) -> DataError:
    return DataError(what, where=folder.root, fix=fix, code="data.split")


def _gone(folder: Folder, what: str, fix: str) -> DataError:
    return DataError(what, where=folder.root, fix=fix, code="data.no-file")


def _saved(folder: Folder, below: str) -> list[str]:
    """Return the Arrow files of a folder written by `Dataset.save_to_disk`."""
    state = f"{below}{_STATE}"
    try:
        files = [below + item["filename"] for item in json.loads(folder.read(state))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read the list of data files: {error!r}",
            where=f"{folder.root}/{state}",
            fix="save it again",
            code="data.damaged",
        ) from error
    if lost := [name for name in files if name not in folder.names] or ([] if files else ["all"]):
        raise _gone(folder, f"data files are missing: {', '.join(lost)}", "fetch or save it again")
    return files


def _of_card(folder: Folder, config: str | None) -> dict[str, list[str]] | None:
    """Return the files of each split as the head of the card names them, or None where it names none."""
    if CARD not in folder.names:
        return None
    head = re.match(r"\ufeff?---\s*\n(.*?)\n---", folder.read(CARD).decode("utf-8", "replace"), re.DOTALL)
    if head is None:
        return None
    import yaml

    try:
        configs = (yaml.safe_load(head[1]) or {}).get("configs") or ()
        named = {one.get("config_name", "default"): one for one in configs if {"data_files", "data_dir"} & {*one}}
        if not named:
            return None
        usual = next((one.get("config_name", "default") for one in configs if one.get("default")), None)
        chosen = named[choose_split(list(named), config or usual, folder.root, "config")]
        root = f"{(chosen.get('data_dir') or '.').rstrip('/')}/".removeprefix("./")
        names = {name.removeprefix(root): name for name in folder.names if name.startswith(root)}
        if "data_files" not in chosen:
            return _by_name(folder, [name for name in names.values() if folder.kind(name) is not None], None)
        return {
            split: [names[name] for name in names if any(_matches(name, one) for one in of)]
            for split, of in _patterns(chosen["data_files"]).items()
        }
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read which files the card names: {error}",
            where=f"{folder.root}/{CARD}",
            fix="mend the card's head, or give the files themselves as `path:`",
            code="data.form",
        ) from error


def _patterns(files: Any) -> Mapping[str, list[str]]:
    """Return the patterns of each split: a card has a pattern, a list of them, or splits with theirs."""
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    found: dict[str, list[str]] = {}
    for one in [files] if isinstance(files, str) else files:
        split, path = (TRAIN, one) if isinstance(one, str) else (str(one["split"]), one["path"])
        found.setdefault(split, []).extend([path] if isinstance(path, str) else path)
    return found


def _matches(name: str, pattern: str) -> bool:
    """Say whether a pattern of a card names a file; `**` goes into folders, `*` does not, `{a,b}` is one of them."""
    parts = re.split(r"(\*\*/?|[*?{},]|\[[^]]+\])", pattern.removeprefix("./"))
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if "{" in parts:
        signs |= {"{": "(?:", ",": "|", "}": ")"}
    return re.fullmatch("".join(p if p[:1] == "[" else signs.get(p) or re.escape(p) for p in parts), name) is not None


def _by_name(folder: Folder, rows: Sequence[str], config: str | None) -> dict[str, list[str]]:
    """Return files by the split that their names, or else their folders, say; of one thing without splits as train."""
    if config is not None:
        below = sorted({name.split("/")[0] for name in rows if "/" in name})
        if config not in below:
            there = f"it has {', '.join(below)}" if below else "it has no folder of rows"
            raise _bad_split(folder, f"there is no config {config}: {there}", "name one of these folders, or none")
        rows = [name for name in rows if name.startswith(f"{config}/")]
    found: dict[str, list[str]] = {}
    for name in rows:
        if (split := _split_of(name)) is not None:
            found.setdefault(split, []).append(name)
    if not found and len(_kinds(rows)) == 1:
        return {TRAIN: list(rows)}  # all that is there is one thing
    return found


def _split_of(name: str) -> str | None:
    if (shard := _SHARD.fullmatch(name)) is not None:
        return shard["split"]
    for part in reversed(name.lower().split("/")):
        for word in re.findall(r"[a-z]+", part):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return None


def _check_alike(folder: Folder, split: str, files: Sequence[str]) -> None:
    """Raise DataError unless the files of a split are parts of one thing: their names differ by digits alone."""
    kinds = _kinds(files)
    if len(kinds) == 1:
        return
    below = sorted({name.split("/")[0] for name in files if "/" in name})
    fix = f"name one, for example path: {folder.root}/{next(iter(kinds.values()))}"
    if len(below) > 1:
        fix = f"name one folder, for example `config: {below[0]}`; or {fix}"
    raise _bad_split(folder, f"the split {split} may be any of: {some(list(kinds.values()))}", fix)


def _kinds(files: Iterable[str]) -> dict[str, str]:
    """Return the first of the files whose names differ by digits alone, by their names without digits."""
    kinds: dict[str, str] = {}
    for name in files:
        kinds.setdefault(re.sub(r"\d+", "#", name), name)
    return kinds


def _check_shards(folder: Folder, files: Sequence[str]) -> None:
    """Raise DataError where a file says that it is one of many, and one of them is not there."""
    found: dict[tuple[str, int], set[int]] = {}
    for shard in filter(None, map(_SHARD.fullmatch, files)):
        found.setdefault((shard["of"], int(shard["all"])), set()).add(int(shard["at"]))
    for (of, count), there in found.items():
        if lost := [f"{of}-{at:05}-of-{count:05}" for at in range(count) if at not in there]:
            what = f"{len(lost)} of {count} files of one split are missing: {some(lost)}"
            raise _gone(folder, what, "fetch the data set again, or give the files themselves as `path:`")


def _pattern(rows: Iterable[str]) -> str:
    """Return a pattern of all the files where they lie in one folder and are of one form, else the first one's name."""
    names = sorted(rows)
    endings = {(name.rpartition("/")[0], name.rpartition("/")[2].partition(".")[2]) for name in names}
    if len(names) == 1 or len(endings) > 1:
        return names[0]
    folder, ending = endings.pop()
    return f"{folder}/*.{ending}" if folder else f"*.{ending}"
