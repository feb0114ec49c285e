"""TRL's DPOTrainer, driven through its own code: its reference pass, its collator and its training step.

Three things of it are replaced, each told where it stands: rows come as token ids instead of text, the
reference pass runs when it is asked for instead of in the constructor, and nothing is sent anywhere.

As it comes, TRL trains float32 weights under bfloat16 autocast: that is precision `autocast`. Precision
`bfloat16` gives it bfloat16 weights and no autocast; its optimiser then has no float32 copies.

On a CPU its head runs as plain torch operations, where a GPU has one Triton kernel, and adds its
gradients up from float32 products; so a CPU's ratios say more about large vocabularies than a GPU's
would. The counted FLOP do not depend on that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from unittest import mock

import datasets
import numpy as np
import trl.trainer.utils
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import is_liger_kernel_available
from trl import DPOConfig, DPOTrainer

from benchmarks.flops import Work, total
from benchmarks.shapes import END, MAX_LENGTH, PAD
from benchmarks.side import BETA, BETAS, CLIP, EPSILON, LEARNING_RATE, Rows, Task, micro_batches, tensor_bytes
from ratchet.pairs.pair import TokenisedPair


@dataclasses.dataclass(frozen=True)
class Setting:
    """How TRL is set up.

    `answers_only` lets the head see answer positions alone, which TRL 1.16 does on GPUs and not on
    CPUs. `liger` takes Liger's kernels, on a GPU that has them. `by_length` orders the pairs of a
    global batch by length, so that its micro-batches pad less; an update does not depend on that order.
    """

    gradient_checkpointing: bool
    answers_only: bool
    by_length: bool
    liger: bool


SETTINGS: Mapping[str, Setting] = {
    "default": Setting(gradient_checkpointing=True, answers_only=False, by_length=False, liger=False),
    "best": Setting(gradient_checkpointing=False, answers_only=True, by_length=True, liger=True),
}


class TokenTrainer(DPOTrainer):  # type: ignore[misc]
    """A DPOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has prompt_ids, chosen_ids and rejected_ids, which is what TRL's own makes of texts

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        pass

    def reference_pass(self, dataset: Any) -> Any:
        """Return `dataset` with the columns of TRL's own reference pass."""
        return super()._precompute_ref_logps(dataset, "train", self.args.per_device_train_batch_size)


class TrlSide:
    """A DPOTrainer in one process, with one setting."""

    def __init__(self, task: Task, setting: Setting) -> None:
        datasets.disable_progress_bars()
        self.task, self.setting = task, setting
        self.pairs = task.draw()
        self.logps_N2 = np.full((task.pairs, 2), np.nan)
        self.rows = datasets.Dataset.from_list([_row(pair) for pair in self.pairs])
        self.trainer = TokenTrainer(
            model=task.build(),
            args=self._arguments(),
            train_dataset=self.rows,
            processing_class=_tokenizer(),
        )
        if setting.gradient_checkpointing:  # as Trainer.train does before its loop
            self.trainer.model.gradient_checkpointing_enable()
        self.model, _ = self.trainer._prepare_for_training(1, None, None)
        self.model.zero_grad()

    def score(self, rows: Rows) -> None:
        rows = self._order(rows)
        # A new set each time: a selection from the old one could be answered from TRL's cache on disk,
        # whose key leaves out the precision of the pass.
        dataset = datasets.Dataset.from_list([_row(self.pairs[i]) for i in rows])
        with self._head():
            scored = self.trainer.reference_pass(dataset)
        self.logps_N2[rows, 0], self.logps_N2[rows, 1] = scored["ref_chosen_logps"], scored["ref_rejected_logps"]

    def step(self, rows: Rows) -> float:
        loss = self._accumulate(rows)
        trainer = self.trainer
        trainer._clip_grad_norm(self.model)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        self.model.zero_grad()
        return loss

    def gradients(self, rows: Rows) -> tuple[float, dict[str, Tensor]]:
        loss = self._accumulate(rows)
        found = {name: weight.grad.float() for name, weight in self.trainer.model.named_parameters()}
        self.model.zero_grad()
        return loss, found

    def training_work(self, rows: Rows) -> Work:
        parts = micro_batches(self._order(rows), self.task.micro)
        work = total(self._work(self._collate(part)) for part in parts)
        again = self.setting.gradient_checkpointing
        return dataclasses.replace(work, layers_again=again, head_again=work.head_rows)

    def tokens(self, rows: Rows) -> int:
        return self.training_work(rows).tokens

    def own_bytes(self) -> int:
        weights = list(self.trainer.model.parameters())
        state = [value for held in self.trainer.optimizer.state.values() for value in held.values()]
        return tensor_bytes(weights) + tensor_bytes([*weights, *state])

    def _accumulate(self, rows: Rows) -> float:
        """Run the micro-batches of a global batch as Trainer's loop does; return the mean loss.

        TRL averages the means of its micro-batches, so that only full ones give the mean over pairs.
        """
        if len(rows) % self.task.micro:
            raise ValueError(f"{len(rows)} pairs are not whole micro-batches of {self.task.micro}")
        parts = micro_batches(self._order(rows), self.task.micro)
        self.trainer.current_gradient_accumulation_steps = len(parts)
        loss = 0.0
        with self._head():
            for part in parts:
                loss += float(self.trainer.training_step(self.model, self._collate(part)))
        self.trainer._metrics["train"].clear()  # as its log method does after every few steps
        return loss

    def _head(self) -> contextlib.AbstractContextManager[None]:
        """A GPU's TRL gives its head answers alone by itself."""
        return _answers_only(self.setting.answers_only and self.task.device == "cpu")

    def _collate(self, rows: Rows) -> dict[str, Tensor]:
        examples = [
            {**self.rows[i], "ref_chosen_logps": self.logps_N2[i, 0], "ref_rejected_logps": self.logps_N2[i, 1]}
            for i in rows
        ]
        batch = self.trainer.data_collator(examples)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            batch[name] = batch[name].float()
        return cast(dict[str, Tensor], batch)

    def _order(self, rows: Rows) -> list[int]:
        if not self.setting.by_length:
            return list(rows)
        return sorted(rows, key=lambda i: -_longest(self.pairs[i]))

    def _work(self, batch: dict[str, Tensor]) -> Work:
        sequences, length = batch["input_ids"].shape
        answers_only = self.setting.answers_only or self.task.device == "cuda"
        scored = int(batch["completion_mask"][:, 1:].sum()) if answers_only else sequences * (length - 1)
        attended = sequences * length * (length + 1) // 2
        # transformers leaves the mask away, and the kernel the upper half, only where nothing is padded
        padded = not bool(batch["attention_mask"].all())
        return Work(sequences * length, scored, attended, sequences * length**2 if padded else attended)

    def _arguments(self) -> DPOConfig:
        return DPOConfig(
            output_dir=str(Path(tempfile.gettempdir()) / "ratchet-benchmark"),  # made, and left empty
            beta=BETA,
            max_length=MAX_LENGTH,
            precompute_ref_log_probs=True,
            gradient_checkpointing=self.setting.gradient_checkpointing,
            bf16=self.task.precision == "autocast",
            per_device_train_batch_size=self.task.micro,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_epsilon=EPSILON,
            max_grad_norm=CLIP,
            use_cpu=self.task.device == "cpu",
            use_liger_kernel=self.setting.liger and self.task.device == "cuda" and is_liger_kernel_available(),
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )


def _row(pair: TokenisedPair) -> dict[str, list[int]]:
    return {
        "prompt_ids": pair.prompt.tolist(),
        "chosen_ids": pair.chosen.tolist(),
        "rejected_ids": pair.rejected.tolist(),
    }


def _longest(pair: TokenisedPair) -> int:
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that only knows the special tokens: TRL asks it for the id to pad with."""
    named = {"pad_token": "<pad>", "bos_token": "<begin>", "eos_token": "<end>"}
    inner = Tokenizer(models.WordLevel({"<pad>": PAD, "<begin>": 1, "<end>": END}, named["pad_token"]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **named)


@contextlib.contextmanager
def _answers_only(on: bool) -> Iterator[None]:
    """Let TRL's fused head take the path that it takes on a GPU: rows that have a label, and no others.

    The name is looked up in two modules: here in the one that picks the rows; the one that picks
    Triton kernels keeps its answer for a CPU.
    """
    with mock.patch.object(trl.trainer.utils, "_use_triton", lambda _: True) if on else contextlib.nullcontext():
        yield
