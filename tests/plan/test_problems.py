"""Plans that are wrong: the exact line that a person sees, and all lines at once."""

# ruff: noqa: E501  the tables hold whole lines, as people see them

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from plan_example import PLAN, SUITE, write
from ratchet.errors import PlanError
from ratchet.plan.data import BUILDERS
from ratchet.plan.load import file_kind, load_file, load_plan, load_suite
from ratchet.plan.outline import either
from ratchet.plan.stage_kinds import STAGE_KINDS


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(plan: str, overrides: Sequence[str] = (), suite: str = SUITE) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load_plan(write(Path(), plan, suite), overrides)
    assert caught.value.where == ""
    return caught.value.what.splitlines()


KINDS = either(list(STAGE_KINDS))
TRAINING = either([name for name, row in STAGE_KINDS.items() if row.trains])
REFERRING = either([name for name, row in STAGE_KINDS.items() if row.reads_reference])
BAD: list[tuple[str, str, str]] = [
    # text of the good plan, what it becomes, the first line told
    ("name: careful", "name: Very Careful", '2: name: "Very Careful" is no name: names are lower-case letters, digits and hyphens, 47 at most; did you mean very-careful?'),
    ("name: careful", "nmae: careful", "2: nmae: no such key; did you mean name?"),
    ("name: careful\n", "", "2: name: is missing; it must be a name"),
    ("name: careful", "name: 12", '2: name: must be a name, not 12; did you mean "12"?'),
    ("name: careful", "name: careful\nname: careful", "3: name: written twice, first in line 2"),
    ("revision: c1899de", "revision: 12345", '3: model.revision: must be text or null, not 12345; did you mean "12345"?'),
    ("revision: c1899de", "path: x", "3: model.path: give exactly one of name, path, scratch; got name, path"),
    ("name: Qwen/Qwen3-0.6B, revision: c1899de", "scratch: {tokenizer_from: [helpfull]}", "3: model.scratch.tokenizer_from[0]: no source is named helpfull; did you mean helpful?"),
    ("name: Qwen/Qwen3-0.6B, revision: c1899de", "scratch: {tokenizer_from: [math], hidden_size: 100, heads: 3}", "3: model.scratch.hidden_size: 100 does not divide by heads = 3"),
    ("revision: c1899de", "revision: c1899de, dtype: float16", "3: model.dtype: training in float16 needs a GPU, and cluster.gpus_per_worker is 0: use bfloat16 or float32"),
    ("helpful: {path: data/helpful.jsonl}", "helpful: {}", "5: data.helpful: give exactly one of path, hub, generate; got none"),
    ("helpful: {path: data/helpful.jsonl}", "helpful: {path: 3}", '5: data.helpful.path: must be text, a list of at least 1 text or null, not 3; did you mean "3"?'),
    ("revision: c1899de", "revision: c1899de, date: today", '3: model.date: "today" is no day: write it as 2026-11-30'),
    ("revision: c1899de", "revision: c1899de, template_arguments: {1a: 2}", "3: model.template_arguments.1a: is no name of an argument: these are letters, digits and _, and begin with no digit"),
    ("helpful: {path: data/helpful.jsonl}", "helpful: {path: x, columns: {prompt: 'a..b', completion: c}}", '5: data.helpful.columns.prompt: "a..b" is no path to a column: write a column, dots into objects and [0] into lists, such as meta.texts[0]'),
    ("helpful: {path: data/helpful.jsonl}", "helpful: {path: x, columns: {prompt: a, output_1: b, output_2: c, preference: {column: 'd[', first: [1], second: [2]}}}", '5: data.helpful.columns.preference.column: "d[" is no path to a column: write a column, dots into objects and [0] into lists, such as meta.texts[0]'),
    ("helpful: {path: data/helpful.jsonl}", "Help Ful: {path: x}", "5: data.\"Help Ful\": is no name: names are lower-case letters, digits and hyphens, 47 at most; did you mean help-ful?"),
    ("build: arithmetic_corruption", "build: arithmetic_corupt", f'8: data.math.build: must be {either([*BUILDERS, "null"])}, not "arithmetic_corupt"; did you mean arithmetic_corruption?'),
    ("build: arithmetic_corruption", "buidl: arithmetic_corruption", "8: data.math.buidl: no such key; did you mean build?"),
    ("build: arithmetic_corruption", "seed: -1", "8: data.math.seed: must be a whole number from 0 to 4294967295, not -1"),
    ("    kind: sft\n", "", f"10: stages.warm.kind: is missing; it must be {KINDS}"),
    ("    kind: sft\n", "    knid: sft\n", "11: stages.warm.knid: no such key; did you mean kind?"),
    ("kind: sft", "kind: sfft", f'11: stages.warm.kind: must be {KINDS}, not "sfft"; did you mean sft?'),
    ("kind: sft", "kind: [sft]", f"11: stages.warm.kind: must be {KINDS}, not a list of 1; did you mean sft?"),
    ("    data: [helpful]\n", "", "10: stages.warm.data: is missing; it must be a list of at least 1 name or a mapping from name to a number above 0 and at most 100"),
    ("data: [helpful]", "data: helpful", '12: stages.warm.data: must be a list of at least 1 name or a mapping from name to a number above 0 and at most 100, not "helpful"; did you mean [helpful]?'),
    ("data: [helpful]", "data: [helpful, mats]", "12: stages.warm.data[1]: no source is named mats; did you mean math?"),
    ("data: [helpful]", "data: [helpful, helpful]", "12: stages.warm.data[1]: helpful is listed twice"),
    ("data: [helpful]", "data: []", "12: stages.warm.data: must be a list of at least 1 name or a mapping from name to a number above 0 and at most 100, not an empty list"),
    ("data: [helpful]", "data: {}", "12: stages.warm.data: is empty; it must be a list of at least 1 name or a mapping from name to a number above 0 and at most 100"),
    ("learning_rate: 2e-5", "gradients: bfloat16", "13: stages.warm.gradients: bfloat16 goes with model.dtype: bfloat16, and that is float32: leave `gradients` out"),
    ("learning_rate: 2e-5", "gradients: float16", '13: stages.warm.gradients: must be float32 or bfloat16, not "float16"; did you mean bfloat16?'),
    ("learning_rate: 2e-5", "learning_rate: '2e-5'", '13: stages.warm.learning_rate: must be a number above 0, not "2e-5"; did you mean 2e-5?'),
    ("learning_rate: 2e-5", "learning_rate: -2e-5", "13: stages.warm.learning_rate: must be a number above 0, not -2e-5"),
    ("learning_rate: 2e-5", "learning_rate: .nan", "13: stages.warm.learning_rate: must be a number above 0, not .nan"),
    ("learning_rate: 2e-5", "learning_rate:", "13: stages.warm.learning_rate: must be a number above 0, not nothing"),
    ("learning_rate: 2e-5", "penalty: 50", "13: stages.warm.penalty: no such key for kind sft; it belongs to kind dpop"),
    ("learning_rate: 2e-5", "penalti: 50", "13: stages.warm.penalti: no such key; did you mean penalty, which belongs to kind dpop?"),
    ("learning_rate: 2e-5", "shuffle: prompt", '13: stages.warm.shuffle: must be pairs or prompts, not "prompt"; did you mean prompts?'),
    ("learning_rate: 2e-5", "batch: 32.0", "13: stages.warm.batch: must be a whole number of at least 1, not 32.0; did you mean 32?"),
    ("learning_rate: 2e-5", "epochs: 1_0", '13: stages.warm.epochs: must be a whole number of at least 1, not "1_0"; did you mean 10?'),
    ("learning_rate: 2e-5", "max_length: true", "13: stages.warm.max_length: must be a whole number of at least 8, not true"),
    ("learning_rate: 2e-5", "betas: [0.9]", "13: stages.warm.betas: must be a list of 2 numbers of at least 0 and below 1, not a list of 1"),
    ("learning_rate: 2e-5", "betas: [0.9, 0.99, 0.999]", "13: stages.warm.betas: must be a list of 2 numbers of at least 0 and below 1, not a list of 3"),
    ("learning_rate: 2e-5", "betas: [0.9, 1]", "13: stages.warm.betas[1]: must be a number of at least 0 and below 1, not 1"),
    ("learning_rate: 2e-5", "checkpoint: 100", "13: stages.warm.checkpoint: must be a mapping with every, keep, publish, not 100"),
    ("learning_rate: 2e-5", "quantise: 4bit", "13: stages.warm.quantise: no such key here; did you mean stages.warm.lora.quantise?"),
    ("learning_rate: 2e-5", "after: align", "13: stages.warm.after: goes in a circle: warm → align → warm"),
    ("learning_rate: 2e-5", "after: warm", "13: stages.warm.after: goes in a circle: warm → warm"),
    ("learning_rate: 2e-5", "<<: {seed: 3}", "13: stages.warm.<<: merge keys are not for plans: write the keys out"),
    ("  align:\n", "  base:\n", "14: stages.base: the name base is taken by the plan's start model: choose another"),
    ("kind: dpop\n    after: warm", "kind: dpop\n    after: wram", "16: stages.align.after: no stage is named wram; did you mean warm?"),
    ("kind: dpop\n    after: warm", "kind: dpop\n    start: wram", "16: stages.align.start: no stage is named wram; did you mean warm?"),
    ("kind: dpop\n    after: warm", "kind: dpop\n    after: base", "16: stages.align.after: base is no stage: leave `after` out, or write `start: base`"),
    ("kind: dpop\n    after: warm", "kind: dpop\n    after: zzz", "16: stages.align.after: no stage is named zzz; there are warm, align, other, blend or base"),
    ("helpful: 0.5", "helpful: 150", "17: stages.align.data.helpful: must be a number above 0 and at most 100, not 150"),
    ("{helpful: 0.5, math: 1.0}", "[math]", "18: stages.align.steps.by: steps by source need at least 2 sources, and `data` names 1; did you mean count?"),
    ("{helpful: 0.5, math: 1.0}\n    steps: {by: source,", "[math]\n    steps: {", "18: stages.align.steps: steps by source need at least 2 sources, and `data` names 1; did you mean count?"),
    ("by: source", "by: sources", '18: stages.align.steps.by: must be source or count, not "sources"; did you mean source?'),
    ("by: source", "by: count", "18: stages.align.steps.count: goes with `by: count`, and only with it"),
    ("beta: 0.3", "beta: 0", "19: stages.align.beta: must be a number above 0, not 0"),
    ("beta: 0.3", "workers: 2", "19: stages.align.workers: no such key here; did you mean cluster.workers?"),
    ("targets: all-linear", "targets: all-liner", '20: stages.align.lora.targets: must be a list of at least 1 text or all-linear, not "all-liner"; did you mean all-linear?'),
    ("workers: 8", "workers: [1, 8]", "20: stages.align.lora: adapters divided by ZeRO stay with one number of workers, and cluster.workers is [1, 8]: set cluster.deepspeed.zero to 0, or give one number"),
    ("workers: 8", "workers: [8, 1]", "29: cluster.workers: [8, 1]: the fewest come first"),
    ("rank: 8", "quantise: 4bit", "20: stages.align.lora.quantise: needs a GPU, and cluster.gpus_per_worker is 0: set that, or leave `quantise` out"),
    ("reference: base", "reference: bass", "25: stages.other.reference: no stage is named bass; did you mean base?"),
    ("reference: base", "reference: [base]", "25: stages.other.reference: must be a name, a mapping with keys such as name, revision, path or null, not a list of 1"),
    ("reference: base", "reference: {naem: x}", "25: stages.other.reference.naem: no such key; did you mean name?"),
    ("reference: base", "reference: {scratch: {tokenizer_from: [maths]}}", "25: stages.other.reference.scratch: only the plan's model can be made from scratch: give name or path"),
    ("reference: base", "reference: {path: m, chat_template: plain}", "25: stages.other.reference.chat_template: has no effect here: texts are rendered once, with the plan's model; set model.chat_template instead"),
    ("reference: base", "reference: {path: m, system: Hi}", "25: stages.other.reference.system: has no effect here: texts are rendered once, with the plan's model; set model.system instead"),
    ("order: easy_to_hard", "base: {scratch: {tokenizer_from: [math]}}", "18: stages.align.steps.base.scratch: only the plan's model can be made from scratch: give name or path"),
    ("order: easy_to_hard", "base: {path: m, chat_template: plain}", "18: stages.align.steps.base.chat_template: has no effect here: texts are rendered once, with the plan's model; set model.chat_template instead"),
    ("order: easy_to_hard", "base: {path: m, system: Hi}", "18: stages.align.steps.base.system: has no effect here: texts are rendered once, with the plan's model; set model.system instead"),
    ("[warm, align]", "[warm]", "26: stages.blend.of: must be a list of at least 2 names, not a list of 1"),
    ("[warm, align]", "[warm, alin]", "26: stages.blend.of[1]: no stage is named alin; did you mean align?"),
    ("[warm, align]", "[warm, warm]", "26: stages.blend.of[1]: warm is listed twice"),
    ("weights: [0.5, 0.5]", "weights: [0.5]", "26: stages.blend.weights: 1 weights for 2 models"),
    ("weights: [0.5, 0.5]", "batch: 8", f"26: stages.blend.batch: no such key for kind merge; it belongs to kind {TRAINING}"),
    ("kind: dpo\n", "kind: cpo\n", f"25: stages.other.reference: no such key for kind cpo; it belongs to kind {REFERRING}"),
    ("[eval/quick.yaml]", "[eval/quik.yaml]", "27: evaluate[0]: eval/quik.yaml: no such file; did you mean eval/quick.yaml?"),
    ("[eval/quick.yaml]", "eval/quick.yaml", '27: evaluate: must be a list of texts or a mapping with keys such as suite, models, when, not "eval/quick.yaml"; did you mean [eval/quick.yaml]?'),
    ("[eval/quick.yaml]", "[eval/quick.yaml, eval/quick.yaml]", "27: evaluate[1]: eval/quick.yaml is listed twice"),
    ("build: arithmetic_corruption", "held_out: 0", "27: evaluate[0]: task sums of eval/quick.yaml has nothing to answer: data.math.held_out is 0; set it above 0"),
    ("  workers: 8", "  wrokers: 8", "29: cluster.wrokers: no such key; did you mean workers?"),
    ("  workers: 8", "  zero: 3", "29: cluster.zero: no such key here; did you mean cluster.deepspeed.zero?"),
    ("  workers: 8", "  colour: 3", "29: cluster.colour: no such key; there are workers, cpus_per_worker, gpus_per_worker, token_budget, sharing, deepspeed, gradient_checkpointing, score_actors, tensor_parallel, max_restarts, collective_timeout, storage or ray"),
    ("{zero: 2}", "{zero: 4}", "30: cluster.deepspeed.zero: must be 0, 1, 2 or 3, not 4"),
    ("{zero: 2}", "{zero: '2'}", '30: cluster.deepspeed.zero: must be 0, 1, 2 or 3, not "2"; did you mean 2?'),
    ("{zero: 2}", "{offload_optimizer: yes}", '30: cluster.deepspeed.offload_optimizer: must be true or false, not "yes"; did you mean true?'),
    ("{zero: 2}", "{offload_optimizer: true}", "30: cluster.deepspeed.offload_optimizer: needs zero 1, 2 or 3: stage 0 has nothing to offload"),
    ("{zero: 2}", "{overrides: {optimizer: {}}}", "30: cluster.deepspeed.overrides.optimizer: is decided by the stage's learning_rate, weight_decay, betas, epsilon: set that instead"),
    ("{zero: 2}", "{overrides: {zero_optimization: {stage: 3}}}", "30: cluster.deepspeed.overrides.zero_optimization.stage: is decided by zero: set that instead"),
    ("{zero: 2}", "{overrides: {amp: {}}}", "30: cluster.deepspeed.overrides.amp: is decided by model.dtype: set that instead"),
    ("{zero: 2}", "{overrides: {torch_autocast: {}}}", "30: cluster.deepspeed.overrides.torch_autocast: is decided by model.dtype: set that instead"),
    ("{zero: 2}", "{overrides: {data_types: {}}}", "30: cluster.deepspeed.overrides.data_types: is decided by model.dtype and the stage's gradients: set that instead"),
    ("{zero: 2}", "{overrides: {communication_data_type: bf16}}", "30: cluster.deepspeed.overrides.communication_data_type: is decided by the stage's gradients: set that instead"),
    ("{zero: 2}", "{overrides: {aio: {}}}", "30: cluster.deepspeed.overrides: needs zero 1, 2 or 3: stage 0 runs without DeepSpeed"),
    ("{zero: 2}", "{overrides: {compression_training: {}}}", "30: cluster.deepspeed.overrides.compression_training: changes results, and a cluster setting must not: leave it out"),
    ("{zero: 2}", "{overrides: {data_efficiency: {}}}", "30: cluster.deepspeed.overrides.data_efficiency: changes results, and a cluster setting must not: leave it out"),
    ("{zero: 2}", "{overrides: {curriculum_learning: {}}}", "30: cluster.deepspeed.overrides.curriculum_learning: changes results, and a cluster setting must not: leave it out"),
    ("{zero: 2}", "{overrides: {zero_allow_untested_optimizer: false}}", "30: cluster.deepspeed.overrides.zero_allow_untested_optimizer: is decided by Ratchet, which brings its own optimiser: leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "first"), BAD, ids=[first for _, _, first in BAD])
def test_first_line_of_a_bad_plan(good: str, bad: str, first: str) -> None:
    assert PLAN.count(good) == 1
    lines = said(PLAN.replace(good, bad))
    assert lines[0] == f"jobs/x.yaml:{first}"
    assert all(line.startswith("jobs/x.yaml:") for line in lines)


def test_the_good_plan_is_good() -> None:
    plan = load_plan(write(Path()))
    assert plan.stages["warm"].learning_rate == 2e-5  # type: ignore[union-attr]
    assert file_kind(load_file(Path("jobs/x.yaml"))) == "a plan of 4 stages"
    assert file_kind(load_file(Path("eval/quick.yaml"))) == "a suite of 1 task"


def test_everything_at_once_in_the_order_of_lines() -> None:
    spoiled = PLAN
    for good, bad in (
        ("name: careful", "name: Careful"),
        ("helpful: {path: data/helpful.jsonl}", "helpful: {pth: data/helpful.jsonl}"),
        ("path: [data/a.jsonl, data/b.jsonl]", "path: x\n    hub: {name: y}\n    seed: x"),
        ("kind: sft", "kind: sff\n    batch: x\n    betta: 3"),
        ("after: warm\n    data: {", "after: worm\n    data: {"),
        ("after: warm\n    data: [math]", "after: blend\n    data: [maths]"),
        ("[warm, align]", "[warm, other]"),
        ("eval/quick.yaml", "eval/quick.yml"),
        ("{zero: 2}", "{zero: 3}\nclustre: 1"),
        ("rank: 8", "quantise: 4bit"),
    ):
        assert spoiled.count(good) == 1
        spoiled = spoiled.replace(good, bad)
    keys = [line.split(": ")[:2] for line in said(spoiled)]
    assert keys == [
        ["jobs/x.yaml:2", "name"],
        ["jobs/x.yaml:5", "data.helpful.pth"],
        ["jobs/x.yaml:8", "data.math.hub"],
        ["jobs/x.yaml:9", "data.math.seed"],
        ["jobs/x.yaml:13", "stages.warm.kind"],
        ["jobs/x.yaml:14", "stages.warm.batch"],
        ["jobs/x.yaml:15", "stages.warm.betta"],
        ["jobs/x.yaml:20", "stages.align.after"],
        ["jobs/x.yaml:24", "stages.align.lora.quantise"],
        ["jobs/x.yaml:24", "stages.align.lora.quantise"],
        ["jobs/x.yaml:27", "stages.other.after"],
        ["jobs/x.yaml:28", "stages.other.data[0]"],
        ["jobs/x.yaml:31", "evaluate[0]"],
        ["jobs/x.yaml:35", "clustre"],
    ]


@pytest.mark.parametrize("kind", ["dpo", "dpop", "ipo", "cpo"])
def test_every_preference_kind_is_checked(kind: str) -> None:
    spoiled = PLAN.replace("kind: dpop", f"kind: {kind}").replace("{helpful: 0.5, math: 1.0}", "{math: 1.0}")
    spoiled = spoiled.replace("rank: 8", "quantise: 8bit").replace("zero: 2", "zero: 3")
    lines = [line for line in said(spoiled) if "stages.align" in line]
    assert [line.split(": ", 2)[1] for line in lines] == [
        "stages.align.steps.by",
        "stages.align.lora.quantise",
        "stages.align.lora.quantise",
    ]


def test_what_needs_a_gpu_is_right_where_there_is_one() -> None:
    plan = PLAN.replace("rank: 8", "quantise: 4bit").replace("revision: c1899de", "revision: c1899de, dtype: float16")
    assert len(said(plan)) == 2
    load_plan(write(Path(), plan), ["cluster.gpus_per_worker=0.5"])
    for key in ("gpus_per_wroker: 1", "gpus_per_worker: false"):  # what was meant is not known
        lines = said(plan.replace("  workers: 8", f"  workers: 8\n  {key}"))
        assert [line.split(":")[:2] for line in lines] == [["jobs/x.yaml", "30"]]


def test_two_circles_are_both_told() -> None:
    stages = "".join(
        f"  {name}: {{kind: sft, data: [helpful], after: {after}}}\n"
        for name, after in {"a": "b", "b": "c", "c": "a", "d": "c", "e": "f", "f": "e"}.items()
    )
    lines = said(PLAN.replace("stages:\n", f"stages:\n{stages}"))
    assert lines == [
        "jobs/x.yaml:10: stages.a.after: goes in a circle: a → b → c → a",
        "jobs/x.yaml:14: stages.e.after: goes in a circle: e → f → e",
    ]


def test_a_suite_that_is_wrong_is_told_with_its_own_lines() -> None:
    suite = "tasks:\n  sums: {kind: exact_match, source: maths, pattern: '(a)'}\n"
    assert said(PLAN, suite=suite) == [
        "jobs/x.yaml:27: evaluate[0]: task sums of eval/quick.yaml asks for the source maths, which is not in `data`; "
        "did you mean math?"
    ]
    suite = "tasks:\n  sums: {kind: exact, source: math, pattern: 'a('}\n  two: {kind: exact_match, pattern: '(a)(b)', source: m}\n"
    assert said(PLAN.replace("name: careful", "name: C"), suite=suite) == [
        'jobs/x.yaml:2: name: "C" is no name: names are lower-case letters, digits and hyphens, 47 at most; did you mean c?',
        'eval/quick.yaml:2: tasks.sums.kind: must be exact_match, harness, mt_bench, eq_bench, text_overlap, chrf, perplexity or preference, not "exact"; did you mean exact_match?',
        "eval/quick.yaml:2: tasks.sums.pattern: is no regular expression: missing ), unterminated subpattern at position 1",
        "eval/quick.yaml:3: tasks.two.pattern: must have one group, not 2: (?:…) groups without counting",
    ]


def test_a_plan_is_no_suite() -> None:
    write(Path())
    for load, path, words in (
        (load_plan, "eval/quick.yaml", "eval/quick.yaml:1: this is an evaluation suite, not a plan"),
        (load_suite, "jobs/x.yaml", "jobs/x.yaml:2: this is a plan, not an evaluation suite"),
    ):
        with pytest.raises(PlanError) as caught:
            load(Path(path))  # type: ignore[operator]
        assert caught.value.what == words


def test_one_problem_is_one_line_whatever_the_file_holds() -> None:
    lines = said(PLAN.replace("name: careful", '"na\\nme": "a\\nb"\nname: "x\\n\\ny"'))
    assert [line.split(":")[1] for line in lines] == ["2", "3"]
