"""Every error that Ratchet raises on purpose.

    RatchetError
    ├── PlanError          2   a YAML file or the command line is wrong
    ├── DataError          3   a source, its rows, or what was made of them is wrong
    ├── ModelError         4   a model or its tokenizer cannot be used
    ├── TrainingError      5   training stopped itself
    ├── RunError           6   the run folder is taken, or belongs to another plan
    ├── ClusterError      69   Ray cannot be started or reached
    ├── EndpointError     69   an engine behind a URL gives no answer
    ├── EngineDeathError  69   an engine in a process of ours ran out of memory, or stopped
    ├── StoppedError      75   the run was asked to stop, and did at a point where it goes on
    └── StorageError      74   disk full, or stored bytes are not what was written
        └── CorruptError  74   a checkpoint, record or table fails its check

The number is the exit status of the `ratchet` command. Errors cross Ray's process borders, so
they are built from plain strings and can be pickled. No secret is in them: not in a log, not in a traceback.

Each error has a `code`, which stays where its sentence is improved: that of its class (`plan`, `data`, …), or one of
`CODES`, which begins with it, where somebody must tell two errors of one class apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from ratchet import redact

Code = Literal[
    "plan.no-point",
    "plan.nothing-finished",
    "plan.no-best",
    "plan.kind",
    "plan.other-file",
    "plan.condition",
    "plan.rows",
    "plan.secret",
    "plan.not-sent",
    "plan.job-setting",
    "plan.manifest",
    "plan.no-room",
    "plan.private-address",
    "plan.task",
    "data.no-report",
    "data.not-json",
    "data.no-file",
    "data.no-rows",
    "data.damaged",
    "data.form",
    "data.hub",
    "data.hub-or-folder",
    "data.no-layout",
    "data.layouts",
    "data.bad-rows",
    "data.left-out",
    "data.nothing-left",
    "data.questions",
    "data.deadly",
    "data.not-comparable",
    "model.template-fails",
    "model.template-alters",
    "model.template-random",
    "model.template-argument",
    "model.no-template",
    "model.changed",
    "model.request",
    "training.not-finite",
    "training.dropped",
    "training.out-of-memory",
    "run.taken-over",
    "run.held",
    "run.other-plan",
    "run.unowned",
    "run.not-promoted",
    "run.edited",
    "run.other-job",
    "run.no-job",
    "cluster.no-answer",
    "cluster.not-ray",
    "cluster.no-tls",
    "cluster.no-token",
    "cluster.old-ray",
    "cluster.forgot-job",
    "cluster.no-command",
    "endpoint.unreachable",
    "endpoint.timeout",
    "endpoint.refused",
    "endpoint.failing",
    "endpoint.answer",
    "endpoint.budget",
    "stopped.at-checkpoint",
    "stopped.without-workers",
    "storage.no-links",
    "storage.full",
    "storage.read-only",
    "storage.unusable",
    "corrupt.document",
    "corrupt.two-answers",
    "corrupt.table",
]
CODES: Mapping[Code, str] = {
    "plan.no-point": "the sweep has no point of this id",
    "plan.nothing-finished": "no trial that could be promoted has finished",
    "plan.no-best": "the sweep has no one best point, and none is named",
    "plan.kind": "a kind that another package adds cannot be used, or is not installed here",
    "plan.other-file": "the file is a plan, a suite or a sweep space, and another of them is needed",
    "plan.condition": "a condition of `where` cannot be read",
    "plan.rows": "a source asks for what its rows cannot give",
    "plan.secret": "a secret would be sent along with a job",
    "plan.not-sent": "a file cannot go along with a job",
    "plan.job-setting": "a job cannot have this name, variable or time",
    "plan.manifest": "a manifest, kustomization or CRD cannot be read or followed",
    "plan.no-room": "a worker or an engine of the plan does not fit into a node",
    "plan.private-address": "a URL leads to an address that is not of the open internet",
    "plan.task": "lm-eval has no such task, or cannot ask it as a suite says",
    "data.no-report": "the folder has no report.json or sweep.json",
    "data.not-json": "a document is not JSON",
    "data.no-file": "a file or folder of rows is not there",
    "data.no-rows": "a file holds no rows",
    "data.damaged": "a file of rows is damaged or cut off",
    "data.form": "a file or folder is none that rows can be read from",
    "data.hub": "the hub does not serve a data set",
    "data.hub-or-folder": "a name on the hub is also that of a file or folder here",
    "data.no-layout": "the rows fit no layout",
    "data.layouts": "the rows fit more than one layout",
    "data.bad-rows": "more of a source's rows are bad than the plan allows",
    "data.left-out": "more of a source's pairs are left out of its tokens than the plan allows",
    "data.nothing-left": "no pair of a source is left to train on or to score",
    "data.questions": "a file of questions, prompts or judgments is broken, or lacks what a task asks for",
    "data.deadly": "engines die over the same requests or pairs",
    "data.not-comparable": "values or results cannot be held against each other",
    "model.template-fails": "a chat template fails on a plain conversation",
    "model.template-alters": "a chat template drops or alters texts",
    "model.template-random": "a chat template writes another text each time",
    "model.template-argument": "the chat template never reads an argument that the plan gives",
    "model.no-template": "there is no chat template, or none of this name",
    "model.changed": "the files of a model are not those that were digested",
    "model.request": "an engine has no answer to a request of this kind",
    "training.not-finite": "a number of an update is not finite, and no more updates may be left out",
    "training.dropped": "the scheduler of a sweep ended the trial",
    "training.out-of-memory": "training ran out of memory",
    "run.taken-over": "another process took over what this one was making",
    "run.held": "another process has what this one asks for, and is alive",
    "run.other-plan": "the folder was begun with another plan, space or content",
    "run.unowned": "the folder holds files, and nothing says what they were made from",
    "run.not-promoted": "a file has the name of the plan to be promoted, and is of something else",
    "run.edited": "a promoted plan has been changed since",
    "run.other-job": "the cluster has a job of this name that was made from something else",
    "run.no-job": "not one job runs that could be stopped",
    "cluster.no-answer": "there is no answer now; the same question may get one later",
    "cluster.not-ray": "what answers is not Ray's dashboard",
    "cluster.no-tls": "the server does not speak TLS, or is not trusted",
    "cluster.no-token": "the cluster refuses the token, or asks for one",
    "cluster.old-ray": "the cluster's Ray is too old",
    "cluster.forgot-job": "the cluster does not know the job",
    "cluster.no-command": "the job failed, and not by its command",
    "endpoint.unreachable": "a server cannot be reached",
    "endpoint.timeout": "a server does not answer in time",
    "endpoint.refused": "a server refuses or redirects a request",
    "endpoint.failing": "a server fails, or asks to wait",
    "endpoint.answer": "a server's answer is not as the protocol says",
    "endpoint.budget": "the budget of requests is used up",
    "stopped.at-checkpoint": "the run was asked to stop, and saved a checkpoint first",
    "stopped.without-workers": "the run was asked to stop while no workers trained",
    "storage.no-links": "the storage's disk makes no hard links",
    "storage.full": "no space is left on the disk",
    "storage.read-only": "the storage may not be written to",
    "storage.unusable": "something stands where the storage needs a file or a folder",
    "corrupt.document": "a JSON document with a digest is not as it was written",
    "corrupt.two-answers": "a journal has two answers to one request",
    "corrupt.table": "a table of tokens is not as it was written",
}
"""What each code means that is finer than its class."""

SHOWN = 8
"""Names that `some` shows."""


def some(names: Sequence[str]) -> str:
    """Return the first names of many, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class RatchetError(Exception):
    """What went wrong, where, and what to do about it; `code` is for programs and tests, and stays.

    `finer` is the code that was given, None where that of the class does.
    """

    exit_code = 1
    class_code: ClassVar[str] = "ratchet"

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: Code | None = None) -> None:
        self.what, self.where, self.fix = redact.words(what), redact.words(where), redact.words(fix)
        self.finer = code
        super().__init__(self.what, self.where, self.fix)

    @property
    def code(self) -> str:
        """The finer code where it was given, else that of the class."""
        return self.finer or self.class_code

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.fix}" if self.fix else head

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix, self.finer)


def _rebuild(kind: type[RatchetError], what: str, where: str, fix: str, code: Code | None) -> RatchetError:
    return kind(what, where=where, fix=fix, code=code)


def error_values(error: RatchetError) -> dict[str, str]:
    """Return an error as JSON values, which a worker hands to its driver and a trial keeps."""
    fields = {"what": error.what, "where": error.where, "fix": error.fix}
    return {"kind": type(error).__name__, **fields, "code": error.code}


def error_from(values: Mapping[str, str]) -> RatchetError:
    """Return the error that `error_values` wrote; those of earlier versions have no code, and get their class's."""
    kinds = {kind.__name__: kind for kind in _classes(RatchetError)}
    code = next((known for known in get_args(Code) if known == values.get("code")), None)
    kind = kinds.get(values["kind"], RatchetError)
    return kind(values["what"], where=values["where"], fix=values["fix"], code=code)


def _classes(kind: type[RatchetError]) -> list[type[RatchetError]]:
    return [kind, *(below for one in kind.__subclasses__() for below in _classes(one))]


class PlanError(RatchetError):
    """A YAML file or the command line is wrong. `what` may hold one line for each problem."""

    exit_code = 2
    class_code = "plan"


class DataError(RatchetError):
    """A source, its rows, or what was made of them is wrong."""

    exit_code = 3
    class_code = "data"


class ModelError(RatchetError):
    """A model or its tokenizer cannot be used."""

    exit_code = 4
    class_code = "model"


class TrainingError(RatchetError):
    """Training stopped itself: a number that is not finite, or a first loss that is not ln 2."""

    exit_code = 5
    class_code = "training"


class RunError(RatchetError):
    """The run folder is held by another process, or belongs to another plan."""

    exit_code = 6
    class_code = "run"


class ClusterError(RatchetError):
    """Ray cannot be started or reached, or does not have what the plan asks for."""

    exit_code = 69
    class_code = "cluster"


class EndpointError(RatchetError):
    """An endpoint cannot be reached, refuses, answers what it must not, or its budget is used up."""

    exit_code = 69
    class_code = "endpoint"


class EngineDeathError(RatchetError):
    """An engine ran out of memory or stopped: another one may do it with less at a time."""

    exit_code = 69
    class_code = "engine"


class StoppedError(RatchetError):
    """The run was asked to stop (SIGTERM, Ctrl-C, `ray job stop`); called again it goes on where it stopped."""

    exit_code = 75
    class_code = "stopped"


class StorageError(RatchetError):
    """The disk is full, or a file cannot be written."""

    exit_code = 74
    class_code = "storage"


class CorruptError(StorageError):
    """Stored bytes are not what was written."""

    class_code = "corrupt"
