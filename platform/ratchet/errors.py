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
`codes.CODES`, which begins with it, where somebody must tell two errors of one class apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from ratchet import redact
from ratchet.codes import Code

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
        # Here, because what shows, logs or sends an error knows nothing of secrets.
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
        # By default pickle gives all values by position, and but for the first they are keywords.
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
