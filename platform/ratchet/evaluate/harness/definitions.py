"""lm-eval's own tasks, found by name, with data from the hub or from an offline mirror of it.

A definition is used as it stands. Two keys of it say where its data lie and are filled in: `dataset_path`, where there
is a mirror, and the cache folder of `datasets`. That cache knows a local data set by the name of its folder alone.
Another folder of that name would be given the first one's rows, so here every content has its own cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.metadata
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Kind

from ratchet.errors import DataError, PlanError, RatchetError, some
from ratchet.evaluate.harness.data import Copies, content_of, data_digest, files_beside, folder_digest
from ratchet.evaluate.harness.leaderboard import apply_openllm_v1, check_openllm_v1
from ratchet.plan.document import Problem
from ratchet.plan.reading import read
from ratchet.plan.tasks import Harness
from ratchet.store.files import at_home

# The whole index of lm-eval, over ten thousand files, takes half a minute; these folders take a tenth of a second.
_FOLDERS = ("arc", "hellaswag", "mmlu/default", "truthfulqa", "winogrande", "gsm8k")
_FILE_FORMATS = frozenset({"json", "parquet", "csv", "arrow", "text"})
_LONGEST_SAID = 300
_log = logging.getLogger(__name__)
_SHOTS_SEED = 1234  # what lm-eval's command draws examples with


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A task of a suite as lm-eval sees it: its leaves by name, the groups above them, and where their data are from.

    `data` has, for each data set, a digest of its files, or `hub` where lm-eval fetches it. `contents` has, for
    each leaf, a digest of the rows themselves. `metric` is the label of the one that stands for the task.
    `include` is a digest of the folder of your own definitions.
    """

    asked: Harness
    leaves: Mapping[str, Any]
    groups: Mapping[str, Any]
    data: Mapping[str, str]
    contents: Mapping[str, str]
    metric: str
    include: str


class _Factory(TaskFactory):  # type: ignore[misc]
    """Builds tasks by lm-eval's definitions over data at the place they are at here."""

    def __init__(self, data_root: Path | None, copies: Copies) -> None:
        super().__init__()
        self.data_root, self.copies = data_root, copies
        self.data: dict[str, str] = {}

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        name = config.get("dataset_path")
        if entry.kind is Kind.GROUP or not isinstance(name, str):
            return config
        options = dict(config.get("dataset_kwargs") or {})
        if name in _FILE_FORMATS:
            beside = entry.yaml_path.parent if entry.yaml_path else Path()
            options["data_files"], files = files_beside(options.get("data_files"), beside)
            digest = self.data[name] = data_digest(files, beside)
        elif folder := self._folder(name):
            digest = self.data.get(name) or data_digest(
                sorted(path for path in folder.rglob("*") if path.is_file()), folder
            )
            config["dataset_path"], self.data[name] = str(folder), digest
        else:
            self.data[name] = "hub"
            return config
        folder = self.copies.of(digest, str(config.get("dataset_name")))
        return {**config, "dataset_kwargs": {**options, "cache_dir": str(folder)}}

    def _folder(self, name: str) -> Path | None:
        if self.data_root is None:
            return Path(name) if Path(name).is_dir() else None
        folder = self.data_root / name
        if not folder.is_dir():
            raise DataError(
                f"the data set {name} is not in data_root",
                where=str(folder),
                fix="lay data_root out as on the hub: a folder <owner>/<name> with the README.md that lists the "
                "configs and the Parquet files below it, as `hf download --repo-type dataset` leaves it",
                code="data.no-file",
            )
        return folder


def load_definitions(asked: Harness, data_root: Path | None, cache: Path) -> Loaded:
    """Return a task of a suite, with its data read and its shots set. `cache` is a folder for `datasets`' copies.

    Raises PlanError where lm-eval has no such task or the profile does not fit it; DataError where its data
    cannot be read.
    """
    if asked.profile == "openllm-v1":
        check_openllm_v1(asked)
    manager, copies = _manager(asked), Copies(cache)
    manager._factory = factory = _Factory(data_root, copies)
    try:
        with copies:
            found = manager.load([asked.task])
    except RatchetError:
        raise
    except (datasets.exceptions.DatasetsError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the data of {asked.task} cannot be read: {type(error).__name__}: {str(error)[:300]}",
            where=str(data_root) if data_root else f"hub: {some(sorted(factory.data))}",
            fix="check that this machine reaches huggingface.co and may read the data set, "
            "or give a folder laid out as on the hub as data_root",
        ) from error
    except Exception as error:
        raise failure_of(error, asked.task) from error
    leaves = found["tasks"]
    _refuse(asked, found)
    for task in leaves.values():
        _set_shots(asked, task)
        if asked.profile == "openllm-v1":
            apply_openllm_v1(asked.task, task)
    return Loaded(
        asked,
        leaves,
        found["groups"],
        factory.data,
        {name: content_of(task) for name, task in leaves.items()},
        _metric(asked, leaves, found["groups"]),
        folder_digest(asked.include),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what lm-eval, `datasets` and transformers say off the terminal for a while."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers.tokenization_utils_base")]
    levels = [logger.level for logger in loggers]
    bars, caching = not datasets.are_progress_bars_disabled(), datasets.is_caching_enabled()
    datasets.disable_caching()  # what is made of a copy while it is read would lie beside it, and nobody would check it
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if caching:
            datasets.enable_caching()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def _manager(asked: Harness) -> TaskManager:
    root = Path(lm_eval.tasks.__file__).parent
    own = [at_home(asked.include)] if asked.include else []
    if own and not own[0].is_dir():
        raise PlanError(
            f"no folder {asked.include}",
            fix="give the folder of your own task definitions as include",
            code="plan.task",
        )
    if own:
        check_definitions(own[0])
    manager = TaskManager(include_defaults=False, include_path=[*(root / name for name in _FOLDERS), *own])
    if asked.task in manager.task_index:
        return manager
    manager = TaskManager(include_path=own)
    if asked.task not in manager.task_index:
        near = difflib.get_close_matches(asked.task, manager.all_tasks, n=5)
        raise PlanError(
            f"lm-eval {lm_eval.__version__} has no task {asked.task}",
            fix=f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists them",
            code="plan.task",
        )
    return manager


def _refuse(asked: Harness, found: Mapping[str, Any]) -> None:
    if len(found["tasks"]) > 1 and not found["groups"]:
        raise PlanError(
            f"{asked.task} is a tag of {len(found['tasks'])} tasks without a total: {some(sorted(found['tasks']))}",
            fix="name each of them as a task of the suite",
            code="plan.task",
        )
    for name, task in found["tasks"].items():
        for trait, why in {
            "UNSAFE_CODE": "runs code that the model wrote",
            "MULTIMODAL": "shows images or sound",
        }.items():
            if getattr(task, trait, False):
                raise PlanError(f"{name} {why}", fix="it cannot be asked here", code="plan.task")
        if not isinstance(task, ConfigurableTask):
            raise PlanError(f"{name} is a program, not a definition", fix="it cannot be asked here", code="plan.task")


def _set_shots(asked: Harness, task: Any) -> None:
    said = task.config.num_fewshot
    if asked.shots and said == 0:
        raise PlanError(f"{task.task_name} takes no examples", fix="leave shots out", code="plan.task")
    shots = said if asked.shots is None else asked.shots
    task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_SHOTS_SEED)


def _metric(asked: Harness, leaves: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    """Return the label of the metric that the suite names: of the task's first filter, where it names none."""
    task = next(iter(leaves.values()))
    metrics = list(task.aggregation())
    if asked.task in groups:
        metrics = [total.metric for total in groups[asked.task].aggregate_metric_list or ()]
    labels = [f"{metric},{filters.name}".removesuffix(",none") for metric in metrics for filters in task._filters]
    for label in labels:
        if asked.metric in {label, label.partition(",")[0]}:
            return label
    has = f"it has {', '.join(labels)}" if labels else "it has no total: name its tasks one by one"
    raise PlanError(f"{asked.task} has no metric {asked.metric}", fix=has, code="plan.task")


# Tags of lm-eval. `!function` runs Python that lies beside the definition: who names the folder trusts it.
_OWN_TAGS = ("!function", "!include")


def check_definitions(folder: Path) -> None:
    """Hold every YAML file below `folder` to the limits of plans: size, depth, values once aliases are written out.

    Raises PlanError, with the file and line.
    """
    for path in sorted(folder.rglob("*.yaml")):
        refused = [problem for problem in read(path).problems if not _is_own(problem)]
        if refused:
            raise PlanError("\n".join(map(str, refused)))


def _is_own(problem: Problem) -> bool:
    return any(f"the tag {tag} " in problem.what for tag in _OWN_TAGS)


def failure_of(error: Exception, task: str) -> RatchetError:
    """Return the error of Ratchet's that says what a task of lm-eval, or a library that it uses, failed with."""
    if isinstance(error, RatchetError):
        return error
    _log.debug("%s failed", task, exc_info=error)
    if isinstance(error, ImportError):
        name = (error.name or _missing(str(error)) or "").partition(".")[0]
        return PlanError(
            f"{task} needs the Python package {name or '?'}, which is not installed: {_one_line(error)}",
            fix=f"pip install {_requirement(name)}" if name else "install it beside lm-eval",
        )
    if isinstance(error, LookupError) and "nltk" in str(error).lower():
        resource = re.search(r"download\('([\w.-]+)'\)", str(error))
        return DataError(
            f"{task} needs data of NLTK that are not on this machine: {resource[1] if resource else _one_line(error)}",
            fix=f"python -m nltk.downloader {resource[1] if resource else '…'}",
        )
    return DataError(
        f"{task} failed inside lm-eval: {_one_line(error)}",
        fix="look at the task's definition and its data, or leave the task out; the other tasks are asked all the same",
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_SAID]}"


def _missing(said: str) -> str | None:
    found = re.search(r"['\"`]([A-Za-z][\w.-]*)['\"`]", said)
    return found[1] if found else None


def _requirement(module: str) -> str:
    """Return what pip is asked for: the extra of lm-eval that lists the package, or the package."""
    wanted = _plain(module)
    for line in importlib.metadata.requires("lm_eval") or ():
        found = re.match(r"([\w.-]+).*;\s*extra == \"([\w-]+)\"", line)
        if found and _plain(found[1]) == wanted and found[2] not in {"dev", "api"}:
            return f"'lm-eval[{found[2]}]'"
    return module.replace("_", "-")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
