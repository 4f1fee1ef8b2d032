"""A user's own attacks, detectors and presets: they work by import string like ours, and a file alone never imports them."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2d_jax import costs, presets, specs
from a2d_jax.attacks import bim
from a2d_jax.detectors import ZScore
from a2d_jax.errors import BadInput
from tests.nets import convnet
from tests.test_cli import FACTORY, a2d, near_boundary, run

MODULE = '''
"""An attack and a detector that no library knows."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from a2d_jax.losses import margin, misclassifies
from a2d_jax.types import Progress


class WalkState(NamedTuple):
    x_adv: Array
    progress: Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Walk:
    """Steps along the gradient of the margin."""

    step_size: float | Array = 0.01
    max_steps: int | Array = 50

    @property
    def norm(self):
        return "l2"

    def init(self, example):
        return WalkState(example.x, Progress.start(example))

    def step(self, classifier, example, state):
        gradient = jax.grad(lambda x: margin(classifier(x), example.label))(state.x_adv)
        success = misclassifies(classifier(state.x_adv), example.label)
        progress = state.progress.judge(success, self.max_steps, forward=2, backward=1)
        moved = jnp.clip(state.x_adv - self.step_size * gradient, 0, 1)
        return WalkState(jnp.where(progress.done, state.x_adv, moved), progress)

    def length(self):
        return int(self.max_steps) + 1


@dataclass(frozen=True)
class Below:
    """Suspicious: fewer than a share of the benign median."""

    share: float = 0.5

    def fit(self, benign, adversarial=None, *, labels=None):
        return FittedBelow(float(np.median(benign) * self.share))


@dataclass(frozen=True)
class FittedBelow:
    cost_threshold: float

    columns = 1
    threshold = 0.0

    def score(self, x, *, labels=None, index=None):
        return self.cost_threshold - np.asarray(x, float).reshape(len(x), -1)[:, 0]

    def predict(self, x, *, labels=None, index=None):
        return self.score(x) > 0

    def bounds(self, max_costs):
        return (int(np.ceil(self.cost_threshold)),)


class NoAttack:
    pass


number = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a network and a module of one's own, imported anew each time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_net.py").write_text(FACTORY)
    (tmp_path / "my_module.py").write_text(MODULE)
    sys.modules.pop("my_module", None)
    np.savez("near.npz", x=near_boundary(60, 0.05, 0))
    np.savez("far.npz", x=near_boundary(60, 0.6, 1))
    yield tmp_path
    sys.modules.pop("my_module", None)


def refused(capsys, *words: str, code: int) -> None:
    told = capsys.readouterr().err
    assert code == 1, told
    assert all(word in told for word in words), told
    assert told.count("\n") == 1


def test_an_attack_and_a_detector_of_ones_own(here, capsys):
    """Protects the open door: an attack and a detector of a module in a folder go through cost, fit, detect and eval."""
    attack = "my_module:Walk"
    for name in ("near", "far"):
        assert run("cost", "--attacks", f"bim,{attack}:step_size=0.02", "--out", f"{name}.parquet", images=f"{name}.npz") == 0
    rows = pq.read_table("far.parquet")
    assert set(rows["attack"].to_pylist()) == {"bim", attack}
    kept = json.loads(rows.schema.metadata[b"a2d"])["attacks"][attack]
    assert kept == {"kind": attack, "step_size": 0.02, "max_steps": 50}
    capsys.readouterr()
    assert a2d("eval", "--benign", "far.parquet", "--adversarial", "near.parquet", "--json") == 0
    assert [row["attack"] for row in json.loads(capsys.readouterr().out)["sets"]] == ["bim", attack]

    fitted = "fit", "--benign", "far.parquet", "--attacks", attack, "--detector", "my_module:Below:share=0.8", "--out", "own.json"
    assert a2d(*fitted) == 0
    assert json.loads((here / "own.json").read_text())["kind"] == "my_module:FittedBelow"
    assert a2d("detect", "--detector", "own.json", "--plugin", "my_module", "--costs", "near.parquet", "--out", "a.parquet") == 0
    again = "detect", "--detector", "own.json", "--plugin", "my_module", "--out", "b.parquet"
    assert run(*again, images="near.npz") == 0
    first, second = (pq.read_table(path).to_pydict() for path in ("a.parquet", "b.parquet"))
    assert first["adversarial"] == second["adversarial"]
    assert sum(first["adversarial"]) > 50
    assert a2d("detect", "--detector", "own.json", "--plugin", "my_module", "--costs", "far.parquet", "--out", "c.parquet") == 0
    assert sum(pq.read_table("c.parquet")["adversarial"].to_pylist()) < 40


def test_a_file_imports_nothing_by_itself(here, capsys):
    """Protects users of other people's files: a detector or a preset that names a module is refused until the module is named too."""
    assert run("cost", "--attacks", "my_module:Walk", "--out", "far.parquet", images="far.npz") == 0
    assert a2d("fit", "--benign", "far.parquet", "--detector", "my_module:Below", "--out", "own.json") == 0
    assert a2d("fit", "--benign", "far.parquet", "--detector", "zscore", "--out", "z.json") == 0
    (here / "mine.toml").write_text('[defence.walk]\nattack = "my_module:Walk"\n')
    sys.modules.pop("my_module", None)
    capsys.readouterr()
    refused(capsys, "my_module", "plugin", code=a2d("detect", "--detector", "own.json", "--costs", "far.parquet", "--out", "v.parquet"))
    refused(capsys, "my_module", "plugin", code=run("detect", "--detector", "z.json", "--out", "v.parquet", images="far.npz"))
    own = "cost", "--preset", "mine.toml", "--attacks", "walk", "--out", "w.parquet"
    refused(capsys, "my_module", "plugin", code=run(*own, images="far.npz"))
    assert "my_module" not in sys.modules, "nothing was imported"
    assert run(*own, "--plugin", "my_module", images="far.npz") == 0
    assert a2d("detect", "--detector", "z.json", "--costs", "far.parquet", "--out", "v.parquet") == 0, "costs alone need no attack"


def test_a_file_runs_nothing_that_a_plugin_imports(here, capsys):
    """Protects users who name a plugin: a file may take the attacks made in that module, and nothing that it imports from elsewhere."""
    (here / "my_module.py").write_text("import os\n" + MODULE)
    command = "echo wrong > ran"
    (here / "evil.toml").write_text(f'[defence.x]\nattack = "my_module:os.system"\ncommand = "{command}"\n')
    own = "cost", "--preset", "evil.toml", "--plugin", "my_module", "--attacks", "x", "--out", "c.parquet"
    refused(capsys, "made in my_module", code=run(*own, images="far.npz"))
    assert run("cost", "--attacks", "bim", "--out", "far.parquet", images="far.npz") == 0
    assert a2d("fit", "--benign", "far.parquet", "--detector", "zscore", "--out", "z.json") == 0
    stored = json.loads((here / "z.json").read_text())
    stored["meta"]["costs"]["attacks"]["bim"] = {"kind": "my_module:os.system", "command": command}
    (here / "z.json").write_text(json.dumps(stored))
    capsys.readouterr()
    judge = "detect", "--detector", "z.json", "--plugin", "my_module", "--out", "v.parquet"
    refused(capsys, "made in my_module", code=run(*judge, images="far.npz"))
    assert not (here / "ran").exists()


def test_from_python(here):
    """Protects the same from Python: text, settings and back."""
    sys.path.insert(0, str(here))
    try:
        found = specs.attacks("my_module:Walk:max_steps=7", {})
        settings = json.loads(json.dumps(specs.settings_of(found)))
        with pytest.raises(BadInput, match="my_module to be named as a plugin"):
            specs.attacks_from(settings, found, "a file")
        assert specs.attacks_from(settings, found, "a file", ["my_module"]) == found
        assert specs.detector("my_module:Below", share=0.25).share == 0.25
        assert specs.detector("zscore:h=-2.0") == ZScore(h=-2.0)
    finally:
        sys.path.remove(str(here))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("my_module:Walk:speed=2", "step_size, max_steps"),
        ("my_module:Walk:max_steps=many", "a whole number"),
        ("my_module:NoAttack", "without init, step, length"),
        ("my_module:number", "a class or a function"),
        ("my_module:Nothing", "'Nothing'"),
        ("no_such_module:Walk", "no_such_module"),
        ("my_module:Below", "without init"),
    ],
)
def test_what_is_no_attack(text, word, here, capsys):
    """Protects early failure: one line says what is wrong with an import string, before any image is read."""
    refused(capsys, word, code=run("cost", "--attacks", text, "--out", "c.parquet", images="far.npz"))


def test_preset_from_a_file(here, capsys):
    """Protects presets of one's own: attacks of the base with other settings, and new ones under names of their own."""
    (here / "my.toml").write_text(
        'base = "mnist"\n[defence.bim]\nepsilon = 0.2\n[defence.slow]\nattack = "bim"\nstep_size = 1e-4\n[crafting.two]\nattack = "fgsm"\n'
    )
    mine = presets.named("my.toml")
    assert mine.defence["bim"]() == bim(0.2, 6e-4, 500)
    assert mine.defence["slow"]() == bim(0.3, 1e-4, 500)
    assert mine.crafting["two"]() == presets.make("mnist", "crafting", "fgsm")
    assert mine.defence["jsma"]() == presets.make("mnist", "defence", "jsma")
    assert presets.make("my.toml", "defence", "slow", max_steps=9).max_steps == 9
    assert run("cost", "--preset", "my.toml", "--attacks", "slow", "--max-steps", 20, "--out", "s.parquet", images="near.npz") == 0
    assert set(pq.read_table("s.parquet")["preset"].to_pylist()) == {"my.toml"}
    for content, word in [
        ("[defence", "TOML"),
        ("[attack.bim]\n", "defence and crafting"),
        ("[defence.bim]\nradius = 1\n", "radius"),
        ("[defence]\nbim = 3\n", "settings for each attack"),
        ('[defence.x]\nattack = "nothing"\n', "'nothing'"),
        ('base = "imagenette"\n', "imagenette"),
        ("base = 3\n", "3"),
        ("[defence.bim]\nepsilon = -1\n", "epsilon >= 0"),
        ("[defence.bim]\nmax_steps = 10.5\n", "a whole number"),
        ("[defence.bim]\nmax_steps = true\n", "a whole number"),
        ('[defence.bim]\ntargeted = "false"\n', "true or false"),
        ("[defence.bim]\nepsilon = nan\n", "got nan"),
        ('[defence."a.b"]\nattack = "bim"\n', "without comma"),
        ('base = "bad.toml"\n', "a base among"),
    ]:
        (here / "bad.toml").write_text(content)
        refused(capsys, word, code=run("cost", "--preset", "bad.toml", "--attacks", "bim", "--out", "t.parquet", images="near.npz"))
    refused(capsys, "none.toml", code=run("cost", "--preset", "none.toml", "--out", "t.parquet", images="near.npz"))


# Targets of targeted attacks.


def test_targets(here, capsys):
    """Protects targeted attacks: the target asked for is reached, recorded, and never the class that an image has already by luck."""
    sure = "--max-steps", 3000, "--epsilon", 0.9
    for target, reaches in [("1", lambda had: np.ones_like(had)), ("second", lambda had: 1 - had), ("random", lambda had: 1 - had)]:
        out = f"t-{target}.npz"
        assert run("attack", "--attack", "bim:targeted=true", "--target", target, *sure, "--out", out, images="near.npz") == 0
        with np.load(out) as crafted:
            had = crafted["y"]
            np.testing.assert_array_equal(crafted["target"], reaches(had))
            assert crafted["success"].all()
            moved = (crafted["x"] != np.load("near.npz")["x"]).any(axis=(1, 2, 3))
            np.testing.assert_array_equal(moved, crafted["target"] != had)
    assert run("cost", "--attacks", "bim,bim2", "--out", "u.parquet", images="near.npz") == 0
    assert pq.read_table("u.parquet")["target"].null_count == 120
    np.savez("labelled.npz", x=near_boundary(6, 0.2, 3), y=np.zeros(6, int))
    assert run("attack", "--attack", "bim:targeted=true", "--target", "labels", *sure, "--out", "l.npz", images="labelled.npz") == 0
    assert set(np.load("l.npz")["target"]) == {0}


def test_a_targeted_attack_needs_a_target(here, capsys):
    """Protects against a silent nothing: without a target a targeted attack would call every unchanged image a success."""
    targeted = "attack", "--attack", "bim:targeted=true", "--out", "a.npz"
    refused(capsys, "target", "second", code=run(*targeted, images="near.npz"))
    refused(capsys, "targeted=true", code=run("attack", "--attack", "bim", "--target", "1", "--out", "a.npz", images="near.npz"))
    for target, word in [("third", "'third'"), ("7", "from 0 to 1"), ("labels", "with labels"), ("-1", "'-1'")]:
        refused(capsys, word, code=run(*targeted, f"--target={target}", images="near.npz"))
    for target in ("secnd", True, 1.0, np.int64(-1)):
        with pytest.raises(BadInput, match="a class number, second"):
            costs.costs(convnet(), np.full((3, 8, 8, 1), 0.5, np.float32), {"bim": bim(targeted=True)}, target=target)
    with pytest.raises(BadInput, match="expected a target for bim"):
        costs.costs(convnet(), np.full((3, 8, 8, 1), 0.5, np.float32), {"bim": bim(targeted=True)})
