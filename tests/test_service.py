"""A defense as a service: nothing compiles after the warm-up, threads share it, and a folder restores it exactly."""

import json
import pathlib
import re
import shutil
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from a2d_jax import costs, drivers
from a2d_jax.attacks import CarliniWagner, Newton, bim, pgd
from a2d_jax.classifiers import as_classifier, in_bfloat16
from a2d_jax.costs import Defense
from a2d_jax.detectors import Conformal, Vote, ZScore
from a2d_jax.errors import BadInput
from a2d_jax.io.detectors import read_detector
from tests.nets import convnet

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "service.md"
X = np.random.default_rng(0).random((300, 8, 8, 1), np.float32)
ATTACKS = {"bim": bim(0.3, 0.01, 30), "newton": Newton(0.2)}
ONE = jax.local_devices()[:1]


@pytest.fixture
def one_device(monkeypatch):
    """A machine with one device, as a service has by default: fewer programs to compile than with eight."""
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: ONE)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A module of a user's own, already imported, and the defense of its network."""
    name = f"network_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        textwrap.dedent("""
        from flax import nnx

        class Net(nnx.Module):
            input_shape = (8, 8, 1)
            photographs = {"resize": 8, "crop": 8, "interpolation": "bilinear"}

            def __init__(self, seed=0):
                self.dense = nnx.Linear(64, 5, rngs=nnx.Rngs(seed))

            def __call__(self, x):
                return 5 * self.dense(x.reshape(len(x), -1))

        class Other(Net):
            def __call__(self, x):
                return -super().__call__(x)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield __import__(name)
    sys.modules.pop(name, None)


def compiled():
    """A list that grows with every program that is compiled."""
    seen: list[str] = []

    def hear(name: str, _: float, **__: object) -> None:
        if "backend_compile" in name:
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(hear)
    return seen


@pytest.mark.usefixtures("one_device")
def test_nothing_compiles_after_the_warm_up():
    """Protects a service: calls of 1 to 256 images, bounded or in full, never wait for a program."""
    fitted = Defense(convnet(), ATTACKS, Vote(k=1), columns=["bim", "newton.crossing"]).fit(X[:40])
    fitted.warmup()
    seen = compiled()
    whole = fitted.predict(X)
    seen.clear()  # of 300 images: more than promised
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 127, 128, 129, 200, 255, 256):
        np.testing.assert_array_equal(fitted.predict(X[:count]), whole[:count])
    for count in (1, 5, 40, 130):
        fitted.score(X[:count])
        fitted.judge(X[:count], bound=True)
    assert seen == []


@pytest.mark.usefixtures("one_device")
def test_warm_streams_compile_nothing():
    """Protects warm-up of the driver itself: attacks with other numbers, any count, with images kept."""
    net, attack = convnet(1), pgd(0.1, 0.02, 5)
    drivers.warm(attack, net, (8, 8, 1))
    examples = costs.examples(net, X[:70])
    streams = [jax.tree.map(lambda leaf, n=n: leaf[:n], examples) for n in (1, 6, 33, 70)]
    seen = compiled()
    for some in streams:
        list(drivers.stream(pgd(0.2, 0.01, 5), net, [some._replace(key=np.asarray(jax.random.key_data(some.key)))]))
    assert [one for one in seen if one] == [] or len(seen) <= len(streams)  # taking the keys apart, here in the test


def test_warm_up_refuses():
    """Protects callers: a shape that is unknown, or not that of the images."""
    fitted = Defense(convnet(), {"bim": ATTACKS["bim"]}, ZScore()).fit(X[:40])
    with pytest.raises(BadInput, match="to which the defense was fitted, got"):
        fitted.warmup((4, 4, 1))
    unknown = costs.FittedDefense(fitted.classifier, fitted.attacks, fitted.detector, fitted.columns)
    with pytest.raises(BadInput, match="expected the shape of the images, got none"):
        unknown.warmup()
    with pytest.raises(BadInput, match="classifier takes, got 4 x 4 x 1"):
        unknown.warmup((4, 4, 1))


def test_judge_tells_all():
    """Protects the numbers: verdicts, scores, costs and classes belong together, and a bound changes no verdict."""
    fitted = Defense(convnet(), {"bim": ATTACKS["bim"]}, Conformal(level=0.2)).fit(X[:60])
    full, fast = fitted.judge(X[60:90]), fitted.judge(X[60:90], bound=True)
    np.testing.assert_array_equal(full.adversarial, fitted.predict(X[60:90]))
    np.testing.assert_array_equal(full.adversarial, fast.adversarial)
    np.testing.assert_array_equal(full.adversarial, full.score > fitted.detector.threshold)
    np.testing.assert_array_equal(full.costs, costs.costs(convnet(), X[60:90], {"bim": ATTACKS["bim"]})[0])
    np.testing.assert_array_equal(full.label, costs.predictions(convnet(), X[60:90])[0])
    assert (fast.costs <= full.costs).all()


@pytest.mark.usefixtures("one_device")
def test_threads_share_a_defense():
    """Protects a service: two threads at once get what one gets alone, before anything is compiled and after."""
    fitted = Defense(convnet(2), {"bim": ATTACKS["bim"]}, Conformal(level=0.2)).fit(X[:60])
    fitted.__dict__.pop("_known_stops", None)
    parts = [X[i : i + n] for i, n in ((60, 1), (61, 30), (91, 5), (96, 64), (160, 2), (162, 40))]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(fitted.judge, parts))
        bounded = list(pool.map(fitted.predict, parts))
    alone = fitted.judge(X[60:202])
    for field, values in enumerate(alone):
        np.testing.assert_array_equal(np.concatenate([one[field] for one in together]), values)
    np.testing.assert_array_equal(np.concatenate(bounded), alone.adversarial)


def defense(network, wrap=lambda net: net, attacks=None, detector=None):
    net = wrap(as_classifier(network.Net(3)))
    return Defense(net, attacks or {"bim": ATTACKS["bim"]}, detector or ZScore()).fit(X[:60])


@pytest.mark.parametrize(
    ("attacks", "detector", "wrap"),
    [
        ({"bim": bim(0.3, 0.01, 30)}, ZScore(), lambda net: net),
        ({"bim": bim(0.3, 0.01, 30), "cw": CarliniWagner(40, 20, step_size=0.05, minimise=False)}, Vote(k=1), lambda net: net),
        ({"bim": bim(0.3, 0.01, 30)}, Conformal(level=0.2, per_class=False), in_bfloat16),
    ],
)
@pytest.mark.usefixtures("one_device")
def test_round_trip(network, attacks, detector, wrap):
    """Protects a saved defense: everything it says is equal in every bit after loading, and the commands read its parts."""
    fitted = defense(network, wrap, attacks, detector)
    factory = f"{network.__name__}:Net"
    fitted.save("guard", factory=factory)
    again = Defense.load("guard")
    for mine, theirs in zip(fitted.judge(X[60:100]), again.judge(X[60:100]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(fitted.predict(X[60:100]), again.predict(X[60:100]))
    assert (again.columns, again.target, again.shape) == (fitted.columns, fitted.target, fitted.shape)
    again.save("copy")  # it knows its factory now
    assert Defense.load("copy").attacks == again.attacks
    assert read_detector("guard/detector.json").columns == tuple(attacks)
    card = json.loads(pathlib.Path("guard/classifier.json").read_text())
    assert card["photographs"] is None or card["photographs"]["resize"] == 8
    assert not list(pathlib.Path().glob(".*.tmp"))


def test_save_refuses(network):
    """Protects files: an existing folder, a missing parent, nobody who makes the classifier, or something that makes another."""
    fitted, name = defense(network), network.__name__
    for folder, factory, text in (
        ("guard", None, "expected the import string module:factory of the classifier"),
        ("guard", f"{name}:Other", "which makes another one"),
        ("guard", f"{name}:nothing", "does not have"),
        ("missing/guard", f"{name}:Net", "expected an existing, writable folder"),
    ):
        with pytest.raises(BadInput, match=text):
            fitted.save(folder, factory=factory)
        assert not pathlib.Path("guard").exists()
    pathlib.Path("mine").mkdir()
    fitted.save("guard", factory=f"{name}:Net")
    with pytest.raises(BadInput, match="expected a new output, got guard, which exists"):
        fitted.save("guard", factory=f"{name}:Net")
    with pytest.raises(BadInput, match="expected a folder of the same kind to replace, got mine"):
        fitted.save("mine", factory=f"{name}:Net", force=True)
    fitted.save("guard", factory=f"{name}:Net", force=True)
    assert sorted(path.name for path in pathlib.Path().iterdir() if path.is_dir() and path.name != "__pycache__") == ["guard", "mine"]


def test_load_refuses(network):
    """Protects against damaged and foreign folders: one line for each, and nothing is imported because a folder says so."""
    defense(network).save("guard", factory=f"{network.__name__}:Net")
    pathlib.Path("evil_module.py").write_text("raise SystemExit('imported')")

    def damaged(name, change):
        shutil.copytree("guard", name)
        change(pathlib.Path(name))
        return name

    def edited(file, old, new):
        return lambda folder: (folder / file).write_text(re.sub(old, new, (folder / file).read_text()))

    for name, change, text in (
        ("none", lambda folder: shutil.rmtree(folder), "expected the folder of a defense"),
        ("no detector", lambda folder: (folder / "detector.json").unlink(), "lacks classifier.json or detector.json"),
        ("no weights", lambda folder: shutil.rmtree(folder / "weights"), "weights|checkpoint"),
        ("no json", lambda folder: (folder / "classifier.json").write_bytes(b"\xff{"), "missing or changed parts"),
        ("a list", lambda folder: (folder / "classifier.json").write_text("[1]"), "missing or changed parts"),
        ("changed", edited("detector.json", '"max_steps": 30', '"max_steps": 31'), "missing or changed parts"),
        ("evil", edited("classifier.json", network.__name__ + ":Net", "evil_module:make"), "expected evil_module to be imported"),
        ("strange", edited("classifier.json", network.__name__ + ":Net", "os:getcwd"), "classifier os:getcwd|expected"),
    ):
        with pytest.raises(BadInput, match=text) as caught:
            Defense.load(damaged(name, change))
        assert "\n" not in str(caught.value)
    assert Defense.load("guard").shape == (8, 8, 1)


def test_the_page_runs(tmp_path, monkeypatch):
    """Protects readers: the example of docs/service.md runs as printed; a block that begins with a file name is that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if file := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / file[1]).write_text(block)
        else:
            exec(compile(block, str(PAGE), "exec"), names)
    sys.modules.pop("my_networks", None)
    assert names["defense"].shape == (8, 8, 1)
