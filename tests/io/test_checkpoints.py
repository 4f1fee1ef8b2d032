"""Checkpoints of classifiers: round trips, import strings, and refusals."""

import gc
import hashlib
import json
import shutil
import sys

import jax
import numpy as np
import optax
import orbax.checkpoint as orbax
import pytest
from flax import nnx, traverse_util
from flax.training import train_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

import a2d_jax
from a2d_jax import classifiers
from a2d_jax.errors import BadInput
from a2d_jax.io import checkpoints, orbax_files
from a2d_jax.io.photographs import Preprocessing

USER_MODULE = """
import numpy as np
from flax import linen, nnx
from a2d_jax.classifiers import from_function

class Net(nnx.Module):
    input_shape = (4, 4, 1)
    preprocessing = "none"
    def __init__(self, width, rngs):
        self.layers = nnx.List([nnx.Linear(16, width, rngs=rngs), nnx.Linear(width, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x.reshape(len(x), -1)))))

class Photo(Net):
    input_shape = (4, 4, 3)
    class_names = ("ant", "bee", "cat")
    photographs = {"resize": 5, "crop": 4, "interpolation": "bilinear"}
    def __call__(self, x):
        return super().__call__(x[..., :1])

class Crooked(Photo):
    photographs = {"resize": 5, "crop": 5, "interpolation": "bilinear"}

class Nameless(Photo):
    class_names = ("ant", "bee")

class LinenNet(linen.Module):
    input_shape = (4, 4, 1)
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x.reshape(len(x), -1))

def linear(weights, x):
    return x.reshape(len(x), -1) @ weights

def net(): return Net(5, nnx.Rngs(0))
def other(): return Net(6, nnx.Rngs(0))
def photo(): return Photo(5, nnx.Rngs(0))
def crooked(): return Crooked(5, nnx.Rngs(0))
def nameless(): return Nameless(5, nnx.Rngs(0))
def linen_net(): return LinenNet()
def function(): return from_function(linear, np.ones((16, 3), np.float32))
def untraceable():
    module = net()
    assert float(module.layers[0].kernel[...].sum()) != 0  # a number, which an abstract module does not have
    return module
def broken(): raise RuntimeError("no weights here\\nsecond line")
def number(): return 3
value = 3
"""
X = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's module in the current directory, which is not on Python's path."""
    (tmp_path / "user_networks.py").write_text(USER_MODULE)
    (tmp_path / "does_not_import.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("user_networks", None)


def scrambled(factory):
    """What a factory makes, with other weights than it gives."""
    module = checkpoints.make_module(factory)
    random = np.random.default_rng(7)
    state = jax.tree.map(lambda a: a + random.random(a.shape).astype(np.float32), nnx.state(module, (nnx.Param, nnx.BatchStat)))
    nnx.update(module, state)
    return module


@pytest.mark.parametrize("factory", ["net", "untraceable"])
def test_round_trip(user, factory, capfd):
    """Weights and statistics come back bit for bit, silently, in a classifier that needs no new program."""
    module = scrambled("user_networks:net")
    source = user / "weights.pth"
    source.write_bytes(b"some bytes")
    card = checkpoints.save(module, user / "out", factory="user_networks:net", source=source)
    loaded = checkpoints.load(f"user_networks:{factory}", user / "out")
    before = classifiers.from_nnx(module)
    assert loaded.classifier.apply == before.apply
    jax.tree.map(np.testing.assert_array_equal, loaded.classifier.variables, before.variables)
    np.testing.assert_array_equal(classifiers.predict(loaded.classifier, X), classifiers.predict(before, X))
    assert loaded.input_shape == (4, 4, 1)
    assert loaded.card == json.loads(json.dumps(card))
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in user.iterdir() if path.name.startswith(".")) == []


def test_card(user):
    """The card says what the weights are and where they come from; the hash is sha256sum's."""
    source = user / "weights.pth"
    source.write_bytes(b"abc")
    checkpoints.save(scrambled("user_networks:net"), user / "out", factory="user_networks:net", source=source)
    card = json.loads((user / "out" / "classifier.json").read_text())
    assert card["source"] == {"name": "weights.pth", "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert card["factory"] == "user_networks:net"
    assert card["input_shape"] == [4, 4, 1]
    assert card["classes"] == 3
    assert card["preprocessing"] == "none"
    assert card["parameters"] == 16 * 5 + 5 + 5 * 3 + 3 + 2 * 5  # mean and variance of batch norm are not learned
    assert card["versions"]["jax"] == jax.__version__


def test_card_of_photographs_and_names(user):
    """What a module declares of photographs and class names is in the card; the card comes first when it is read."""
    declared = {"resize": 5, "crop": 4, "interpolation": "bilinear"}
    made = checkpoints.load("user_networks:photo")
    assert (made.preprocessing, made.class_names) == (Preprocessing(5, 4, "bilinear"), ("ant", "bee", "cat"))
    card = checkpoints.save(checkpoints.make_module("user_networks:photo"), user / "out", factory="user_networks:photo")
    assert card["photographs"] == declared
    assert list(card["class_names"]) == ["ant", "bee", "cat"]
    path = user / "out" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"photographs": declared | {"resize": 8}, "class_names": ["x", "y", "z"]}))
    read = checkpoints.load("user_networks:photo", user / "out")
    assert (read.preprocessing, read.class_names) == (Preprocessing(8, 4, "bilinear"), ("x", "y", "z"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"photographs": None}))
    assert checkpoints.load("user_networks:photo", user / "out").preprocessing is None
    plain = checkpoints.save(checkpoints.make_module("user_networks:net"), user / "plain", factory="user_networks:net")
    assert plain["photographs"] is plain["class_names"] is None
    named = checkpoints.save(
        checkpoints.make_module("user_networks:photo"), user / "named", factory="user_networks:photo", class_names=["p", "q", "r"]
    )
    assert list(named["class_names"]) == ["p", "q", "r"]


def test_parameters_of_resnet20():
    """ResNet-20 has the 269,722 parameters that its checkpoints' author counts; statistics of batch norm are not among them."""
    module = checkpoints.make_module("models.resnet:cifar_resnet20", weights=False)
    assert checkpoints._parameter_count(module, {}) == 269_722


def test_refused_declarations(user):
    """A crop of another size and names of another number of classes are refused when saved and when read."""
    for factory, word in (("crooked", "crop 5"), ("nameless", "names of 3 classes, got 2")):
        with pytest.raises(BadInput, match=word):
            checkpoints.save(checkpoints.make_module(f"user_networks:{factory}"), user / "out", factory=f"user_networks:{factory}")
    with pytest.raises(BadInput, match="crop 5"):
        checkpoints.load("user_networks:crooked")
    for names in (["a", "a", "b"], "abc", [1, 2, 3]):
        with pytest.raises(BadInput, match="different texts"):
            checkpoints.save(checkpoints.make_module("user_networks:net"), user / "out", factory="user_networks:net", class_names=names)
    assert not (user / "out").exists()


def test_files_of_class_names(tmp_path):
    """One name a line, in order; an empty line, binary data and a missing file are refused."""
    path = tmp_path / "names.txt"
    path.write_text("tench \ngreat white shark\n", encoding="utf-8")
    assert checkpoints.read_class_names(path) == ["tench", "great white shark"]
    for content, word in ((b"a\n\nb\n", "empty line 2"), (b"\xff\xfe", "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=word):
            checkpoints.read_class_names(path)
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoints.read_class_names(tmp_path / "none.txt")


def test_linen_and_ready_classifiers(user):
    """A Linen module and a ready classifier are stored and read like an NNX module; without a checkpoint they come as made."""
    for factory in ("linen_net", "function"):
        made = checkpoints.load(f"user_networks:{factory}")
        assert made.card == {}
        changed = jax.tree.map(lambda a: a + np.float32(0.5), made.classifier.variables)
        stored = classifiers.Classifier(changed, made.classifier.apply)
        checkpoints.save(stored, user / factory, factory=f"user_networks:{factory}")
        read = checkpoints.load(f"user_networks:{factory}", user / factory).classifier
        np.testing.assert_array_equal(classifiers.predict(read, X), classifiers.predict(stored, X))
        assert not np.allclose(classifiers.predict(read, X), classifiers.predict(made.classifier, X))


def test_bare_orbax_checkpoint(user):
    """A checkpoint that a user's own training saved with Orbax loads without a card."""
    module = scrambled("user_networks:net")
    ocp.save(str(user / "mine"), nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat))))
    loaded = checkpoints.load("user_networks:net", user / "mine")
    assert loaded.card == {}
    np.testing.assert_array_equal(classifiers.predict(loaded.classifier, X), classifiers.predict(classifiers.from_nnx(module), X))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("user_networks", "expected an import string module:name, got 'user_networks'"),
        (":net", "expected an import string module:name"),
        ("no_such_module:net", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("does_not_import:net", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("user_networks:nothing", "got the name 'nothing', which it does not have"),
        ("user_networks:value", "expected a callable factory, got user_networks:value, a int"),
        ("user_networks:broken", "RuntimeError: no weights here"),
        ("user_networks:Net", r"TypeError: .*missing 2 required positional arguments"),
        ("user_networks:number", "expected a Flax NNX module, a Flax Linen module or a Classifier, got int"),
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_bad_import_strings(user, factory, message, checkpoint):
    """Every wrong import string is refused in one line that names what is wrong with it, with or without a checkpoint."""
    directory = None
    if checkpoint:
        directory = user / "out"
        checkpoints.save(checkpoints.make_module("user_networks:net"), directory, factory="user_networks:net")
    with pytest.raises(BadInput, match=message) as caught:
        checkpoints.load(factory, directory)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit(user):
    """Every array that does not fit is named with both shapes, in one line."""
    checkpoints.save(checkpoints.make_module("user_networks:net"), user / "out", factory="user_networks:net")
    with pytest.raises(BadInput, match=r"layers.0.kernel is \(16, 5\) and should be \(16, 6\)") as caught:
        checkpoints.load("user_networks:other", user / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"params.Dense_0.kernel \(16, 3\) is missing.*norm.scale \(5,\) is unexpected"):
        checkpoints.load("user_networks:linen_net", user / "out")


def test_bad_folders(user):
    """A folder without a checkpoint, a damaged one and a damaged card give one line each."""
    checkpoints.save(checkpoints.make_module("user_networks:net"), user / "out", factory="user_networks:net")
    (user / "empty").mkdir()
    for name in ("empty", "none"):
        with pytest.raises(BadInput, match=r"expected an Orbax checkpoint, .* which does not load.*a2d convert"):
            checkpoints.load("user_networks:net", user / name)
    shutil.copytree(user / "out", user / "damaged")
    largest = max((user / "damaged" / "weights").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1  # a single bit
    largest.write_bytes(content)
    with pytest.raises(BadInput, match=r"expected the weights that .* describes, got damaged"):
        checkpoints.load("user_networks:net", user / "damaged")
    (user / "out" / "classifier.json").write_text("{")
    with pytest.raises(BadInput, match="expected JSON in"):
        checkpoints.load("user_networks:net", user / "out")


def test_existing_output(user, monkeypatch):
    """An output is replaced only when forced, only if it is a checkpoint, and a failed write leaves the old one whole."""
    first, second = checkpoints.make_module("user_networks:net"), scrambled("user_networks:net")
    checkpoints.save(first, user / "out", factory="user_networks:net")
    with pytest.raises(BadInput, match="which exists; choose another name or pass force=True"):
        checkpoints.save(second, user / "out", factory="user_networks:net")
    (user / "photographs").mkdir()
    with pytest.raises(BadInput, match="expected a folder of the same kind to replace"):
        checkpoints.save(second, user / "photographs", factory="user_networks:net", force=True)
    with pytest.raises(BadInput, match="expected an existing, writable folder"):
        checkpoints.save(second, user / "none" / "out", factory="user_networks:net")

    def full_disk(*_):
        raise OSError("no space left")

    def kernel():
        return np.asarray(checkpoints.load("user_networks:net", user / "out").classifier.variables["layers"][0]["kernel"][...])

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp, "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            checkpoints.save(second, user / "out", factory="user_networks:net", force=True)
    np.testing.assert_array_equal(kernel(), first.layers[0].kernel[...])
    checkpoints.save(second, user / "out", factory="user_networks:net", force=True)
    np.testing.assert_array_equal(kernel(), second.layers[0].kernel[...])
    assert sorted(path.name for path in user.iterdir() if path.name.startswith(".")) == []


def test_abstract_modules_draw_no_weights(user):
    """Where a checkpoint replaces the weights, the factory only gives shapes."""
    module = checkpoints.make_module("user_networks:net", weights=False)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_only_the_arrays_count(user):
    """Files that systems leave in a folder change nothing, exchanged arrays are found, and no file holds this machine's path."""
    card = checkpoints.save(scrambled("user_networks:net"), user / "out", factory="user_networks:net")
    for place in ("", "weights", "weights/state", "weights/state/d"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._x", "sync.tmp"):
            (user / "out" / place / name).write_bytes(b"\0\0\0\1Bud1")
    before = checkpoints.load("user_networks:net", user / "out")
    assert before.card["arrays_sha256"] == card["arrays_sha256"]
    assert "weights_sha256" not in card
    for file in (user / "out").rglob("*"):
        assert file.is_dir() or str(user).encode() not in file.read_bytes(), file
    other = checkpoints.save(checkpoints.make_module("user_networks:net"), user / "other", factory="user_networks:net")
    assert other["arrays_sha256"] != card["arrays_sha256"]
    shutil.rmtree(user / "out" / "weights")
    shutil.copytree(user / "other" / "weights", user / "out" / "weights")
    with pytest.raises(BadInput, match="got damaged or exchanged ones"):
        checkpoints.load("user_networks:net", user / "out")


def test_cards_of_the_version_before(user):
    """A card with a digest of the files that Orbax wrote is read, stray files included, and finds damage."""
    module = scrambled("user_networks:net")
    weights = checkpoints._named(classifiers.from_nnx(module).variables)
    ocp.save(str(user / "out" / "weights"), traverse_util.unflatten_dict(weights))
    whole = hashlib.sha256()  # as it was computed then
    for file in sorted((user / "out" / "weights").rglob("*")):
        if file.is_file():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{file.relative_to(user / 'out' / 'weights')} {digest}\n".encode())
    (user / "out" / "classifier.json").write_text(json.dumps({"factory": "user_networks:net", "weights_sha256": whole.hexdigest()}))
    (user / "out" / "weights" / ".DS_Store").write_bytes(b"Bud1")
    (user / "out" / "weights" / "state" / "d" / "Thumbs.db").write_bytes(b"x")
    read = checkpoints.load("user_networks:net", user / "out").classifier
    jax.tree.map(np.testing.assert_array_equal, read.variables, classifiers.from_nnx(module).variables)
    with next((user / "out" / "weights" / "state" / "d").glob("[0-9a-f]" * 32)).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInput, match="got damaged or exchanged ones"):
        checkpoints.load("user_networks:net", user / "out")


def arrays():
    return nnx.to_pure_dict(nnx.state(scrambled("user_networks:net"), (nnx.Param, nnx.BatchStat)))


def trained(user):
    """Orbax folders of one network as Flax's guides save them, and the note that each gives."""
    module = scrambled("user_networks:net")
    optimizer = nnx.to_pure_dict(nnx.state(nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)))
    with orbax.StandardCheckpointer() as saver:
        saver.save(user / "state", nnx.state(module, (nnx.Param, nnx.BatchStat)))
        saver.save(user / "training", {"model": arrays(), "optimizer": optimizer, "step": 7, "rng": jax.random.PRNGKey(0)})
        saver.save(user / "with_randomness", nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat, nnx.RngCount))))
    with orbax.PyTreeCheckpointer() as saver:
        saver.save(user / "pytree", {"state": {"params": arrays()}, "config": {"name": "x", "layers": [1, 2]}})
    for folder, prefix in (("manager", None), ("prefixed", "ckpt")):
        options = orbax.CheckpointManagerOptions(step_prefix=prefix, max_to_keep=3)
        with orbax.CheckpointManager(user / folder, options=options) as manager:
            for step in (9, 10, 2):
                content = arrays() if step == 10 else jax.tree.map(np.zeros_like, arrays())
                manager.save(step, args=orbax.args.StandardSave(content), force=True)
            manager.wait_until_finished()
    with orbax.CheckpointManager(user / "items") as manager:
        items = orbax.args.Composite(
            weights=orbax.args.StandardSave(arrays()), opt_state=orbax.args.StandardSave(optimizer), notes=orbax.args.JsonSave({"a": 1})
        )
        manager.save(5, args=items)
        manager.wait_until_finished()
    return {
        "state": [],
        "training": ["took model of"],
        "with_randomness": [],
        "pytree": ["took state.params of"],
        "manager": ["took step 10, the newest of"],
        "prefixed": ["took step ckpt_10, the newest of"],
        "items": ["took step 5", "took weights of"],
    }


def test_orbax_folders_of_training(user):
    """NNX states, training states, managers and items give the weights, with a line on what was taken."""
    expected = classifiers.from_nnx(scrambled("user_networks:net")).variables
    for folder, notes in trained(user).items():
        loaded = checkpoints.load("user_networks:net", user / folder)
        jax.tree.map(np.testing.assert_array_equal, loaded.classifier.variables, expected)
        assert len(loaded.notes) == len(notes), (folder, loaded.notes)
        assert all(note.startswith(start) for note, start in zip(loaded.notes, notes, strict=True)), loaded.notes


def test_linen_training_states(user):
    """Variables, parameters alone and a train state of Linen are read; of two sets that fit one must be named."""
    made = checkpoints.load("user_networks:linen_net").classifier
    params = jax.tree.map(lambda a: np.asarray(a) + 1, made.variables["params"])
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))
    contents = {
        "variables": {"params": params},
        "params": params,
        "state": state,
        "ema": {"params": made.variables["params"], "ema": params},
    }
    with orbax.StandardCheckpointer() as saver:
        for name, content in contents.items():
            saver.save(user / name, content)
    for name in ("variables", "params", "state"):
        read = checkpoints.load("user_networks:linen_net", user / name).classifier
        jax.tree.map(np.testing.assert_array_equal, read.variables["params"], params)
    with pytest.raises(BadInput, match=r"got 2 that fit: ema, params; choose one with `a2d convert ... --key NAME`"):
        checkpoints.load("user_networks:linen_net", user / "ema")
    read = checkpoints.load("user_networks:linen_net", user / "ema", key="ema").classifier
    jax.tree.map(np.testing.assert_array_equal, read.variables["params"], params)
    with pytest.raises(BadInput, match="got the key 'none'; it has ema, params"):
        checkpoints.load("user_networks:linen_net", user / "ema", key="none")


def test_untrained_weights_are_said(user):
    """Without a checkpoint, weights as an initialiser draws them are told; trained and constant ones are not."""
    for factory in ("net", "linen_net"):
        (note,) = checkpoints.load(f"user_networks:{factory}").notes
        assert "look untrained" in note
    assert checkpoints.load("user_networks:function").notes == []
    checkpoints.save(scrambled("user_networks:net"), user / "out", factory="user_networks:net")
    assert checkpoints.load("user_networks:net", user / "out").notes == []
    assert checkpoints.load(lambda: scrambled("user_networks:net")).notes == []
    random = np.random.default_rng(0)
    bare = nnx.Linear(40, 30, use_bias=False, rngs=nnx.Rngs(0))
    assert checkpoints.load(lambda: bare).notes
    bare.kernel.set_value(np.asarray(random.normal(size=(40, 30)), np.float32))
    assert checkpoints.load(bare).notes == []


def test_load_classifier(user):
    """In Python a network comes by import string, as a function or as it is, with the weights of a folder; notes are warnings."""
    module = scrambled("user_networks:net")
    checkpoints.save(module, user / "out", factory="user_networks:net")
    make = checkpoints.import_factory("user_networks:net")
    for network in ("user_networks:net", make, make()):
        classifier = a2d_jax.load_classifier(network, str(user / "out"))
        np.testing.assert_array_equal(classifiers.predict(classifier, X), classifiers.predict(classifiers.from_nnx(module), X))
    with pytest.warns(UserWarning, match="look untrained"):
        a2d_jax.load_classifier(make)
    with pytest.raises(BadInput, match="expected a Flax NNX module, a Flax Linen module or a Classifier, got int"):
        a2d_jax.load_classifier(3)


def test_errors_of_the_module_are_its_own(user):
    """A network whose code raises for its own input shape is refused with its own message."""

    class Broken(nnx.Module):
        input_shape = (4, 4, 1)

        def __call__(self, x):
            raise KeyError("no such layer")

    with pytest.raises(
        BadInput, match=r"expected Broken to give logits for images \(4, 4, 1\).*KeyError: 'no such layer', raised by its own code"
    ):
        checkpoints.load(Broken)


def test_nothing_unfinished_is_left(user, monkeypatch):
    """Protects the terminal: a coroutine that Orbax never awaits, because a file is damaged, dies without a word."""

    async def metadata():
        return {}

    class Breaks:
        def metadata(self, folder):
            left = metadata()
            raise ValueError(f"damaged {folder.name}") from (left and None)

    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    checkpoints.save(scrambled("user_networks:net"), user / "out", factory="user_networks:net")
    monkeypatch.setattr(orbax_files, "_handler", Breaks)
    with pytest.raises(BadInput, match="damaged"):
        checkpoints.load("user_networks:net", user / "out")
    gc.collect()
    assert not said


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_gives_weights_or_one_line(user, capfd, data):
    """Any byte of any file of a checkpoint may be damaged: the weights are whole, or it is a `BadInput`; the terminal stays clean."""
    if not (user / "out").exists():
        checkpoints.save(scrambled("user_networks:net"), user / "out", factory="user_networks:net")
    expected = classifiers.from_nnx(scrambled("user_networks:net")).variables
    files = sorted(file for file in (user / "out").rglob("*") if file.is_file() and file.stat().st_size)
    places = st.integers(0, 2**20)  # names and sizes of files differ from run to run
    file = files[data.draw(places) % len(files)]
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[data.draw(places) % len(content)] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(damaged[: len(content) // data.draw(st.sampled_from([1, 2]))]))
    capfd.readouterr()
    try:
        read = checkpoints.load("user_networks:net", user / "out").classifier
    except BadInput:
        read = None
    finally:
        file.write_bytes(content)
    if read is not None and file.name != "classifier.json":  # without its card a checkpoint is as a user's own training saved it
        jax.tree.map(np.testing.assert_array_equal, read.variables, expected)
    assert "Traceback" not in capfd.readouterr().err
