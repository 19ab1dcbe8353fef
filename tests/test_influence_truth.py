"""The committed truth of docs/influence-truth.md: small, complete, and what retraining gives today."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.estimators import study, truth
from experiments.estimators.options import Config
from unlearn_jax import influence
from unlearn_jax.as_json import json_text
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.models.paths import nested
from unlearn_jax.types import Examples, Variables

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/influence-truth.md"
FILES = sorted((ROOT / "docs/findings/estimators/truth").glob("*.npz"))


def weights(told, state):
    return nested({name.partition("/")[2]: jnp.asarray(told[name]) for name in told if name.startswith(f"{state}/")})


def test_the_files_are_small_and_those_of_the_page():
    assert sum(file.stat().st_size for file in FILES) < 300_000
    assert {file.name for file in FILES} == set(re.findall(r"\(findings/estimators/truth/(.*?)\)", PAGE.read_text()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_has_the_points_and_options_of_its_setting(file):
    told = np.load(file)
    config = Config().with_setting(file.stem)
    assert json.loads(str(told["config"])) == json.loads(json_text({**deciding_options(config), "setting": file.stem}))
    toy, unseen = truth.draw(config)
    for name, array in {"images": toy.train.images, "labels": toy.train.labels, "target_images": unseen.images}.items():
        np.testing.assert_array_equal(told[name], array)
    assert told["effects"].shape == (128, 16) and np.isfinite(told["effects"]).all() and np.ptp(told["effects"], axis=0).min() > 0


def test_retraining_gives_its_effects_and_weights():
    """Of three points, in the narrow network; other compilers round otherwise, and a relu that turns moves an effect."""
    told = dict(np.load(ROOT / "docs/findings/estimators/truth/narrow.npz"))
    config = Config().with_setting("narrow")
    run = study.prepare_training(config, truth.draw(config)[0], config.seed)
    run = dataclasses.replace(run, initial=Variables(weights(told, "initial"), {}))
    targets = Examples(jnp.asarray(told["target_images"]), jnp.asarray(told["target_labels"]))
    rows = np.array([0, 50, 127])
    found = influence.leave_one_out(run, rows, targets=targets)
    exact = told["effects"][rows]
    np.testing.assert_allclose(found.change.margins, exact, rtol=0.02, atol=0.1 * np.abs(told["effects"]).mean())
    final = weights(told, "final")
    jax.tree.map(lambda own, other: np.testing.assert_allclose(own, other, atol=1e-3), found.original.params, final)


def test_the_page_scores_an_estimator(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (text,) = re.findall(r"<!-- truth -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(compile(text, PAGE.name, "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("rank correlation with exact leave-one-out: ") and float(said.split()[-1]) > 0.4


def test_a_setting_that_an_earlier_version_kept_has_no_weights_to_give():
    arrays = {"exact": np.zeros((4, 2)), "estimate/trak": np.zeros((4, 2))}
    assert not truth.is_complete(arrays)
    held = Variables({"head": {"bias": np.zeros(2)}}, {})
    assert truth.is_complete(arrays | truth.pack_weights(held, held))
