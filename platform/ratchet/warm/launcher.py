"""What Ray runs in the place of Python for a worker: it asks the node's fork server for one, and stands for it.

`python_of_workers` and `write_wrapper` are how Ray comes to run it: by its path with `python -I -S`. So nothing here
may import anything but the standard library, and little of that.
A worker begins warm, as a fork of a server that has done the imports (`server.py`), or cold, as a new Python, where
there is no server or it fails: a run never fails because of a server.

The launcher has the process id that Ray started, and the worker another one. It passes signals on, ends as the worker
ends, and its own death ends the worker: the server sees the connection close.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

_OWN = ("PWD", "OLDPWD", "SHLVL", "_")
"""Variables of a shell, which no import reads. All others make a server of their own, and so does each Ray job."""
_PATIENCE_SECONDS = 240.0
"""How long a server may take to begin: the imports of a busy node."""
_LOST = 1
"""Exit status where the worker has ended and nobody knows how."""
_SUBREAPER = "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_SCRIPT = """\
python=${1%/lib/python3*}/bin/python3
[ -x "$python" ] || python=OURS
[ -x "$python" ] || python=python3
IFS=:
for folder in LIBRARY $PYTHONPATH; do
  [ -f "$folder/ratchet/warm/launcher.py" ] && exec "$python" -I -S "$folder/ratchet/warm/launcher.py" "$@"
done
exec "$python" "$@"
"""


def python_of_workers() -> str:
    """Return the command that Ray shall start workers with in the place of Python, its `py_executable`.

    A shell script, because each node has its own paths: Ray's Python there is the one whose library `default_worker.py`
    lies in. The launcher is where this process has it, or where it came with a job. A node without one begins cold.
    """
    library = str(Path(__file__).parents[2])
    script = _SCRIPT.replace("OURS", shlex.quote(sys.executable)).replace("LIBRARY", shlex.quote(library))
    return f"bash -c {shlex.quote(script)} worker"


_WRAPPER = """\
#!/bin/sh
case "$1" in
  */setup_worker.py) exec PYTHON -I -S LAUNCHER "$@" ;;
  *) exec PYTHON "$@" ;;
esac
"""


def write_wrapper(folder: Path) -> str:
    """Write a program that is Python but for Ray's `setup_worker.py`, in whose place it runs the launcher.

    Ray starts each worker by `setup_worker.py`, which imports all of Ray before it becomes the `py_executable`. A Ray
    whose processes run this program in the place of Python goes without. Returns its path in `folder`, or Python's
    own where nothing in `folder` may be run (`noexec`): Ray has its own way then.
    """
    wrapper = folder / Path(sys.executable).name
    text = _WRAPPER.replace("PYTHON", shlex.quote(sys.executable)).replace("LAUNCHER", shlex.quote(__file__))
    wrapper.write_text(text, encoding="utf-8")
    wrapper.chmod(0o700)
    return str(wrapper) if os.access(wrapper, os.X_OK) else sys.executable


def main() -> None:
    """Begin the worker that the arguments name, and end as it ends."""
    arguments = _set_up(sys.argv[1:])
    sockets = next((Path(one.partition("=")[2]).parent for one in arguments if one.startswith("--raylet-name=")), None)
    if sockets is not None and "RAY_RAYLET_PID" in os.environ and not _kills_servers():
        try:
            connection = _connect(sockets, arguments[0])
            _ask(connection, arguments)
            worker = _worker(connection)
        except OSError as error:
            sys.stderr.write(f"this worker begins cold: {error}\n")
        else:
            _stand_for(worker, connection)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  no shell is what is wanted


def _kills_servers() -> bool:
    """Whether a raylet adopts all processes below it, and ends those it did not start: servers and warm workers."""
    return os.environ.get(_SUBREAPER, "").lower() in {"1", "true"}


def _set_up(arguments: list[str]) -> list[str]:
    """Do what `setup_worker.py` of Ray 2.60 does, if it is to run; return the arguments of the worker itself.

    Where it is asked for more than variables it does so itself.
    """
    if Path(arguments[0]).name != "setup_worker.py":
        return arguments
    context_of, language = "--serialized-runtime-env-context=", "--language="
    context = json.loads(next((one.removeprefix(context_of) for one in arguments if one.startswith(context_of)), "{}"))
    others = [context.get("command_prefix"), context.get("override_worker_entrypoint")]
    if (
        f"{language}PYTHON" not in arguments
        or any(others)
        or context.get("py_executable") not in {None, sys.executable}
    ):
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  no shell is what is wanted
    for name, value in (context.get("env_vars") or {}).items():
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    return [one for one in arguments[1:] if not one.startswith((context_of, language))]


def _name(script: str) -> str:
    """Return the name of the server for workers like this one: of one interpreter, Ray job and environment."""
    values = {name: value for name, value in os.environ.items() if name not in _OWN}
    what = [sys.executable, __file__, script, sorted(values.items())]
    return f"warm-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def _connect(sockets: Path, script: str) -> socket.socket:
    """Return a connection to the server for workers like this one, which is started if need be. Raises OSError."""
    name = _name(script)
    # By way of the folder's descriptor: a socket's path may have some hundred characters, and this one has few.
    folder = os.open(sockets, os.O_PATH | os.O_DIRECTORY)
    path = f"/proc/self/fd/{folder}/{name}"
    try:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _connected(path)
        with _locked(f"{path}.lock"):
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return _connected(path)
            if Path(f"{path}.failed").exists():
                raise ConnectionError("the server of this environment failed before")
            Path(path).unlink(missing_ok=True)  # of a server that was killed
            _start(path, sockets / name, script)
            return _connected(path)
    finally:
        os.close(folder)


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        # Ray's folder is open to all users of a machine, and who answers here gets the whole environment.
        _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.getuid():
            raise PermissionError(f"{path} is user {user}'s")
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start(path: str, long: Path, script: str) -> None:
    """Start a server that listens already: launchers that connect while it imports wait for it.

    `long` is what `path` leads to.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        mask = os.umask(0o077)
        try:
            listening.bind(path)
        finally:
            os.umask(mask)
        listening.listen(128)
        log = os.open(long.parents[1] / "logs" / f"{long.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        server, raylet = str(Path(__file__).with_name("server.py")), os.environ["RAY_RAYLET_PID"]
        subprocess.Popen(
            [sys.executable, server, str(listening.fileno()), str(long), raylet, str(Path(script).parent)],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ray gives a worker as many threads as it has CPUs, nearly always one, before torch is imported there.
            env={"OMP_NUM_THREADS": "1", **os.environ},
            start_new_session=True,
        )
        os.close(log)


def _ask(connection: socket.socket, arguments: list[str]) -> None:
    """Send what a worker is made of: its arguments, environment, folder, and the three standard streams."""
    mask = os.umask(0)
    os.umask(mask)
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd()), "umask": mask}
    text = json.dumps(asked).encode()
    socket.send_fds(connection, [len(text).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(text)


def _worker(connection: socket.socket) -> int:
    """Return the descriptor of the worker that the server has forked. Raises OSError where it forks none."""
    connection.settimeout(_PATIENCE_SECONDS)
    said = connection.recv(4)
    if len(said) < 4:
        raise ConnectionError("the server ended")
    return os.pidfd_open(int.from_bytes(said, "big"))


def _stand_for(worker: int, connection: socket.socket) -> NoReturn:
    """Wait for the worker, passing signals on, and end with its exit status or by its signal."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    select.select([worker], [], [])
    status = _LOST
    with contextlib.suppress(OSError):  # the server is gone, and with it who was told how the worker ended
        said = connection.recv(4)
        status = int.from_bytes(said, "big", signed=True) if len(said) == 4 else _LOST
    if status < 0:
        if -status not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
