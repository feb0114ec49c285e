"""The files that go along with a job: the plan, its suites, and whatever local files these name.

The list is explicit. Ray's own upload of a folder leaves out what `.gitignore` and its own defaults
name, and says nothing; here an archive with exactly the listed files is made, and Ray takes it as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import io
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ratchet.errors import PlanError
from ratchet.pipeline.paths import named_files
from ratchet.plan.base import is_url
from ratchet.plan.document import dotted
from ratchet.plan.load import planned_suites
from ratchet.plan.schema import Plan
from ratchet.store.files import bytes_text

MOST_BYTES = 99 << 20
"""Ray's dashboard takes bodies of 100 MiB (`DASHBOARD_CLIENT_MAX_SIZE`); the rest is for the archive's own lines."""
MOST_OF_ONE = 25 << 20
"""Ray warns from 10 MiB on; what is larger is copied to every node for every job, and better lies in storage."""
_SHARED = "put it on storage that every node sees, and give its absolute path"


def _not_sent(what: str, *, where: str = "", fix: str = "") -> PlanError:
    return PlanError(what, where=where, fix=fix, code="plan.not-sent")


@dataclasses.dataclass(frozen=True)
class StagedFile:
    """A file under its name in the job's working folder, with the bytes that go, and the key that names it."""

    name: str
    content: bytes
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Staged:
    """Files that go along, by name; `plan` is the plan's name, `elsewhere` what must be on the cluster."""

    plan: str
    files: tuple[StagedFile, ...]
    elsewhere: tuple[str, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents, in hex."""
        return digest_of_files(self.files)


def digest_of_files(files: tuple[StagedFile, ...]) -> str:
    """Return one SHA-256 over the names and contents of files, in hex."""
    lines = (f"{hashlib.sha256(file.content).hexdigest()} {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def stage(path: Path, plan: Plan) -> Staged:
    """Read the plan's file and every local file that it and its suites name, relative to the current folder.

    Raises PlanError where one is missing, lies outside of the current folder, or is too large to be sent.
    """
    found = {_own_name(path): (path, "")}
    elsewhere = []
    for entry, where in _entries(plan):
        if entry.startswith(("/", "~")) or is_url(entry):
            elsewhere.append(entry)
            continue
        for file in _expand(entry, where):
            name = Path(os.path.normpath(file)).as_posix()
            if not file.samefile(found.setdefault(name, (file, where))[0]):
                raise _not_sent(f"two files would be {name}", where=where, fix="copy the plan into the current folder")
    total = 0
    for name, (file, _) in found.items():
        bytes_of_it = file.stat().st_size
        total += bytes_of_it
        # By its size on the disk: such a file is not read into memory first.
        if bytes_of_it > MOST_OF_ONE:
            raise _not_sent(
                f"{bytes_text(bytes_of_it)}, and the most that is sent of one file is {MOST_OF_ONE >> 20} MiB",
                where=name,
                fix=_SHARED,
            )
    if total > MOST_BYTES:
        raise _not_sent(f"the files are {bytes_text(total)} together, and Ray takes {MOST_BYTES >> 20}", fix=_SHARED)
    files = tuple(StagedFile(name, found[name][0].read_bytes(), found[name][1]) for name in sorted(found))
    return Staged(_own_name(path), files, tuple(dict.fromkeys(elsewhere)))


def _entries(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield every file or folder that a plan and its suites name, the suites themselves too, and the key."""
    for suite in planned_suites(plan):
        yield suite.name, "evaluate"
    for one in named_files(plan):
        key = dotted(one.path)
        yield one.text, key if one.suite is None else f"{one.suite.name}.{key}"


def _own_name(path: Path) -> str:
    """Return the name of the plan's file in the job: as it is below the current folder, else its last part."""
    name = os.path.relpath(path)
    return path.name if name.startswith("..") else Path(name).as_posix()


def _expand(entry: str, where: str) -> list[Path]:
    """Return the files that an entry stands for: one, all below a folder, or what a pattern matches."""
    if os.path.normpath(entry).startswith(".."):
        raise _not_sent(
            f"{entry} lies outside of the current folder, and so has no place in the job's",
            where=where,
            fix="submit from a folder that holds it, or give an absolute path that the cluster has",
        )
    path = Path(entry)
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    # A file may have the signs of a pattern in its own name.
    if not path.exists() and glob.has_magic(entry):
        found = sorted(Path(name) for name in glob.glob(entry, recursive=True))  # noqa: PTH207 - the rule of `pairs.files`
    _refuse_links(found, where)
    files = [file for file in found if file.is_file()]
    if not files:
        raise _not_sent(
            f"no file at {entry}",
            where=where,
            fix="relative paths count from where the command is run; absolute ones are the cluster's",
        )
    return files


def _refuse_links(found: list[Path], where: str) -> None:
    """Raise PlanError where a link leads out of the current folder, or is a folder in another: no list has those."""
    here = Path.cwd().resolve()
    for one in found:
        if not one.resolve().is_relative_to(here):
            raise _not_sent(
                f"{one} is {one.resolve()} by a link, and lies outside of the current folder",
                where=where,
                fix="copy it here, or give an absolute path that the cluster has",
            )
        if one.is_symlink() and one.is_dir():
            raise _not_sent(f"{one} is a link to a folder, which is not followed", where=where, fix="copy it here")


def listing(files: tuple[StagedFile, ...], what: str) -> str:
    """Return a line for each file with its size, and one with the sum and the digest of all."""
    lines = [f"{bytes_text(len(file.content)):>10}  {file.name}" for file in files]
    total = bytes_text(sum(len(file.content) for file in files))
    return "\n".join([*lines, f"{total:>10}  {what}: {len(files)} files, sha256 {digest_of_files(files)[:16]}"])


def refuse_ignored(files: tuple[StagedFile, ...]) -> None:
    """Raise PlanError where git ignores a file: no clone has it, and often it was not meant for others."""
    ignored = git_ignored(files)
    if ignored:
        lines = [f"{file.key or 'the plan'}: {file.name} is ignored by git" for file in ignored]
        raise _not_sent("\n".join(lines), fix="take it out of the plan or of .gitignore, or send it with --ignored")


def git_ignored(files: tuple[StagedFile, ...]) -> list[StagedFile]:
    """Return those that git ignores, by their own name or by what a link leads to. None where there is no git.

    Raises PlanError where git does not answer.
    """
    places = {file: _places(Path(file.name)) for file in files}
    try:
        answer = subprocess.run(
            ["git", "check-ignore", "--stdin", "-z"],
            input="\0".join(set().union(*places.values())).encode(),
            capture_output=True,
            check=False,
            # What git says is compared below, in English.
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        return []
    said = answer.stderr.decode(errors="replace").strip()
    if answer.returncode > 1 and "not a git repository" not in said:
        raise _not_sent(f"git does not say what it ignores: {said}", fix="mend that, or send all with --ignored")
    ignored = set(answer.stdout.decode().split("\0"))
    return [file for file in files if places[file] & ignored]


def _places(path: Path) -> set[str]:
    """Return the names to ask git for, which looks at nothing beyond a link: the link, and what it leads to."""
    link = next((one for one in reversed([path, *path.parents]) if one.is_symlink()), None)
    return {path.as_posix()} if link is None else {link.as_posix(), os.path.relpath(path.resolve())}


def pack(files: tuple[StagedFile, ...], target: Path) -> None:
    """Write files into a zip archive whose bytes depend on nothing but them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Without the time and mode of a checkout: the same files are the same archive.
            entry = zipfile.ZipInfo(file.name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.content, zipfile.ZIP_DEFLATED)
    target.write_bytes(buffer.getvalue())


def library() -> tuple[StagedFile, ...]:
    """Return the files of this library, each as `ratchet/…`."""
    package = Path(__file__).resolve().parent.parent
    found = [path for path in sorted(package.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return tuple(StagedFile(path.relative_to(package.parent).as_posix(), path.read_bytes()) for path in found)


def unpack(files: tuple[StagedFile, ...], folder: Path) -> None:
    """Write files below a folder."""
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
