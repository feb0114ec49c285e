"""A package that adds a loss, a layout and a builder. As a script: what Ratchet makes of it, as one line of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KIND = '''"""A margin of the likelihoods, without torch."""
from typing import Annotated, Literal
from pydantic import Field
from ratchet.plan.stages import AddedLoss, StageKind
from ratchet.plan.training import PreferenceStage

class Hinge(PreferenceStage):
    """A hinge on the margin."""
    kind: Literal["hinge"]
    width: Annotated[float, Field(gt=0)] = 1.0

ROW = AddedLoss(
    stage=StageKind(settings=Hinge, loss_axis="loss", metrics=(), warns_of_near_twins=False),
    loss="hinge_loss:ROW",
)
'''
LOSS = """from torch.nn import functional as F
from ratchet.losses.preference import Loss, likelihood_reward

def hinge(logps, *, beta, width):
    return F.relu(width - beta * (logps.policy_chosen_B - logps.policy_rejected_B))

ROW = Loss(function=hinge, options=("beta", "width"), reads_reference=False, start=None, gain=None,
           reward=likelihood_reward, metrics={}, kink=False)
"""
ROWS = """from ratchet.pairs.build import Builder
from ratchet.pairs.layouts import RowLayout, Sides
from ratchet.pairs.pair import Turn, answer_turn

def read(row):
    return Sides((Turn("user", row["ask"]),), answer_turn(row["yes"]), answer_turn(row["no"]))

LAYOUT = RowLayout(read, lambda row: "ask" in row, "ask, yes, no", "pairs")
BUILDER = Builder(lambda sides, seed: [(sides.prompt, sides.chosen, sides.rejected)], "duo")
"""
PLAN = """\
name: p
model: {path: .}
data: {a: {path: a.jsonl, layout: duo, build: same}}
stages: {align: {kind: hinge, data: [a], width: 2.0}}
"""


def install(
    folder: Path, *, version: str, name: str = "ratchet-hinge", losses: Mapping[str, str] | None = None
) -> None:
    """Write the package into `folder`, as an installer does; with `losses`, only these entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = {"losses": losses or {"hinge": "hinge_kind:ROW"}}
    if losses is None:
        points |= {"layouts": {"duo": "hinge_rows:LAYOUT"}, "builders": {"same": "hinge_rows:BUILDER"}}
        for module, text in (("hinge_kind", KIND), ("hinge_loss", LOSS), ("hinge_rows", ROWS)):
            (folder / f"{module}.py").write_text(text)
    lines = [
        f"[ratchet.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in some.items()) for group, some in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def check(text: str) -> tuple[int, str]:
    """Return the status and the complaints of `ratchet check` about a plan."""
    from ratchet.cli import main

    Path("plan.yaml").write_text(text, encoding="utf-8")
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        status = main(["check", "plan.yaml"])
    return status, errors.getvalue()


def update(options: Mapping[str, Any]) -> dict[str, Any]:
    """Train two steps with the loss, and work the first loss out by hand."""
    from ratchet.errors import TrainingError
    from ratchet.train.data import open_data
    from train_bench import Pairs, lines_of, reference_of, spec_of, tiny_model, train, write_tokens

    table, folder = Pairs(22), Path("step")
    folder.mkdir()
    write_tokens(Path("tokens.arrow"), table)
    spec = spec_of(folder, kind="hinge", options=options, starts_at_reference=False, max_steps=2)
    spec = dataclasses.replace(spec, tokens=("tokens.arrow",), shares=(1.0,), package="ratchet-hinge 1.0")
    scores = reference_of(tiny_model(), table)
    bench = train(spec, open_data(spec)[0])
    first = json.loads((folder / "ledger.jsonl").read_text().splitlines()[0])["rows"]
    margins = [scores.chosen_N[row] - scores.rejected_N[row] for row in first]
    start = tiny_model().state_dict()
    found: dict[str, Any] = {
        "metrics": sorted(lines_of(folder)[0]),
        "loss": lines_of(folder)[0]["loss"],
        "loss by hand": sum(max(0.0, 2.0 - 0.1 * margin) for margin in margins) / len(margins),
        "moved": any(
            not bool((value == start[name.removeprefix("model.")]).all())
            for name, value in bench.engine.scorer.state_dict().items()
        ),
    }
    try:
        open_data(dataclasses.replace(spec, package="ratchet-hinge 0.9"))
    except TrainingError as error:
        found["other version"] = str(error)
    return found


def main() -> dict[str, Any]:
    """Check a plan, then read a row and make a real update, both by the package."""
    Path("a.jsonl").write_text(json.dumps({"ask": "q", "yes": "good", "no": "bad"}) + "\n")
    Path("config.json").write_text("{}")
    found: dict[str, Any] = {"check": check(PLAN)[0], "slip": check(PLAN.replace("width", "wdth"))[1]}
    found["torch after check"] = "torch" in sys.modules

    from ratchet.pairs.flow import pairs_identity
    from ratchet.pairs.source import read_source
    from ratchet.pipeline.graph import recipe, steps_of
    from ratchet.plan.load import load_plan
    from ratchet.plan.reference_page import page

    check(PLAN)
    plan = load_plan(Path("plan.yaml"))
    (step,) = steps_of(plan, "align", ())
    (pair,) = read_source(plan.data["a"])
    found["reference"] = step.reference
    found["pairs of a row"] = [pair.prompt[0].content, pair.chosen.content, pair.rejected.content]  # type: ignore[union-attr]
    found["pairs packages"] = pairs_identity(plan.data["a"], None)["packages"]

    class Names:
        def model(self, which: Any) -> str:
            return "model"

        def tokens(self, source: str, stage: Any) -> str:
            return "tokens"

        def rows(self, step: Any) -> None:
            return None

    found["step package"] = recipe(plan, step, Names())["package"]
    found["page"] = page()
    return found | update(step.settings.model_dump(mode="json"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
