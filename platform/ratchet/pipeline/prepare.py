"""Sources become pairs, pairs become tokens, and the plan's start model becomes a folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq

from ratchet.documents.passport import passport_in_words
from ratchet.errors import DataError, ModelError
from ratchet.model.check import check_model
from ratchet.model.folder import model_folder
from ratchet.model.passport import check_trainable
from ratchet.pairs.chat import PLAIN, handed_of
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.left_out import tell_lost
from ratchet.pairs.token_flow import PairTokens
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Policy
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import BASE, Step, preference_sources
from ratchet.plan.load import planned_suites
from ratchet.plan.model import ModelSpec, Scratch
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs, reads_reference, trains
from ratchet.plan.suite import source_of
from ratchet.plan.training import Overlong, TrainingStage
from ratchet.reference.models import Model, model_of
from ratchet.store.made import Product, ensure
from ratchet.store.record import Record, checked, finished_record
from ratchet.track.progress import under_way

_AS_OBJECTS = 256
"""Pairs that are Python objects at a time; as texts they take several times what they take in a table."""


def used_sources(plan: Plan) -> list[str]:
    """Return the sources that some stage, or the scratch model's tokenizer, reads; in plan order."""
    used = {name for stage in plan.stages.values() for name in stage.shares()}
    if plan.model.scratch is not None:
        used.update(plan.model.scratch.tokenizer_from)
    tasks = [task for planned in planned_suites(plan) for task in planned.suite.tasks.values()]
    used.update(source for task in tasks if (source := source_of(task)) is not None)
    return [name for name in plan.data if name in used]


def prepare_sources(run: Run) -> None:
    """Read every source that is used into pairs. Raises DataError."""
    for name in used_sources(run.plan):
        started = time.monotonic()
        source, system = run.plan.data[name], run.plan.model.system
        with under_way(f"pairs {name}", "reading", run.console):
            run.pairs[name] = prepare_pairs(name, source, run.layout, system, run.wait)
        record = finished_record(run.pairs[name][1])
        run.console.step(f"pairs {name}", said_columns(record.facts))
        counts = record.counts
        facts = {
            "to train on": counts["train"],
            "held out": counts["heldout"],
            "skipped": sum(counts["skipped"].values()),
        }
        if counts["dialogues"]:
            facts |= {"dialogues": counts["dialogues"], "trained on": f"{record.facts['train_on']} turns"}
        run.console.done(f"pairs {name}", facts, time.monotonic() - started)
        if not counts["train"]:
            raise DataError("no pair is left to train on", where=f"data.{name}", fix="look at its skipped.parquet")
    for name in preference_sources(run.plan):
        if finished_record(run.pairs[name][1]).facts["demonstrations"]:
            raise one_sided(name)
    for name in run.plan.data:
        if name not in run.pairs:
            run.warnings.append(f"source {name} is in the plan, and nothing uses it")


def one_sided(source: str) -> DataError:
    """Return the error of a source of demonstrations that a preference stage trains on."""
    return DataError(
        "these are demonstrations, which have no rejected answer, and a preference stage trains on them",
        where=f"data.{source}",
        fix="use the source in an sft stage, or give it a builder (data.*.build)",
        code="data.one-sided",
    )


def said_columns(facts: Mapping[str, Any]) -> str:
    """Say which columns of a source were read and which were not, by the facts of its pairs' record."""
    read, unread = (", ".join(facts[key]) or "none" for key in ("read", "not_read"))
    return f"{facts['layout']}; read: {read}; not read: {unread}"


def base_model(run: Run) -> Model:
    """Make, fetch or find the plan's start model, and check that it can be used. Raises ModelError."""
    spec = run.plan.model
    folder = model_folder(spec) if spec.scratch is None else _scratch_folder(run, spec.scratch)
    passport = check_trainable(folder)
    check_router_losses(run.plan, folder)
    _check_lengths(run, check_model(folder, run.chat_template).longest)
    for line in passport_in_words(passport):
        run.console.say(f"{BASE:<20} {line}")
    _say_which_day(run, folder)
    return _model(run, BASE, spec, folder)


def check_router_losses(plan: Plan, folder: Path) -> None:
    """Raise ModelError where a stage asks for a router loss that the family of the start model has not."""
    for name, stage in plan.stages.items():
        if trains(stage) and stage.router_loss != "off":
            from ratchet.model.router_loss import check_router_loss

            check_router_loss(folder, f"stages.{name}.router_loss")


def _say_which_day(run: Run, folder: Path) -> None:
    """Say which day a template that writes today's date is given, where the plan names none."""
    day = handed_of(load_tokenizer(folder, run.chat_template)).get("date")
    if day is not None and "date" not in run.plan.model.model_fields_set:
        run.warnings.append(f"the chat template writes today's date, and is given {day} on every day: see model.date")


def external_model(run: Run, spec: ModelSpec) -> Model:
    """Return a model that is not one of the plan's stages, fetched or found.

    Raises ModelError where it cannot be used, or its tokenizer gives other ids than the plan's model.
    """
    key = spec.model_dump_json()
    if key not in run.external:
        name = spec.name or Path(spec.path or "model").name
        folder = model_folder(spec)
        check_model(folder, PLAIN)  # it never renders a text, so its own template does not matter
        model = _model(run, name, spec, folder)
        if _vocabulary(model) != _vocabulary(run.models[BASE]):
            raise ModelError(
                "its tokenizer gives other ids than that of the plan's model",
                where=str(folder),
                fix="name a model of the same family",
                code="model.other-ids",
            )
        run.external[key] = model
    return run.external[key]


def check_merges(run: Run) -> None:
    """Look whether the plan's start model can be averaged with what is made from it. Raises ModelError."""
    base = run.models[BASE]
    for name, stage in run.plan.stages.items():
        if not trains(stage) and BASE in stage.of:
            # Here, as it needs torch, which a run without merges needs only for its work.
            from ratchet.model.merge import check_start

            check_start(base.folder, base.dtype, f"stages.{name}.of", trust_remote_code=base.trust_remote_code)


def check_external_models(run: Run) -> None:
    """Find every external model that the plan names, before anything is trained. Raises ModelError."""
    for stage in run.plan.stages.values():
        if reads_pairs(stage):
            reference = stage.reference if reads_reference(stage) else None
            for spec in (reference, stage.steps.base if stage.steps else None):
                if isinstance(spec, ModelSpec):
                    external_model(run, spec)


def reference_model(run: Run, step: Step) -> Model:
    """Return the reference of a preference step. Raises ModelError."""
    if isinstance(step.reference, ModelSpec):
        return external_model(run, step.reference)
    return run.models[str(step.reference)]


def _vocabulary(model: Model) -> dict[str, int]:
    return dict(load_tokenizer(model.folder, None).get_vocab())


def _model(run: Run, name: str, spec: ModelSpec, folder: Path) -> Model:
    model = model_of(name, spec, folder)
    if model.code is not None:
        run.warnings.append(str(model.code))
    return model


def _check_lengths(run: Run, longest: int | None) -> None:
    for name, stage in run.plan.stages.items():
        if longest is not None and trains(stage) and stage.max_length > longest:
            raise ModelError(
                f"max_length {stage.max_length} is more than the {longest} positions of the model",
                where=f"stages.{name}.max_length",
                fix=f"set it to {longest} or less",
            )


@dataclasses.dataclass(frozen=True)
class ScratchModel:
    """A model made from scratch, whose tokenizer is trained on pairs: fingerprint and folder of each, by source."""

    spec: Scratch
    pairs: Mapping[str, tuple[str, Path]]
    kind: ClassVar[str] = "models"
    what: ClassVar[str] = "model base"

    @property
    def identity(self) -> Mapping[str, Any]:
        read = {name: fp for name, (fp, _) in self.pairs.items()}
        return {"kind": "scratch", "version": 1, "spec": self.spec.model_dump(mode="json"), "pairs": read}

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Train the tokenizer and draw the weights. Raises ModelError."""
        from ratchet.model.scratch import make_scratch  # it needs torch, and finding the model does not

        make_scratch(self.spec, scratch_texts([pairs for _, pairs in self.pairs.values()]), folder)
        return Product()


def scratch_model(run: Run, spec: Scratch) -> ScratchModel | None:
    """Return the plan's model as it would be made from scratch; None where a source that it reads is not there."""
    if not run.pairs.keys() >= {*spec.tokenizer_from}:
        return None
    return ScratchModel(spec, {name: run.pairs[name] for name in spec.tokenizer_from})


def _scratch_folder(run: Run, spec: Scratch) -> Path:
    model = scratch_model(run, spec)
    assert model is not None  # noqa: S101  sources are read first
    made = ensure(run.layout, model, run.wait)
    if made.fresh:
        run.console.done(model.what, {"made from": "scratch"}, made.record.seconds)
    return made.folder


def scratch_texts(folders: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of folders of pairs that a scratch model's tokenizer is trained on, in flat memory."""
    for folder in folders:
        with pq.ParquetFile(checked(folder / "train.parquet"), pre_buffer=False) as file:
            for batch in file.iter_batches(_AS_OBJECTS, columns=["prompt", "chosen", "rejected"]):
                for row in batch.to_pylist():
                    yield from (turn["content"] for turn in row["prompt"])
                    # A demonstration has no rejected answer.
                    yield from (text for text in (row["chosen"], row["rejected"]) if text)


def tokens_of(run: Run, source: str, max_length: int, overlong: Overlong) -> Tokens:
    """Return the tokens of a source under a length policy, made if need be. Raises DataError, ModelError."""
    key = (source, max_length, overlong)
    if key not in run.tokens:
        started = time.monotonic()
        with under_way(f"tokens {source}", "making tokens", run.console):
            made = ensure(run.layout, _tokens(run, source, Policy(max_length, overlong)), run.wait)
        run.console.done(f"tokens {source}", said_tokens(made.record), time.monotonic() - started)
        pairs = finished_record(run.pairs[source][1]).counts
        tell_lost(source, run.plan.data[source], pairs, made.record, made.folder)
        run.tokens[key] = Tokens(source, made.fingerprint, made.folder)
    return run.tokens[key]


def said_tokens(record: Record) -> dict[str, Any]:
    """Return what is said of tokens once they are made: how many, and what the length policy did to the pairs."""
    counts, policy = record.counts, record.identity
    cut = {"prompts cut": counts["trimmed"]} if policy["overlong"] == "trim_prompt" else {}
    return {
        "pairs": counts["train"],
        "tokens": counts["tokens_train"],
        "left out": sum(counts["skipped"].values()),
        **cut,
        "max_length": policy["max_length"],
        "overlong": policy["overlong"],
    }


def source_tokens(run: Run, source: str, stage: TrainingStage) -> PairTokens:
    """Return the tokens of a source as a stage reads them, made or not. Its pairs and the start model are known."""
    return _tokens(run, source, Policy(stage.max_length, stage.overlong))


def _tokens(run: Run, source: str, policy: Policy) -> PairTokens:
    fp, folder = run.pairs[source]
    return PairTokens(folder, fp, run.models[BASE].folder, policy, run.chat_template)


def prepare_stages(run: Run) -> None:
    """Make the tokens of every stage: what a later one cannot use stops a run before the first trains.

    Raises DataError, ModelError.
    """
    for stage in run.plan.stages.values():
        if trains(stage):
            stage_tokens(run, stage)


def stage_tokens(run: Run, stage: TrainingStage) -> dict[str, Tokens]:
    """Return the tokens of each source of a stage, under the stage's length policy."""
    return {name: tokens_of(run, name, stage.max_length, stage.overlong) for name in stage.shares()}
