"""What processes load: modules are counted, never seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whole_run import environment, loaded_by, write_smallest

UNUSED = {"sklearn", "scipy", "pandas"}
WORKER = """
import json, sys
from pathlib import Path
import ratchet.train.worker, ratchet.reference.score, ratchet.evaluate.engines.local
import ratchet.train.deepspeed
from ratchet.model.load import load_model
from ratchet.pairs.tokenizer import load_tokenizer
folder = Path(sys.argv[1])
load_tokenizer(folder, None)
load_model(folder, "float32")
import ratchet.model.lora
loaded = sorted(sys.modules)
import transformers.utils
from lm_eval.api import metrics
metrics.f1_score([(1, 1), (0, 0)])
told = transformers.utils.is_sklearn_available() and transformers.utils.import_utils.is_scipy_available()
print(json.dumps([loaded, told, sorted(sys.modules)]))
"""


@pytest.mark.heavy
def test_workers_load_nothing_that_nobody_needs(small_folder: Path) -> None:
    """What trains, scores and evaluates goes without scikit-learn, scipy and pandas; lm-eval has them all the same."""
    found = subprocess.run(
        [sys.executable, "-c", WORKER, str(small_folder)], env=environment(), capture_output=True, text=True, check=True
    )
    loaded, told, afterwards = json.loads(found.stdout.splitlines()[-1])
    assert "transformers.generation.candidate_generator" in loaded and not UNUSED & set(loaded)
    assert told and {"sklearn.metrics", "scipy"} <= set(afterwards)


ARROW = """
import sys
import pyarrow as pa
if sys.argv[1] == "lean":
    import ratchet.pairs.assemble, ratchet.pairs.table
    assert "pandas" not in sys.modules and pa.array(["a"]).to_pylist() == ["a"] and "pandas" not in sys.modules
else:
    pa.array(["a"])
    assert "pandas" in sys.modules
import pandas as pd
print(pd.__spec__.loader.get_source("pandas") is not None)
day = pd.Series([pd.Timestamp("2020-01-01"), pd.NaT])
for made in (pd.Series([1.0, float("nan")]), day, pd.Categorical(["a", "b", "a"]), pd.Series(["a", None])):
    print(pa.array(made).type, pa.array(made).to_pylist())
print(pa.table({"s": pd.Series(["a", float("nan")], dtype=object)}).to_pylist())
"""


@pytest.mark.heavy
def test_pyarrow_takes_pandas_of_anybodys_code_as_it_does_without_us(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", ARROW, way], env=environment(), capture_output=True, text=True, check=True
        ).stdout
        for way in ("lean", "plain")
    ]
    assert told[0] == told[1] and "[1.0, None]" in told[0] and "dictionary" in told[0]


@pytest.mark.heavy
def test_show_needs_no_torch(tmp_path: Path, small_folder: Path) -> None:
    """Before a run, where a tokenizer of a model folder counts the pairs' tokens."""
    write_smallest(tmp_path)
    told = (tmp_path / "plan.yaml").read_text()
    head, _, rest = told.partition("model:")
    (tmp_path / "plan.yaml").write_text(f"{head}model: {{path: {small_folder}}}\ndata:{rest.partition('data:')[2]}")
    loaded = loaded_by(tmp_path, "show", "plan.yaml") | loaded_by(tmp_path, "check", "plan.yaml")
    assert "tokenizers" in loaded and "ratchet.pipeline.state" in loaded
    assert not {"torch", "ray", "matplotlib"} & loaded and not UNUSED & loaded


@pytest.mark.heavy
def test_a_look_at_data_needs_no_torch(tmp_path: Path) -> None:
    """Also where the model's tokenizer is still to be trained; only a page loads the library that draws charts."""
    write_smallest(tmp_path)
    loaded = loaded_by(tmp_path, "data", "plan.yaml")
    assert "tokenizers" in loaded and "ratchet.look.whole" in loaded and "ratchet.pairs.quality" in loaded
    assert not {"torch", "ray", "matplotlib", "datasets"} & loaded and not UNUSED & loaded
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder of random weights."""
    from harness_example import SPEC
    from ratchet.model.scratch import make_scratch
    from token_pairs import TEXTS

    folder = tmp_path_factory.mktemp("models") / "small"
    make_scratch(SPEC, TEXTS, folder)
    return folder
