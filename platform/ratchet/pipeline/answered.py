"""What a command has answered, kept, so that the same again is answered without torch, Ray or another page.

    store/answered/<fingerprint of what is asked>.json      what was said, and each file that it rests on

What is asked is all that decides the answer: the plan, its suites, versions and code, and the content of each file that
they name. An answer counts while all of these and all that was made are as they were, each file held against its digest
as a run does. Where one is not, the command does its work, and finds what is there. So an answer is only ever a shorter
way to what the work would find.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptError, RatchetError
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, all_steps
from ratchet.pipeline.named_files import named_by, told_by_files
from ratchet.pipeline.paths import schema_parts
from ratchet.pipeline.pins import pinned_before
from ratchet.pipeline.step_folder import step_faults
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import packages_of
from ratchet.plan.load import planned_suites
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan, Wandb
from ratchet.plan.stage_kinds import release_of
from ratchet.plan.suite import Suite
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import read_sealed, write_sealed
from ratchet.store.fingerprint import digest_file, digest_once, fingerprint
from ratchet.store.layout import Layout, layout_at, root_of
from ratchet.store.lease import holder_of
from ratchet.store.made import HELD
from ratchet.store.record import NAME, Entry, faults, legible_record, versions

_DOCUMENTS = ("*.json", "plan.yaml", "report.html", "report.md", "orders/*.json", "scores/*.json", "hub/*.json")
"""What a run writes into its folder, beside its steps."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What a command is asked: in values, and the files and whole folders that these name.

    `state` tells whether any of them was written to in between: their sizes, times and inodes.
    """

    values: Mapping[str, Any]
    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    state: str

    @property
    def command(self) -> str:
        """The command that is asked."""
        return str(self.values["command"])

    @property
    def name(self) -> str:
        """What its answer is kept under."""
        return fingerprint({**self.values, "files": [str(path) for path in (*self.files, *self.folders)]})


@dataclasses.dataclass(frozen=True)
class KeptAnswer:
    """What was said, and what it rests on: `read` by its path, the rest by paths below the storage.

    `read` are the files of the question, `folders` what tells that its folders have not changed. `records` are made
    folders with the digest of their record, `files` what was written beside them, and `absent` what was not there.
    """

    says: Mapping[str, str]
    read: Mapping[str, tuple[int, str]]
    folders: str
    records: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    absent: tuple[str, ...]


def question(values: Mapping[str, Any], schemas: Sequence[Any]) -> Question | None:
    """Return what a command is asked by plans and suites; None where files do not tell what they read.

    That is a name on the hub without a commit, and a task that reads more than it names. Raises RatchetError, OSError.
    """
    files: dict[Path, None] = {}
    folders: dict[Path, None] = {}
    for part in (part for schema in schemas for _, part in schema_parts(schema, ())):
        if not told_by_files(part):
            return None
        for path in named_by(part):
            (folders if path.is_dir() else files)[path] = None
    told = {**values, "versions": versions(), "code": code_digest()}
    return Question(told, tuple(files), tuple(folders), _state([*files, *_below(folders)]))


def plan_question(command: str, plan: Plan, text: str, *, here: bool) -> Question | None:
    """Return what a command is asked by a plan; None as above, and where the command itself is to say what is wrong."""
    try:
        pinned = pinned_before(plan, layout_at(plan.cluster.storage))
        suites = planned_suites(pinned)
        values = {
            "command": command,
            "here": here,
            "storage": str(root_of(plan.cluster.storage)),
            "plan": pinned.model_dump(mode="json"),
            "text": text,
            "suites": [[one.name, one.suite.model_dump(mode="json")] for one in suites],
            "packages": [release_of(stage.kind) for stage in pinned.stages.values()]
            + [packages_of(source) for source in pinned.data.values()],
        }
        return question(values, [pinned, *(one.suite for one in suites)])
    except (RatchetError, OSError):
        return None


def evaluation_question(
    models: Mapping[str, ModelSpec], file: Path, suite: Suite, cluster: Cluster, wandb: Wandb | None, *, here: bool
) -> Question | None:
    """Return what `ratchet evaluate` is asked of models by their names; None as `plan_question`."""
    try:
        values = {
            "command": "evaluate",
            "here": here,
            "storage": str(root_of(cluster.storage)),
            "models": [[name, spec.model_dump(mode="json")] for name, spec in models.items()],
            "suite": [str(file), suite.model_dump(mode="json"), digest_file(file)],
            "cluster": cluster.model_dump(mode="json"),
            "wandb": wandb and wandb.model_dump(mode="json"),
        }
        return question(values, [*models.values(), suite])
    except (RatchetError, OSError):
        return None


def answer_of_run(plan: Plan, asked: Question | None) -> Mapping[str, str] | None:
    """Return what was said to a question about a run, as `answer_in` does."""
    layout = layout_at(plan.cluster.storage)
    return answer_in(layout, layout.run(plan.name), asked)


def answer_in(layout: Layout, folder: Path, asked: Question | None) -> Mapping[str, str] | None:
    """Return what was said to a question that is worked at in `folder`, where all that it rests on is as it was.

    None also while another process works there.
    """
    return find_answer(layout, asked) if holder_of(folder / HELD) is None else None


def keep_answer_of_run(
    run: Run,
    asked: Question | None,
    says: Mapping[str, str],
    results: Iterable[Path] = (),
    journals: Iterable[str] = (),
) -> None:
    """Keep what a run has said to a question, where nothing that it reads was written to meanwhile.

    `results` are folders of suites' results, and `journals` what models wrote, below the storage. Raises StorageError.
    """
    if asked is None or asked != plan_question(asked.command, run.plan, asked.values["text"], here=run.here):
        return
    steps = [run.layout.step(run.plan.name, step.name) for step in all_steps(run.plan, {})]
    made = [step for step in steps if (step / NAME).exists()]
    inputs = [folder for _, folder in run.pairs.values()] + [one.folder for one in run.tokens.values()]
    base = [run.models[BASE].folder] if run.plan.model.scratch is not None else []
    documents = [path for pattern in _DOCUMENTS for path in sorted(run.folder.glob(pattern))]
    keep_answer(
        run.layout,
        asked,
        says,
        dict.fromkeys([*made, *inputs, *base, *sorted(run.scored), *results]),
        dict.fromkeys([*documents, *(run.layout.root / name for name in journals)]),
        [step / NAME for step in steps if step not in made],
    )


def _below(folders: Iterable[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in _walked(folder, frozenset()))


def _walked(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield all files below a folder, also behind links to folders, but for a link to one of the folders `above` it."""
    state = folder.stat()
    if (own := (state.st_dev, state.st_ino)) in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walked(path, above | {own})
        elif path.is_file():
            yield path


def _state(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        state = path.stat()
        # No program can set the time of the last change of a file's state.
        told = (str(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        found.update(repr(told).encode())
    return found.hexdigest()


@functools.cache
def code_digest() -> str:
    """Return a digest of Ratchet's own code and templates, as a change of any may change what a command makes."""
    root = Path(__file__).parents[1]
    files = [path for path in _below([root]) if path.suffix in {".py", ".jinja"}]
    return fingerprint({str(path.relative_to(root)): digest_file(path) for path in files})


def keep_answer(
    layout: Layout,
    asked: Question,
    says: Mapping[str, str],
    made: Iterable[Path],
    files: Iterable[Path],
    absent: Iterable[Path] = (),
) -> None:
    """Keep what was said, with the made folders and the files that it rests on. Raises StorageError.

    Call it with a question that is the same as before the work: what was read is then what is there now.
    """

    def below(path: Path) -> str:
        return str(path.relative_to(layout.root))

    answer = KeptAnswer(
        says=says,
        read={str(path): _entry(path) for path in asked.files},
        folders=_state(_below(asked.folders)),
        records={below(folder): digest_file(folder / NAME) for folder in made},
        files={below(path): _entry(path) for path in files},
        absent=tuple(map(below, absent)),
    )
    write_sealed(layout.answered(asked.name), to_values(answer))


def _entry(path: Path) -> Entry:
    return path.stat().st_size, digest_once(path)


def find_answer(layout: Layout, asked: Question | None) -> Mapping[str, str] | None:
    """Return what was said to a question, where all that it rests on is as it was; else None."""
    try:
        if asked is None or (values := read_sealed(path := layout.answered(asked.name))) is None:
            return None
        answer = from_values(KeptAnswer, values, where=str(path), fix="run again", error=CorruptError)
        return answer.says if all(_as_it_was(layout, asked, answer)) else None
    except (RatchetError, OSError):  # the work is done: it writes it again, or says what cannot be read
        return None


def _as_it_was(layout: Layout, asked: Question, answer: KeptAnswer) -> Iterator[bool]:
    """Yield whether each thing is as it was, the cheap ones first."""
    yield not any((layout.root / name).exists() for name in answer.absent)
    yield _state(_below(asked.folders)) == answer.folders
    for name, digest in answer.records.items():
        record = layout.root / name / NAME
        yield record.is_file() and digest_file(record) == digest
    for name, (size, digest) in answer.files.items():
        # Other runs add lines to a journal: it is as it was as far as it went then.
        grows = name.startswith("store/") and name.endswith(".jsonl")
        yield _same(layout.root / name, size, digest, grows=grows)
    yield from (_same(Path(name), size, digest) for name, (size, digest) in answer.read.items())
    for name in answer.records:
        found = legible_record(layout.root / name)
        yield found is not None and not faults(layout.root / name, found.files) and not step_faults(layout.root / name)


def _same(path: Path, size: int, digest: str, *, grows: bool = False) -> bool:
    if not path.is_file() or path.stat().st_size < size:
        return False
    if grows:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(size)).hexdigest() == digest
    return path.stat().st_size == size and digest_once(path) == digest
