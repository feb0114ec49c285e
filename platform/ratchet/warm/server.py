"""The fork server of a node: it has done the imports that workers need, and forks one whenever a launcher asks.

It is run by its path, and serves the workers of one Ray job, so the code that it has is never that of another job. It
has computed nothing and touched no accelerator. Who asks while it still imports gets a fork between two imports, and
imports the rest itself. It ends with the Ray node that it belongs to, or when it was idle for long.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_IMPORTS = (
    "ray._private.worker",
    "ray.data",
    "ray.train.torch",
    "torch",
    "pyarrow.parquet",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
_LEAN = "ratchet.pairs.lean"
"""Where our worker's transformers is imported from: without what nobody needs of it."""
_OURS = (
    "ratchet.train.worker",
    "ratchet.train.group",
    "ratchet.reference.pool",
    "ratchet.evaluate.engines.actors",
    "ratchet.evaluate.engines.kinds",
    "ratchet.evaluate.engines.local",
    "ratchet.tune.process",
    "ray.tune",
)
"""By name, and where a worker would find the Ratchet that this file is part of."""
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
_IDLE_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


@dataclasses.dataclass
class Launched:
    """A launcher's socket, and once there is one its worker: the process id, and a descriptor that tells its end."""

    launcher: socket.socket
    worker: int = 0
    ended: int = -1


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a worker is made of: arguments, environment, folder and umask, and the three standard streams."""

    values: Mapping[str, Any]
    streams: list[int]


def main() -> None:
    """Serve the socket that the arguments name; in a forked process, be the worker."""
    listening, path, raylet = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    # What is found by the name of a library is what a worker would find, and nothing of the folder of this file.
    sys.path[0] = sys.argv[4]
    before = dict(os.environ)
    wanted = serve(listening, path, raylet, import_ahead())
    if wanted is None:
        path.unlink(missing_ok=True)
    else:
        made = {name: value for name, value in os.environ.items() if before.get(name) != value and name != _NVML}
        become(wanted, made)


def import_ahead() -> Iterator[str]:
    """Import what workers need, and yield each name once it is there.

    Raises RuntimeError where CUDA is up, or where Ray has drawn random numbers: its forks would draw the same ones.
    """
    # How many GPUs there are is asked without starting CUDA, which no forked process could start again.
    os.environ[_NVML] = "1"
    names = [*_IMPORTS]
    if os.environ.get("DS_ACCELERATOR") == "cpu":  # else DeepSpeed asks for the accelerator when it is imported
        names.append("deepspeed")
    found = importlib.util.find_spec("ratchet")
    ours = found is not None and found.origin == str(Path(__file__).parents[1] / "__init__.py")
    for name in [*names, *(_OURS if ours else ())]:
        if ours and name == "transformers":
            importlib.import_module(_LEAN).lean_transformers()
        importlib.import_module(name)
        if _forks_are_bad():
            raise RuntimeError(f"importing {name} has started CUDA, so forked processes could not use it")
        if name == _IMPORTS[0]:
            _name_actor_classes()
        yield name
    if _ids_are_the_same():
        raise RuntimeError("an import has drawn Ray's random numbers, so forked processes would make the same ids")
    gc.collect()
    # A worker that collects garbage would else write to every page that it shares with this process.
    gc.freeze()


def _name_actor_classes() -> None:
    """Let the ids of actor classes come from the system, and not from Ray's own random numbers.

    `@ray.remote` gives each class one, also in modules of Ray that are imported ahead. Ray's generator draws its seed
    with its first number. Forks of a process that has it give two placement groups the same id.
    """
    actor = importlib.import_module("ray.actor")
    named = actor.ActorClassID

    class Named:
        @staticmethod
        def from_random() -> Any:
            return named(os.urandom(named.size()))

    actor.ActorClassID = Named  # type: ignore[attr-defined]


def _ids_are_the_same() -> bool:
    ray_ids = importlib.import_module("ray._raylet")
    drawn = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, ray_ids.PlacementGroupID.of(ray_ids.JobID.from_int(1)).binary())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            drawn.append(said.read())
        os.waitpid(child, 0)
    return drawn[0] == drawn[1]


def _forks_are_bad() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch._C, "_cuda_isInBadFork"):  # only a torch with CUDA has it
        return False
    child = os.fork()
    if child == 0:
        os._exit(int(torch._C._cuda_isInBadFork()))
    return os.waitpid(child, 0)[1] != 0


def serve(listening: socket.socket, path: Path, raylet: int, imports: Iterator[str]) -> Wanted | None:
    """Fork workers as they are asked for, until the Ray node is gone or nothing was asked for long.

    Takes up one of `imports` whenever nobody waits. Where one fails, nobody is served any more, and the server waits
    for the workers that it has. Returns None at the end; in a forked process what that shall be.
    """
    try:
        # Readable once it has ended, even where nobody has waited for it yet.
        node = os.pidfd_open(raylet)
    except ProcessLookupError:
        return None
    importing, failed = True, False
    known: dict[int, Launched] = {}
    last = time.monotonic()
    while known or (not failed and time.monotonic() - last < _IDLE_SECONDS):
        if known:
            last = time.monotonic()
        heard = [node, *known] if failed else [node, listening.fileno(), *known]
        ready = _ready(heard, 0 if importing else _LOOK_SECONDS)
        if node in ready:
            break
        if importing and not ready:
            try:
                importing = next(imports, None) is not None
            except Exception:
                traceback.print_exc()
                importing, failed = False, True
                _refuse(listening, path, known)
        for one in ready:
            if not failed and one == listening.fileno():
                launcher, _ = listening.accept()
                known[launcher.fileno()] = Launched(launcher)
            elif one in known:
                wanted = _hear(one, known, listening)
                if wanted is not None:
                    os.close(node)
                    return wanted
    os.close(node)
    return None


def _ready(descriptors: list[int], seconds: float) -> list[int]:
    """Return which of them can be read or have ended, as soon as one can, or after so many seconds."""
    poll = select.poll()  # `select.select` knows descriptors up to 1,023 alone, and a worker takes three
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1000)]


def _refuse(listening: socket.socket, path: Path, known: dict[int, Launched]) -> None:
    """Let launchers go that have no worker yet, and those that come: theirs begin cold."""
    # Said before the socket goes: launchers that find none would start one server after the other.
    path.with_name(f"{path.name}.failed").touch()
    path.unlink(missing_ok=True)
    listening.close()
    for waiting in [one for one in known.values() if not one.worker]:
        del known[waiting.launcher.fileno()]
        waiting.launcher.close()


def _hear(descriptor: int, known: dict[int, Launched], listening: socket.socket) -> Wanted | None:
    """Do what became ready asks for: a launcher's wish, its end, or a worker's end."""
    asked = known.pop(descriptor)
    if descriptor == asked.ended:
        _, status = os.waitpid(asked.worker, 0)
        with contextlib.suppress(OSError):
            asked.launcher.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        known.pop(asked.launcher.fileno(), None)
        os.close(descriptor)
        asked.launcher.close()
    elif asked.worker:
        # The launcher is gone, and its worker must go; the descriptor of its end is watched on.
        signal.pidfd_send_signal(asked.ended, signal.SIGKILL)
    else:
        return _fork(asked, known, listening)
    return None


def _fork(asked: Launched, known: dict[int, Launched], listening: socket.socket) -> Wanted | None:
    """Fork a worker for a launcher that has asked; return what it wants in the new process."""
    try:
        wanted = _read(asked.launcher)
    except (OSError, ValueError):  # it was killed meanwhile, or it is not a launcher
        asked.launcher.close()
        return None
    worker = os.fork()
    if worker == 0:
        for one in [listening, asked.launcher, *(other.launcher for other in known.values())]:
            one.close()
        for ended in {other.ended for other in known.values() if other.worker}:
            os.close(ended)
        return wanted
    for stream in wanted.streams:
        os.close(stream)
    asked.worker, asked.ended = worker, os.pidfd_open(worker)
    known[asked.launcher.fileno()] = known[asked.ended] = asked
    with contextlib.suppress(OSError):  # its end is heard, too
        asked.launcher.sendall(worker.to_bytes(4, "big"))
    return None


def _read(launcher: socket.socket) -> Wanted:
    """Return what a launcher asks for. Raises OSError and ValueError where it does not say it."""
    launcher.settimeout(_PATIENCE_SECONDS)
    head, streams, _, _ = socket.recv_fds(launcher, 4, 3)
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        text += (part := launcher.recv(1 << 20))
        if not part:
            break
    launcher.settimeout(None)
    return Wanted(json.loads(text), streams)


def become(wanted: Wanted, made: Mapping[str, str]) -> None:
    """Be what a new Python with these arguments would be, from here to its end. `made`: what imports set."""
    os.setsid()
    for number, stream in enumerate(wanted.streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(wanted.values["folder"])
    os.umask(wanted.values["umask"])
    os.environ.clear()
    os.environ.update({**made, **wanted.values["environment"]})
    sys.argv = list(wanted.values["arguments"])
    _draw_seeds()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _draw_seeds() -> None:
    """Seed the random generators again, so that each worker draws different numbers, as new processes do."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


if __name__ == "__main__":
    main()
