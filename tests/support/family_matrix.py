"""What Ratchet does with a tiny model of a family, from its folder to an evaluation, as one row of the matrix.

Each is tried through the library's own functions and compared with transformers, which computes in float64, one
sequence at a time. Scores are of pairs whose prompts begin alike, so that sharing has something to share.
"""

from __future__ import annotations

import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import logsigmoid

from family_configs import FIRST, VOCABULARY, write_tiny
from family_rows import Row
from ratchet.errors import RatchetError
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods, may_share
from ratchet.losses.preference import PairLogps, preference_loss
from ratchet.model.causal import need_causal
from ratchet.model.check import check_model
from ratchet.model.folder import stored_tensors
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import load_model
from ratchet.model.lora import add_lora, merge_lora
from ratchet.model.merge import merge_models
from ratchet.model.noise import routes
from ratchet.model.passport import passport_of
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.training import Lora
from ratchet.serving.requests import ContinuationRequest
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.objective import Reference
from tiny_models import plain
from train_bench import CPU, Pairs, spec_of, train_whole, write_logps, write_tokens

EXACT = 2e-4
"""Nats, of answers of some 100, that float32 may be off."""
MERGED = 2e-3
"""Nats that merged adapters of random weights may be off, in float32."""
LATE = r"\.compressor\."
"""Modules of which texts as short as these read nothing, and longer ones do: DeepSeek V4 compresses whole windows."""
STEEP = 1e-4
"""The same of a gradient, in the largest of all its elements."""


def measure(family: str) -> Row:
    """Return the row of a family."""
    with tempfile.TemporaryDirectory(prefix="ratchet-family-") as root:
        return _Trial(family, Path(root)).row()


class _Trial:
    def __init__(self, family: str, root: Path) -> None:
        self.root, self.start = root, root / "start"
        self.kind = write_tiny(family, self.start)
        self.cells: dict[str, Any] = {"family": family, "kind": self.kind}
        self.pairs = _Made(8)

    def row(self) -> Row:
        self._try("passport", self._passport)
        model = self._try("loads", lambda: (load_model(self.start, "float32"), "yes"))
        scorer = model and self._try("shares", lambda: self._shares(model))
        exact = scorer and self._try("exact", lambda: self._exact(scorer))
        if exact:
            self._try("gradient", lambda: self._gradient(exact))
            self._inputs(exact)
            if published := self._try("trains", self._trains):
                self._try("reloads", lambda: self._reloads(published))
                self._try("merges", lambda: self._merges(published))
            self._try("lora", self._lora)
        if model:
            self._try("evaluates", self._evaluates)
        return Row(**self.cells)

    def _try(self, cell: str, what: Callable[[], tuple[Any, str]]) -> Any:
        try:
            found, self.cells[cell] = what()
        except RatchetError as error:
            said = re.sub(r" \(off by [^)]*\)", "", error.what).replace(self.kind, "it")
            self.cells[cell] = f"no: {error.code}: {said}"
        except Exception as error:  # whatever is raised is what the row is for
            said = (str(error).strip().splitlines() or [""])[0].replace(self.kind, "it")
            self.cells[cell] = f"fails: {type(error).__name__}: {said}"[:160]
        else:
            return found
        return None

    def _passport(self) -> tuple[bool, str]:
        """What is said of the folder before a run is what loading it does: so many parameters trained, so many kept."""
        check_model(self.start, None)
        model = load_model(self.start, "float32")
        said = collections.Counter[str]()
        for part in passport_of(self.start).parts:
            said[part.fate] += part.parameters
        held = sum(tensor.numel() for name, tensor in model.named_buffers() if name in model.state_dict())
        found = {kind: sum(one.numel() for one in model.parameters() if one.requires_grad == kind) for kind in (1, 0)}
        assert said["trained"] == found[1], f"{found[1]:,} trained, and it says {said['trained']:,}"
        # Buffers are among what is held, and those of a tower among what is kept.
        assert found[0] - said["held"] <= said["kept"] <= found[0] + held, (
            f"{found[0]:,} kept, it says {said['kept']:,}"
        )
        return True, "yes"

    def _shares(self, model: Any) -> tuple[PairScorer, str]:
        scorer = PairScorer(model).eval()
        packing = scorer.packing
        if packing.why_padded is not None:
            return scorer, f"no: {packing.why_padded}"
        return scorer, "yes" if packing.longest is None else f"yes, to {packing.longest} tokens"

    def _exact(self, scorer: PairScorer) -> tuple[tuple[Tensor, Tensor], str]:
        with torch.no_grad():
            found = score(scorer, self.pairs.rows, CPU)
            wanted = _by_hand(_plainly(self.start, self.kind, torch.float64), self.pairs.rows)
        sides = zip((found.chosen_B, found.rejected_B), wanted, strict=True)
        off = max(float((ours.double() - theirs).abs().max()) for ours, theirs in sides)
        return wanted, _within(off, EXACT)

    def _gradient(self, exact: tuple[Tensor, Tensor]) -> tuple[bool, str]:
        """DPOP, so that both its parts pull; by transformers alone and by the scorer, both in float32."""
        chosen, rejected = exact[0].float() + 1, exact[1].float() - 0.5
        ours, theirs = load_model(self.start, "float32"), _plainly(self.start, self.kind, torch.float32)
        found = score(PairScorer(ours).eval(), self.pairs.rows, CPU)
        logps = PairLogps(
            found.chosen_B, found.rejected_B, chosen, rejected, found.chosen_tokens_B, found.rejected_tokens_B
        )
        preference_loss("dpop", logps, {"beta": 0.3, "penalty": 5.0}).mean().backward()
        one, other = _by_hand(theirs, self.pairs.rows)
        margin = (one - chosen) - (other - rejected) - 5 * (chosen - one).clamp(min=0)
        (-logsigmoid(0.3 * margin)).mean().backward()
        wanted = {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
        made = {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}
        steepest = max(float(grad.abs().max()) for grad in wanted.values())
        missing = {name for name, grad in wanted.items() if grad.any()} - made.keys()
        assert not missing, f"no gradient of {min(missing)}"
        off = max(float((grad - wanted.get(name, 0 * grad)).abs().max()) for name, grad in made.items())
        return True, _within(off / steepest, STEEP)

    def _inputs(self, exact: tuple[Tensor, Tensor]) -> None:
        write_tokens(self.root / "train.arrow", self.pairs)
        write_logps(self.root / "logps", self.pairs, Reference(*(side.numpy() for side in exact)))

    def _train(self, name: str, **more: Any) -> dict[str, Any]:
        spec = spec_of(
            self.root / name,
            model=str(self.start),
            tokens=(str(self.root / "train.arrow"),),
            shares=(1.0,),
            references=(str(self.root / "logps"),),
            epochs=1,
            batch=4,
            token_budget=2000,
            learning_rate=1e-3,
            **more,
        )
        found: dict[str, Any] = train_whole(spec, Alone(), CPU, TorchEngine)
        return found

    def _trains(self) -> tuple[Path, str]:
        self._train("full")
        return self.root / "full/model", "yes"

    def _reloads(self, published: Path) -> tuple[bool, str]:
        """transformers alone scores the published folder as Ratchet does; it has all tensors of the start."""
        lost = stored_tensors(self.start).keys() - stored_tensors(published).keys()
        assert not lost, f"lost {min(lost)} and {len(lost) - 1} more tensors"
        with torch.no_grad():
            found = score(PairScorer(load_model(published, "float32")).eval(), self.pairs.rows, CPU).chosen_B
            wanted, _ = _by_hand(_plainly(published, self.kind, torch.float64), self.pairs.rows)
        return True, _within(float((found.double() - wanted).abs().max()), EXACT)

    def _merges(self, published: Path) -> tuple[bool, str]:
        merge_models([self.start, published], [0.5, 0.5], self.root / "merged")
        load_model(self.root / "merged", "float32")
        return True, "yes"

    def _lora(self) -> tuple[bool, str]:
        reach = self._train("lora", lora=Lora(rank=2))["published"]["reach"]
        self.cells["reach"] = round(100 * reach["parameters"] / reach["of"])
        return True, self._adapters()

    def _adapters(self) -> str:
        """Each adapter that default targets make gets a gradient, and merged they score as they did apart."""
        model = add_lora(load_model(self.start, "float32"), Lora(rank=2))
        draw = torch.Generator().manual_seed(0)
        made = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        with torch.no_grad():
            for name, weight in made.items():
                if "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=draw) * 0.1)
        found = score(PairScorer(model).eval(), self.pairs.rows, CPU)
        before = found.chosen_B
        (before - found.rejected_B).sum().backward()
        idle = [name for name, weight in made.items() if weight.grad is None and not re.search(LATE, name)]
        assert not idle, f"no gradient of {len(idle)} adapters' weights: {idle[0]}"
        with torch.no_grad():
            merged_model = merge_lora(model)
            merged = score(PairScorer(merged_model).eval(), self.pairs.rows, CPU).chosen_B
        off = (merged - before.detach()).abs()
        # Where a router's choice turns, as it may, the middle answer shows it not.
        return _within(float(off.median() if routes(merged_model.config) else off.max()), MERGED)

    def _evaluates(self) -> tuple[bool, str]:
        """Continuations of four contexts, against transformers in float64."""
        model = load_model(self.start, "float32")
        need_causal(model, masked=True)
        random = np.random.default_rng(5)
        draw = lambda count: tuple(int(one) for one in random.integers(FIRST, VOCABULARY, count))  # noqa: E731
        asked = [ContinuationRequest(draw(n), tuple(draw(m) for m in (1, 4, 9))) for n in (1, 7, 30, 60)]
        shares, reach = may_share(model), forest_reach(model)
        exact, off = _plainly(self.start, self.kind, torch.float64), 0.0
        with torch.no_grad():
            for one, answer in zip(asked, likelihoods(model, asked, share=shares, reach=reach), strict=True):
                for tail, found in zip(one.continuations, answer.logprobs or (), strict=True):
                    off = max(off, abs(float(plain(exact, np.array(one.context), np.array(tail))) - found))
        return True, _within(off, EXACT, "in a forest" if reach else "contexts shared" if shares else "padded")


class _Made(Pairs):
    """Pairs of which some share a prompt, some begin alike, and some are strangers."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        random = np.random.default_rng(0)
        draw = lambda size: random.integers(FIRST, VOCABULARY, size).astype(np.int32)  # noqa: E731
        prompt, chosen = draw(40), draw(12)
        twin = np.concatenate([chosen[:5], draw(4)])
        sides = [(prompt, chosen, twin), (prompt, chosen, draw(7)), (prompt[:30], chosen[:6], draw(1))]
        lengths = ((1, 1, 3), (9, 14, 2), (25, 4, 11), (33, 8, 8), (2, 6, 1))
        sides += [(draw(n), draw(a), draw(b)) for n, a, b in lengths]
        self.rows = [TokenisedPair(f"{i:032x}", *side) for i, side in enumerate(sides)]
        self.pair_ids = [pair.pair_id for pair in self.rows]
        self.lengths_N3 = np.array([[len(side) for side in one] for one in sides], np.int32)


def _within(off: float, allowed: float, said: str = "") -> str:
    """Say that a figure is within what is allowed, or which it is."""
    if off <= allowed:
        return f"yes, {said}" if said else "yes"
    return f"fails: off by {off:.1g}"


def _plainly(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """Return a model as transformers alone loads and computes it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    for part in (config, config.get_text_config()):
        for key, value in vars(part).items():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)
    try:
        model = getattr(transformers, kind).from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        )
    except ValueError:  # a class that has one attention alone
        model = getattr(transformers, kind).from_pretrained(folder, config=config, dtype=dtype)
    return model.eval()


def _by_hand(model: Any, pairs: list[TokenisedPair]) -> tuple[Tensor, Tensor]:
    sides = ([plain(model, pair.prompt, getattr(pair, side)) for pair in pairs] for side in ("chosen", "rejected"))
    chosen, rejected = (torch.stack(side) for side in sides)
    return chosen, rejected
