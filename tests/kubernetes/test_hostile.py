"""Plans that need what no pod has, values that would hide or break pods, and manifests that would take all memory."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_example import K8S, changed, head_of, texts_of, worker_of
from raised import raises
from ratchet.cli import main
from ratchet.kubernetes.check import Against, check_objects
from ratchet.kubernetes.forms import folder_fault, image_form_fault, label_fault, volume_fault
from ratchet.kubernetes.manifests import parse_manifests
from ratchet.plan import reading
from tests.conftest import ROOT
from tests.plan.test_reading import bomb

PLAN = """\
name: small
model: {path: /mnt/store/models/start, chat_template: tpl/mine.jinja}
data: {sums: {generate: {kind: arithmetic}}}
stages: {warm: {kind: sft, data: [sums]}}
evaluate:
  - mine.yaml
cluster:
  storage: /mnt/store
"""
SUITE = """\
tasks:
  story: {kind: perplexity, rows: {path: eval/sets/lighthouse.txt}}
  own: {kind: harness, task: mine, metric: acc, include: eval/harness}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of which an image may be made, with a plan of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RATCHET_CRDS", raising=False)
    shutil.copytree(K8S, "k8s")
    shutil.copytree(ROOT / "eval", "eval")
    Path("tpl").mkdir()
    for name, text in {"plan.yaml": PLAN, "mine.yaml": SUITE, "tpl/mine.jinja": "{{ messages }}\n"}.items():
        Path(name).write_text(text)
    return tmp_path


def render(*words: str) -> int:
    return main(["k8s", "render", "plan.yaml", "--overlay", "toy", *words])


def test_a_chat_template_goes_along_and_what_the_image_has_need_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render() == 0, capsys.readouterr().err
    found = {one["kind"]: one for one in yaml.safe_load_all(capsys.readouterr().out)}
    assert found["ConfigMap"]["data"]["tpl.mine.jinja"] == "{{ messages }}\n"
    spec = found["RayJob"]["spec"]["rayClusterSpec"]
    for pod in (head_of(spec), worker_of(spec)):
        mounted = {one["mountPath"]: one.get("subPath") for one in pod["containers"][0]["volumeMounts"]}
        assert mounted["/opt/ratchet/tpl/mine.jinja"] == "tpl.mine.jinja"
        assert "/opt/ratchet/eval/sets/lighthouse.txt" not in mounted


def test_a_plan_by_its_whole_path_is_the_one_that_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "render", str(folder / "plan.yaml"), "--overlay", "toy"]) == 0
    found = next(yaml.safe_load_all(capsys.readouterr().out))
    assert found["data"]["jobs.plan.yaml"] == PLAN


JUDGE = "judge: {kind: endpoint, base_url: 'https://judge.example/v1', model: j, key_variable: %s}"
SUITES = {
    "mine.yaml:4: tasks.more.rows.path: rows/held.jsonl is not on the volume": "{kind: perplexity, rows: {path: rows/held.jsonl}}",  # noqa: E501
    "mine.yaml:4: tasks.more.rows.path: eval/none.txt is not on": "{kind: perplexity, rows: {path: eval/none.txt}}",
    "mine.yaml:4: tasks.more.rows.path: ../x.txt is not on": "{kind: perplexity, rows: {path: eval/../../x.txt}}",
    "mine.yaml:4: tasks.more.rows.path: /mnt/store/../x.txt is not on": "{kind: perplexity, rows: {path: /mnt/store/../x.txt}}",  # noqa: E501
    "mine.yaml:4: tasks.more.questions.path: sets/q.json is not on": "{kind: eq_bench, questions: {path: sets/q.json}}",
    "mine.yaml:4: tasks.more.include: tasks is not on": "{kind: harness, task: x, metric: acc, include: tasks}",
    "mine.yaml:4: tasks.more.data.path: pairs.jsonl is not on": "{kind: preference, data: {path: pairs.jsonl}}",
    "mine.yaml:4: tasks.more.judge.file: judged.jsonl is not on": "{kind: mt_bench, questions: {hub: a/b}, judge: {kind: replay, file: judged.jsonl, judge: g}}",  # noqa: E501
    "mine.yaml:4: tasks.more.judge.model.path: ~/judge is not on": "{kind: mt_bench, questions: {hub: a/b}, judge: {kind: model, model: {path: ~/judge}}}",  # noqa: E501
    "mine.yaml:4: tasks.more.judge.key_variable: no pod has OPENAI_API_KEY: take one that is there (HF_TOKEN, WANDB_API_KEY, JUDGE_API_KEY)": "{kind: mt_bench, questions: {hub: a/b}, " + JUDGE % "OPENAI_API_KEY" + "}",  # noqa: E501
}  # fmt: skip


@pytest.mark.parametrize("says", SUITES)
def test_what_a_suite_needs_and_no_pod_has_is_told_with_its_line(
    folder: Path, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(f"{SUITE}  more: {SUITES[says]}\n")
    assert render() == 2
    assert says in capsys.readouterr().err


def test_a_judge_whose_key_pods_have_is_well_and_one_that_the_plan_sets_is_told_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(f"{SUITE}  more: {{kind: mt_bench, questions: {{hub: a/b}}}}\n")
    for variable in ("JUDGE_API_KEY", "MY_KEY"):
        judge = (JUDGE % variable).removeprefix("judge: ")
        Path("plan.yaml").write_text(PLAN.replace("- mine.yaml", f"- {{suite: mine.yaml, set: {{tasks.more.judge: {judge}}}}}"))  # noqa: E501  # fmt: skip
        assert render() == (0 if variable == "JUDGE_API_KEY" else 2)
    assert "plan.yaml:6: evaluate[0]: mine.yaml: tasks.more.judge.key_variable: no pod has MY_KEY" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model.chat_template=tpl/none.jinja"], "model.chat_template: there is no file tpl/none.jinja here"),
        (["model.chat_template=../x.jinja"], "model.chat_template: ../x.jinja must lie below the current folder"),
        (["model.chat_template=tpl/link.jinja"], "model.chat_template: tpl/link.jinja must lie below the current"),
        (["model.chat_template=/x.jinja"], "model.chat_template: /x.jinja is not on the volume of the pods"),
        (["model.chat_template=tpl/binary.jinja"], "model.chat_template: tpl/binary.jinja is no UTF-8 text"),
        (["model.chat_template=tpl/a b.jinja"], "'tpl/a b.jinja' cannot be a key of a ConfigMap"),
        (["model.chat_template=tpl/long.jinja"], "more than the 256 KiB of a ConfigMap"),
        (["model.path=models/start"], "model.path: models/start is not on the volume of the pods"),
        (["cluster.ray.address=10.0.0.1:6379"], "cluster.ray.address: a job runs on the Ray of its own pods"),
        (["cluster.storage=/"], "cluster.storage: '/': from the root"),
        (["cluster.storage=/etc"], "cluster.storage: '/etc' would hide what the image has there"),
        (["cluster.storage=/mnt/store/../../etc"], "cluster.storage: '/mnt/store/../../etc' goes back on its way"),
        (["cluster.cpus_per_worker=99999"], "resources.requests.cpu: cpu 100000 is more than any machine has"),
    ],
)
def test_a_plan_that_no_pod_could_run_is_told(
    folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path_factory: Any
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.jinja"
    outside.write_text("x")
    Path("tpl/link.jinja").symlink_to(outside)
    Path("tpl/binary.jinja").write_bytes(b"\xff\xfe")
    Path("tpl/a b.jinja").write_text("x")
    Path("tpl/long.jinja").write_text("x" * (256 << 10))
    assert render(*(word for one in words for word in ("--set", one))) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--namespace", "Bad NS"], "--namespace: 'Bad NS': at most 63 lower-case letters"),
        (["--image", "x y:1"], "--image: 'x y:1' is no image"),
        (
            ["--memory-per-worker", "99999999999Ti"],
            "--memory-per-worker: memory 99999999999Ti is more than any machine",
        ),
    ],
)
def test_options_that_no_cluster_takes_are_told(
    folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render(*words) == 2
    assert says in capsys.readouterr().err


MANIFESTS = {
    "metadata.namespace: 'Bad NS'": lambda d, _: d["metadata"].update(namespace="Bad NS"),
    "'x y:1' is no image": lambda _, s: head_of(s)["containers"][0].update(image="x y:1"),
    "memory 99999999999Ti is more": lambda _, s: worker_of(s)["containers"][0]["resources"]["limits"].update(memory="99999999999Ti"),  # noqa: E501
    "mountPath: '/': from the root": lambda _, s: head_of(s)["containers"][0]["volumeMounts"][0].update(mountPath="/"),
    "'/usr/lib' would hide": lambda _, s: head_of(s)["containers"][0]["volumeMounts"][0].update(mountPath="/usr/lib"),
    "cluster.storage: '/mnt/store/../../etc' goes back": lambda d, _: d["spec"].update(
        entrypoint=d["spec"]["entrypoint"].replace("=/mnt/store", "=/mnt/store/../../etc")
    ),
    "runtimeEnvYAML: is not YAML that is read: line:": lambda d, _: d["spec"].update(runtimeEnvYAML=bomb(30)),
    "runtimeEnvYAML: is not YAML that is read: line:1: nested": lambda d, _: d["spec"].update(runtimeEnvYAML="[" * 20_000),  # noqa: E501
    "runtimeEnvYAML: is not YAML that is read: line:1: a: cannot": lambda d, _: d["spec"].update(runtimeEnvYAML="a: !!python/object:os.system x"),  # noqa: E501
    "runtimeEnvYAML: is not YAML of one mapping": lambda d, _: d["spec"].update(runtimeEnvYAML="[1]"),
}  # fmt: skip


@pytest.mark.parametrize("says", MANIFESTS)
def test_hostile_values_in_manifests_are_told(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 2_000)  # a whole bomb is in tests/plan/test_reading.py
    assert says in texts_of(check_objects(changed("RayJob", MANIFESTS[says]), Against(root=ROOT)))


@pytest.mark.parametrize("text", ["", "---\n# nothing\n---\n"])
def test_nothing_to_check_is_an_error(
    folder: Path, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty.yaml").write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    for name in ("empty.yaml", "-"):
        assert main(["k8s", "check", "k8s/overlays/toy", name]) == 2
        said = capsys.readouterr().err
        assert "holds no object: there is nothing to check" in said
        assert name.replace("-", "<stdin>") in said


LONG = "kind: ConfigMap\n# " + "x" * (2 << 20)


def test_long_and_deep_manifests_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("long.yaml").write_text(LONG)
    monkeypatch.setattr("sys.stdin", io.StringIO(LONG))
    for name in ("long.yaml", "-"):
        assert main(["k8s", "check", name]) == 2
        assert "larger than 1 MiB, and no more is read" in capsys.readouterr().err
    with raises("plan.manifest", "x.yaml:2"):
        parse_manifests("kind: A\na: " + "[" * 20_000, "x.yaml")


def test_crds_have_limits_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, says in {bomb(30): "more than 100,000 values", "# " + "x" * (5 << 20): "larger than 4 MiB"}.items():
        Path("crds").mkdir(exist_ok=True)
        Path("crds/a.yaml").write_text(text)
        assert main(["k8s", "check", "k8s/overlays/toy", "--crds", "crds"]) == 2
        assert says in capsys.readouterr().err


IMAGES = {
    "registry.example:5000/team/ratchet:0.1.0-gpu": True, "redis:7.4.2": True, "a/b_c__d-e.f:V_1.x": True,
    "registry.example/x@sha256:" + "a" * 64: True, "x y:1": False, "X:1": False, "a//b:1": False, "a:1\n": False,
    "a:-1": False, "https://a/b:1": False, "a:" + "1" * 129: False, "../a:1": False,
}  # fmt: skip


def test_names_are_what_kubernetes_takes() -> None:
    assert {image: not image_form_fault(image) for image in IMAGES} == IMAGES
    labels = {"a": True, "team-1": True, "9": True, "a" * 63: True, "a" * 64: False, "-a": False, "a-": False}
    labels |= {"A": False, "a.b": False, "": False, "a\n": False, "ä": False}
    assert {name: not label_fault(name) for name in labels} == labels
    folders = {"/mnt/store": True, "/dev/shm": True, "/": False, "//": False, "/a/": False, "a": False, "": False}
    folders |= {"/a/../b": False, "/a/./b": False, "/a b": False, "/a:b": False, "/a\n": False}
    assert {name: not folder_fault(name) for name in folders} == folders
    volumes = {"/mnt/store": True, "/shared/x": True, "/home/team": True, "/var/lib/x": True, "/srv": True}
    volumes |= dict.fromkeys(["/dev/shm", "/home", "/opt", "/var", "/usr/local", "/opt/ratchet", "/tmp/x"], False)
    assert {name: not volume_fault(name) for name in volumes} == volumes
