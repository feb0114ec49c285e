"""Fixtures that every tier shares."""

from __future__ import annotations

import collections
import contextlib
import gc
import os
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from nodes import Nodes
    from ratchet.evaluate.engines.pool import Candidate
    from ray_head import Head
    from whole_run import Whole

# A busy machine is no fault of the code; continuous integration judges a change by the same examples each time.
# RATCHET_EXAMPLES=1000 tries more of each property than the 30 that a change is judged by.
hypothesis.settings.register_profile(
    "ratchet",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=int(os.environ.get("RATCHET_EXAMPLES", "30")),
)
hypothesis.settings.load_profile("ratchet")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RATCHET_SHARED", ROOT.parent / "shared")) / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; a test that needs it skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data at {SHARED}; set RATCHET_SHARED to the folder that holds data/")
    return SHARED


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 260 thousand parameters, as a Hugging Face folder.

    It is the published story model where there is real data, and else one of the same shape with random weights. A
    test that needs what the real one has learnt takes `published` too.
    """
    folder = tmp_path_factory.mktemp("stories")
    script = SHARED / "stories260K" / "convert_to_hf.py"
    if script.is_file():
        arguments, sys.argv = sys.argv, [str(script), str(folder)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # the script leaves its files to be closed
                runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.argv = arguments
    else:
        from tiny_models import write_stories

        write_stories(folder)
    return folder


@pytest.fixture(scope="session")
def published(shared: Path) -> None:
    """Skip where the published story model is not there: its weights are the point."""
    if not (shared / "stories260K").is_dir():
        pytest.skip(f"no published story model in {shared}")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A model of random weights whose 96 positions cut every context of the own lm-eval tasks from the left."""
    from harness_example import SPEC, candidate_of
    from ratchet.model.scratch import make_scratch
    from token_pairs import TEXTS

    folder = tmp_path_factory.mktemp("models") / "small"
    make_scratch(SPEC, TEXTS, folder)
    return candidate_of(folder, 96)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A Ray of a head and two worker hosts in network namespaces."""
    from nodes import Nodes

    with Nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def token_head() -> Iterator[Head]:
    """A Ray head that asks for a token."""
    from ray_head import ray_head

    with ray_head() as head:
        yield head


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A plan that has run to its end on a Ray of its own, with secrets in its environment."""
    from whole_run import run_whole

    with run_whole(tmp_path_factory.mktemp("whole")) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    # The collector finds no garbage among millions of objects of modules and cases that live to the end, and looks
    # through them again and again: a third of the seconds of a collection, and more in every test that follows.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


_ray_of_this_process = contextlib.ExitStack()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep files that share a Ray or a run in one process, where pytest-xdist keeps each file in one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    from parts import group_of

    class Grouped(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(super()._split_scope(nodeid))

    return Grouped(config, log)


def shared_by(item: pytest.Item) -> str:
    """Return the shared fixture that a test takes, or ''."""
    from parts import SHARED

    taken = item.fixturenames if isinstance(item, pytest.Function) else ()
    return next((name for name in SHARED if name in taken), "")


@pytest.hookimpl(trylast=True)  # after the fixtures of the test
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the shared Ray of this process before a test that may start one of its own."""
    if nextitem is None or shared_by(nextitem) != "session":
        _ray_of_this_process.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", help="run one part of the tests that are chosen, such as 2/6; files stay whole")


@pytest.hookimpl(trylast=True)  # after `-m`, so that the parts are those of a tier
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=shared_by)  # stable: all others keep their order, and come first
    if not config.getoption("part"):
        return
    from parts import lengths, parts_of, read_part

    try:
        part, parts = read_part(config.getoption("part"))
    except ValueError as error:
        raise pytest.UsageError(f"--part: {error}") from error
    file_of = {item: item.nodeid.partition("::")[0] for item in items}
    part_of = parts_of(lengths(collections.Counter(file_of.values())), parts)
    config.hook.pytest_deselected(items=[item for item in items if part_of[file_of[item]] != part])
    items[:] = [item for item in items if part_of[file_of[item]] == part]


def pytest_runtest_setup() -> None:
    """Give torch one thread, and forget what the hub said: a process asks it once what a name means.

    Neither is imported here. Tests of plans, manifests and submitting run without torch.
    """
    torch, hub = sys.modules.get("torch"), sys.modules.get("ratchet.pairs.hub")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # two threads that wait for each other are slower than one
    if hub is not None:
        hub.commit_of.cache_clear()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No way to the hub for `datasets`."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def session() -> None:
    """A Ray of this machine with room for four training workers: one for all tests in a row that take it."""
    import ray

    from train_ray_bench import four_workers

    if not ray.is_initialized():
        _ray_of_this_process.enter_context(four_workers())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a training step reads: a tiny model, tokens and reference scores; the spec's fields that name them."""
    from train_bench import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))
