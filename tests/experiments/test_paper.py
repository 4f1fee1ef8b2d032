"""The paper's tables and figures: the protocol they share, and all of them at their smallest size."""

import ast
import html
import io
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from a2d_jax import costs, drivers
from a2d_jax.attacks import CWMargin, DeepFool, jsma_single
from a2d_jax.classifiers import from_nnx
from a2d_jax.errors import BadInput
from a2d_jax.io import checkpoints
from a2d_jax.metrics import auroc
from experiments import archives, substitute
from experiments.pages.blocks import Number, Table
from experiments.paper import crafting
from experiments.paper.__main__ import Settings, main, opened
from experiments.paper.beside import shape
from experiments.paper.crafting import Crafted, craft
from experiments.paper.ensembles import neighbours
from experiments.paper.figure3 import SETS
from experiments.paper.items import NAMES, item
from experiments.paper.networks import DIGITS, NETWORKS, ROLES, Network, Places, Subject, find
from experiments.paper.numbers import area, mean, share
from experiments.paper.published import number, published
from experiments.paper.sets import BENIGN, Pictures
from experiments.paper.settings import Crafting, craftings
from experiments.paper.sizes import OTHERS, SIZES
from experiments.paper.study import Study
from experiments.paper.table3 import threshold_for
from experiments.paper.table7 import at_ratio
from experiments.work import Work
from models.lenet import lenet_digits

OWN = Subject("env1-mnist", "lenet-env1", None, False)
FOLDER = Path(str(files("experiments.paper")))


def quiet():
    return Console(quiet=True)


def numbers(made):
    """All numbers of all tables, by item, table, row and column."""
    return {
        (one.name, block.title, tuple(row.heads), column): (cell.ours, tuple(cell.n))
        for one in made
        for block in one.blocks
        if isinstance(block, Table)
        for row in block.rows
        for column, cell in zip(block.columns, row.cells, strict=True)
        if isinstance(cell, Number)
    }


@contextmanager
def as_users_run_it():
    """JAX as it is outside of tests: training mixes types."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All items at the smallest size, and their folder."""
    out = tmp_path_factory.mktemp("paper")
    with as_users_run_it():
        return main(Settings(size="tiny", out=out), quiet()), out / "tiny"


@pytest.mark.slow
@pytest.mark.xdist_group("paper")
def test_every_item(made):
    """Protects the whole: every table and figure is made on a machine without data, with numbers that can be."""
    items, folder = made
    assert [one.name for one in items] == list(NAMES)
    for one in items:
        assert one.blocks, one.name
        assert not one.missing or one.name == "figure7", one.name  # MagNet's weights are not for digits
    page = html.unescape((folder / "index.html").read_text(encoding="utf-8"))
    assert all(one.title in page for one in items)
    found = numbers(items)
    areas = [
        value for (name, title, *_), (value, _) in found.items() if name == "table2" and title.startswith("AUROC") and value is not None
    ]
    assert len(areas) > 50
    assert 0.8 < np.median(areas) <= 1.0
    assert all(np.isfinite(value) for value, _ in found.values() if value is not None)
    assert all(n for value, n in found.values() if value is not None)


@pytest.mark.slow
@pytest.mark.xdist_group("paper")
def test_made_once(made):
    """Protects hours of work: the same command makes nothing again and says the same."""
    items, folder = made
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix in (".npz", ".parquet")}
    with as_users_run_it():
        again = main(Settings(size="tiny", out=folder.parent), quiet())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert numbers(again) == numbers(items)


@pytest.mark.slow
@pytest.mark.xdist_group("paper")
def test_killed_in_the_middle(made, tmp_path, monkeypatch):
    """Protects a run that is interrupted: the same command goes on and the numbers are those of a run left alone."""
    once, calls = Work.once, []

    def some(self, name, *args, **settings):
        if len(calls) == 9:
            raise KeyboardInterrupt
        calls.append(name)
        return once(self, name, *args, **settings)

    monkeypatch.setattr(Work, "once", some)
    with as_users_run_it():
        with pytest.raises(KeyboardInterrupt):
            main(Settings(("table7",), size="tiny", out=tmp_path), quiet())
        monkeypatch.setattr(Work, "once", once)
        ended = main(Settings(("table7",), size="tiny", out=tmp_path), quiet())
    assert numbers(ended) == {key: value for key, value in numbers(made[0]).items() if key[0] == "table7"}


def test_refused():
    """Protects from hours on a wrong word: unknown items and sizes are named before the work begins."""
    with pytest.raises(BadInput, match="got table99"):
        main(Settings(("table2", "table99")), quiet())
    with pytest.raises(BadInput, match="tiny, small, cpu, full, got 'huge'"):
        main(Settings(size="huge"), quiet())


def test_another_size_or_seed(tmp_path):
    """Protects numbers that belong together: a folder that was begun with another seed is refused."""
    main(Settings(("table5",), size="tiny", out=tmp_path), quiet())
    with pytest.raises(BadInput, match="whose seed is 0, got 1"):
        main(Settings(("table5",), size="tiny", out=tmp_path, seed=1), quiet())


def test_networks_that_are_missing(tmp_path, monkeypatch):
    """Protects a user without all weights: they are named with their source, trained, or replaced, before the work begins."""
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    subjects, missing = find(list(ROLES), Places(None, None), False)
    assert {one.network for one in subjects.values()} == {DIGITS}
    assert not missing
    monkeypatch.setattr("experiments.paper.networks._data_here", lambda facts, places: True)
    subjects, missing = find(list(ROLES), Places(tmp_path, None), False)
    assert subjects["env1-mnist"].source is None
    assert not subjects["env1-mnist"].stands_in
    assert "lenet5_mnist.pkl" in missing["env2-mnist"]
    assert "on GitHub" in missing["env2-mnist"]


def test_half_a_data_set_is_told_first(tmp_path, monkeypatch):
    """Protects from hours: data that are damaged or incomplete are told before the work begins, and digits do not stand in for them."""
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    kinds = {"images-idx3": np.zeros((2, 28, 28), np.uint8), "labels-idx1": np.zeros(2, np.uint8)}
    for kind, array in kinds.items():
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / "mnist" / f"t10k-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    with pytest.raises(BadInput, match="got no train-labels-idx1-ubyte"):
        find(["env1-mnist"], Places(None, None), False)
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="t10k-images-idx3-ubyte, which starts with"):
        find(["env1-mnist"], Places(None, None), False)
    subjects, _ = find(["env1-cifar10"], Places(None, None), False)
    assert subjects["env1-cifar10"].stands_in


def test_settings_are_the_papers():
    """Protects Tables 5 and 6: every set of the paper is crafted, with the numbers that the paper prints."""
    sections = {("Env1", "MNIST"): "env1-mnist", ("Env1", "CIFAR10"): "env1-cifar10", ("Env2", "MNIST"): "env2-mnist"}
    sections |= {("Env2", "CIFAR10"): "env2-cifar10", ("Env2", "ImageNet"): "env2-imagenet"}
    ours = craftings()
    for row in [*published("table5"), *published("table6")]:
        how = ours[sections[row["env"], row["dataset"]]][row["attack"]]
        assert digits_of(how.published) == digits_of(row["parameters"]), row
    assert {one: set(sets) for one, sets in ours.items() if not one.endswith(DIGITS)}.keys() == set(sections.values())


def digits_of(text):
    return re.findall(r"\d+(?:\.\d+)?", text.replace("L2", ""))


def test_every_role_has_sets_and_sizes():
    """Protects each size: a network has sets in the settings file, and a number for every question."""
    ours = craftings()
    for role, one in ROLES.items():
        assert f"{one.environment}-{DIGITS}" in ours
        assert role in ours or role.partition("-")[0] in ("magnet", "standard", "adversarial")
    for size in SIZES.values():
        for field in (size.images, size.slow, size.slowest, size.mutants, size.training, size.pairs):
            assert OTHERS in field


def test_until_enough(monkeypatch, tmp_path):
    """Protects sets of successes: images are tried until there are enough, and each says which image it was made from."""
    x = np.linspace(0, 1, 400, dtype=np.float32).reshape(400, 1, 1, 1)
    np.savez(tmp_path / "pool.npz", x=x, y=np.zeros(400, int))
    study = SimpleNamespace(pool=lambda *_: tmp_path / "pool.npz")

    def attack(study, subject, how, x, label, name):
        good = np.arange(len(x)) % 4 == 0
        kept = good if how.successes else np.ones(len(x), bool)
        return Crafted(x[kept], label[kept], good[kept], np.flatnonzero(kept), len(x))

    monkeypatch.setattr(crafting, "_attack", attack)
    made = craft(study, OWN, Crafting("fgsm", successes=True), 50, "test", "fgsm")
    assert len(made.x) == 50
    assert made.success.all()
    assert (made.x == x[made.index]).all()
    assert len(set(made.index)) == 50
    assert 180 < made.tried <= 400
    all_of_them = craft(study, OWN, Crafting("fgsm"), 50, "test", "fgsm")
    assert (len(all_of_them.x), all_of_them.tried, all_of_them.success.sum()) == (50, 50, 13)
    few = craft(study, OWN, Crafting("fgsm", successes=True), 300, "test", "fgsm")
    assert (len(few.x), few.tried) == (100, 400)  # the pool has no more: 75 of 300, then 25 of the last 100


def test_threshold():
    """Protects Table 3: the threshold is the largest that leaves the share of benign images right."""
    costs = np.array([5.0, 1, 4, 2, 3, 3, 8, 9, 10, 7])
    assert threshold_for(costs, 0.9) == 2
    assert threshold_for(costs, 0.8) == 3
    assert threshold_for(costs, 0.7) == 3
    assert threshold_for(costs, 1.0) == 1
    assert np.mean(costs >= threshold_for(costs, 0.897)) >= 0.897


def test_what_a_size_leaves_out_is_named():
    """Protects Table 3: an attack that a size leaves out has its row, with the published numbers and the reason."""
    subject, numbers = Subject("env2-imagenet", "lite0", None, False), np.array([1.0, 2, 3])
    names = ("iterations", "forward_queries", "backward_queries")
    measured = SimpleNamespace(cost=numbers, numbers=dict.fromkeys(names, numbers))
    study = SimpleNamespace(
        here=lambda roles: [(subject, roles["env2-imagenet"])], sets=lambda _: ["FGSM"], costs=lambda *_, **bound: measured
    )
    table, _ = item("table3").make(SimpleNamespace(**vars(study), leaves_out=lambda _, attack: attack == "dba"))
    (row,) = [row for row in table.rows if row.heads[1] == "DBA_d"]
    assert [cell.published for cell in row.cells] == [143, 93.9, 451, 219, 88.0]
    assert {(cell.ours, cell.reason) for cell in row.cells} == {(None, "DBA_d is left out at this size")}
    (row,) = [row for row in table.rows if row.heads[1] == "JSMA_d"]
    assert [cell.published for cell in row.cells] == [6, 95.4, 67, 11, 88.6]


def test_neighbours():
    """Protects K-NN on small sets: K is the paper's share of the rows, odd, and at least 1."""
    assert [neighbours(2000), neighbours(4000), neighbours(1000), neighbours(80), neighbours(2)] == [100, 100, 51, 5, 1]
    assert neighbours(2000, 5) == 5


@pytest.mark.parametrize(("ratio", "rows"), [(0.5, (100, 50)), (1.0, (100, 100)), (2.0, (50, 100)), (0.8, (100, 80))])
def test_ratio(ratio, rows):
    """Protects Table 7: the ratio of crafted to benign rows is met with the rows that there are."""
    benign, adversarial = at_ratio(np.arange(100)[:, None], np.arange(100)[:, None], ratio)
    assert (len(benign), len(adversarial)) == rows


def test_numbers():
    """Protects the cells: AUROC of low costs as adversarial, its band, and the reason only where it lies outside."""
    benign, crafted = np.array([5.0, 6, 7, 8]), np.array([1.0, 2, 5, 9])
    found = area(OWN, benign, crafted, 0.9, reason="few images")
    assert found.ours == pytest.approx(1 - (0.5 + 4) / 16)
    assert found.ours == auroc(-benign, -crafted)
    assert found.band == pytest.approx((0.87, 0.93))
    assert found.n == (4, 4)
    assert (found.inside, found.reason) == (False, "few images")
    assert area(OWN, benign, crafted, 0.72, reason="few images").reason == ""
    stand_in = area(Subject("env1-mnist", DIGITS, None, True), benign, crafted, 0.9)
    assert (stand_in.band, stand_in.inside) == (None, None)
    assert share(OWN, np.array([True, False, True, True]), scale=100).ours == 75
    assert mean(OWN, np.array([1.0, 3.0])).ours == 2
    assert Number(None, 0.5).inside is None
    assert number("") is None


def test_no_table_imports_another():
    """Protects the layout: a table knows the protocol alone, and the protocol knows no table."""
    for path in FOLDER.glob("*.py"):
        names = {
            (node.module or "").removeprefix("experiments.paper.")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert not names & set(NAMES), path.name


def test_items_have_roles():
    """Protects the first lines of a run: each item names networks that exist."""
    for name in NAMES:
        assert set(item(name).roles) <= set(ROLES)
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 130


def test_unbounded_is_the_same_attack(monkeypatch):
    """Protects the second environment: an attack without bounds makes the steps of the bounded one where no bound is met."""
    classifier = from_nnx(lenet_digits())
    x = np.random.default_rng(0).uniform(0.4, 0.6, (6, 8, 8, 1)).astype(np.float32)
    label = costs.predictions(classifier, x)[0]
    wide, pixels = substitute.widened(classifier, crafting.WIDE), lambda x: x * (1 + 2 * crafting.WIDE) - crafting.WIDE
    other = crafting.others(classifier, x, label, 0)
    assert (other != label).all()
    for attack, goal in ((jsma_single(0.01, 5), other), (CWMargin(0.5, 0.3, max_steps=5), label), (DeepFool(max_steps=3), label)):
        targeted = goal is other
        inside = replace(attack, targeted=True) if targeted else attack
        bounded = drivers.attack(inside, classifier, costs.examples(classifier, x, goal))
        moved = crafting.in_wide(attack, targeted)
        free = drivers.attack(moved, wide, costs.examples(classifier, (x + crafting.WIDE) / (1 + 2 * crafting.WIDE), goal))
        assert bounded.x_adv.min() > 0.02
        assert bounded.x_adv.max() < 0.98
        np.testing.assert_allclose(pixels(free.x_adv), bounded.x_adv, atol=2e-3 if isinstance(attack, DeepFool) else 2e-5)
        assert np.median(np.abs(bounded.x_adv - x).max(axis=(1, 2, 3))) > 1e-3


def test_missing_files_are_told_first(tmp_path, monkeypatch):
    """Protects from hours without MagNet: that its weights are missing is told before the work begins."""
    console = Console(file=io.StringIO(), width=200)
    settings = Settings(("figure7",), size="small", out=tmp_path, checkpoints=tmp_path)
    found = {"magnet-mnist": Subject("magnet-mnist", "carlini", tmp_path, False)}
    monkeypatch.setattr("experiments.paper.__main__.find", lambda *_: (found, {"adversarial-cifar10": "not here"}))
    opened(settings, ["figure7"], console)
    assert "figure7: MagNet's autoencoders: MNIST_I.h5, MNIST_II.h5 not in the folder of checkpoints" in console.file.getvalue()


def test_sets_are_part_of_the_folder(tmp_path, monkeypatch):
    """Protects numbers that belong together: a folder that was begun with other sets is refused."""
    main(Settings(("table5",), size="tiny", out=tmp_path), quiet())
    changed = {**craftings(), "env1-mnist": {"FGSM": Crafting("fgsm:epsilon=0.2", "epsilon 0.3")}}
    monkeypatch.setattr("experiments.paper.__main__.craftings", lambda: changed)
    with pytest.raises(BadInput, match=r"sets.env1-mnist.FGSM.attack is \"fgsm:epsilon=0.3\", got \"fgsm:epsilon=0.2\""):
        main(Settings(("table5",), size="tiny", out=tmp_path), quiet())


@pytest.mark.parametrize("folder", ["checkpoints", "photographs", "authors"])
def test_folders_that_are_not_there(tmp_path, folder):
    """Protects from hours on a mistyped path: a folder that is not there is told before the work begins, and nothing is made."""
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BadInput, match=f"a folder for --{folder}, got '{wrong}'"):
            main(Settings(("table5",), size="tiny", out=tmp_path / "out", **{folder: wrong}), quiet())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("settings", "said"), [({"seed": -1}, "--seed of at least 0, got -1"), ({"lanes": 0}, "2 --lanes, got 0")])
def test_numbers_that_cannot_be(tmp_path, settings, said):
    """Protects from a traceback after minutes: a seed or lanes that no step takes are told before the work begins."""
    with pytest.raises(BadInput, match=said):
        main(Settings(("table5",), size="tiny", out=tmp_path / "out", **settings), quiet())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Makes Table 5 with a network of digits, whose weights are in a folder of checkpoints, in the role of the first network."""
    network = Network("models.lenet:lenet_digits", "own", "digits", "mnist", origin="nowhere")
    monkeypatch.setitem(NETWORKS, "lenet-env1", network)
    monkeypatch.setitem(NETWORKS, "convnet-env1", network._replace(data="cifar10"))
    monkeypatch.setenv("A2D_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for seed, folder in enumerate(("given", "other")):
        (tmp_path / folder).mkdir()
        checkpoints.save(lenet_digits(nnx.Rngs(seed)), tmp_path / folder / "own", factory=network.factory)

    def make(given, name="table5"):
        return main(Settings((name,), size="small", out=tmp_path / "out", checkpoints=given and tmp_path / given), quiet())

    return make


def test_a_folder_keeps_to_its_weights(begun):
    """Protects numbers that belong together: a folder that was begun with weights is not gone on with without them, or with others."""
    begun("given")
    begun("given")
    with pytest.raises(BadInput, match=r"weights and data of lenet-env1, with which .* began, got none"):
        begun(None)
    with pytest.raises(BadInput, match=r"expected the weights of lenet-env1 with which .* began, got something else"):
        begun("other")


def test_a_folder_keeps_to_the_file_that_it_converted(begun, tmp_path, monkeypatch):
    """Protects numbers that belong together: other weights under the name of a file that is converted are not passed over."""
    (tmp_path / "given" / "own").rename(tmp_path / "converted")
    shutil.rmtree(tmp_path / "other" / "own")
    for folder in ("given", "other"):
        (tmp_path / folder / "own").write_text(folder)
    monkeypatch.setattr(Work, "once", lambda *_, **settings: tmp_path / "converted")
    begun("given")
    with pytest.raises(BadInput, match=r"expected the own with which .* began, got something else"):
        begun("other")


def test_a_damaged_checkpoint_is_told_first(begun, tmp_path):
    """Protects from hours on a damaged file: it is found before the work begins."""
    for path in (tmp_path / "given" / "own").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(BadInput, match="own"):
        begun("given")


def test_a_folder_keeps_to_its_images(begun, monkeypatch):
    """Protects numbers that belong together: a folder that was begun with other images, such as other photographs, is refused."""
    begun("given")
    everything = Study.everything
    monkeypatch.setattr(Study, "everything", lambda *given: tuple(column[1:] for column in everything(*given)))
    with pytest.raises(BadInput, match=r"expected the images of digits with which .* began, got something else"):
        begun("given")


def test_archives(tmp_path):
    """Protects from a traceback: an archive that a disk or a user has damaged is named, with what to do."""
    path = tmp_path / "scores.npz"
    archives.write(path, score=np.arange(3.0))
    assert archives.read(path)["score"].tolist() == [0, 1, 2]
    whole = path.read_bytes()
    for damaged in (whole[:40], whole[:-40], b"", b"words"):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"scores.npz, which is damaged or missing; put it back, or pass --restart"):
            archives.read(path)
    path.unlink()
    with pytest.raises(BadInput, match="damaged or missing"):
        archives.read(path)


def test_originals_that_are_not_known():
    """Protects baselines that learn from pairs: a set that does not say what it was made from is refused."""
    made = Pictures(np.zeros((2, 1, 1, 1)), np.zeros(2, int), np.array([0, -1]))
    study = SimpleNamespace(pictures=lambda *_: made)
    with pytest.raises(BadInput, match="which images it was made from, got 'BB'"):
        Study.pairs(study, OWN, "BB")


def test_the_substitutes_originals_are_not_known(tmp_path, monkeypatch):
    """Protects pairs: the places that a substitute's images have in the whole data set are not taken for places in the pool."""
    kept = {"x": np.zeros((2, 1, 1, 1)), "y": np.zeros(2, int), "success": np.ones(2, bool), "index": np.array([3, 60_000])}
    (tmp_path / "bb.substitute").mkdir()
    np.savez(tmp_path / "bb.substitute" / substitute.RESULT, **kept)
    monkeypatch.setattr(substitute, "main", lambda *_: {"attacked": 9})
    study = SimpleNamespace(network=lambda _: {"classifier": "toy"}, size=SIZES["tiny"], folder=tmp_path)
    study = SimpleNamespace(**vars(study), seed=0, console=quiet())
    made = craft(study, OWN, Crafting("substitute"), 2, "test", "bb")
    assert (made.index == -1).all()
    assert made.tried == 9


def test_nearest_set_is_that_of_both_halves():
    """Protects Figure 3: the smallest distance of a crafted set from benign is over both halves of the benign set."""
    costs = {BENIGN: np.array([100.0, 20.0]), **{name: np.array([10.0, 10.0]) for name in SETS}}
    study = SimpleNamespace(subjects={"env1-mnist": OWN}, seed=0, costs=lambda subject, name, attack: SimpleNamespace(cost=costs[name]))
    (_, table) = item("figure3").make(study)
    assert table.rows[1].cells[0].ours == pytest.approx(10 / 90)


def test_shape():
    """Protects the statements about Table 2: each says what our numbers are, and yes only if they are as the paper's."""
    columns = ("JSMA_d", "BIM_d", "BIM2_d", "DBA_d")
    study = SimpleNamespace(subjects={"env1-cifar10": Subject("env1-cifar10", "convnet-env1", None, False)})
    bim = {"FGSM": 0.7, "BIM": 0.86, "JSMA": 0.95, "C&W": 0.99}
    cells = {("env1-cifar10", name): [Number(0.9), Number(one), Number(0.9), Number(0.6)] for name, one in bim.items()}
    (table,) = shape(study, cells, columns)
    assert [row.cells for row in table.rows] == [
        ("0.700, 0.860, 0.950, 0.990", "yes"),
        ("JSMA_d 0.900, BIM_d 0.875, BIM2_d 0.900, DBA_d 0.600", "yes"),
    ]
    cells["env1-cifar10", "FGSM"][1] = Number(0.84)
    cells["env1-cifar10", "BIM"][3] = Number(None)
    cells["env1-cifar10", "JSMA"][3] = cells["env1-cifar10", "C&W"][3] = cells["env1-cifar10", "FGSM"][3] = Number(0.95)
    (table,) = shape(study, cells, columns)
    assert [row.cells[1] for row in table.rows] == ["no", "no"]
    stands_in = SimpleNamespace(subjects={"env1-cifar10": Subject("env1-cifar10", DIGITS, None, True)})
    assert shape(stands_in, cells, columns) == []
