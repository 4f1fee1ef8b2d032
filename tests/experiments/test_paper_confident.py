"""Attacks with confidence, what counts as a success, the grids, CLEVER's ratios, and the authors' files."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from a2d_jax.errors import BadInput
from a2d_jax.io import checkpoints
from a2d_jax.scale.steps import open_steps
from experiments.pages.blocks import Images, Table
from experiments.paper import authors, guards, networks
from experiments.paper.__main__ import Settings, opened
from experiments.paper.confident import CLASSES, SHOWN, Attacked, Pairs, attacked, confidence, firsts, gets_through, named, order, pairs
from experiments.paper.figure7 import KAPPAS, PANELS, texts
from experiments.paper.grids import grid, laid_out
from experiments.paper.networks import Network, Places, Subject
from experiments.paper.numbers import correlation
from experiments.paper.sizes import SIZES
from experiments.paper.study import Study
from experiments.paper.table1 import lambdas
from experiments.work import Work

SCALE = 20.0
SUBJECT = Subject("magnet-mnist", "toy", None, False)
FACTORY = "tests.experiments.test_paper_confident:toy"
LOW, HIGH = 0.2, 0.8


class Toy(nnx.Module):
    """Class k has the logit 20 x_k: the nearest image of class t that leads by kappa is known."""

    input_shape = (1, CLASSES, 1)

    def __init__(self):
        self.scale = nnx.Param(jnp.asarray(SCALE))

    def __call__(self, x):
        return self.scale[...] * x.reshape(len(x), -1)


def toy():
    return Toy()


def images(label):
    """Grey images whose brightest pixel is their class."""
    x = np.full((len(label), 1, CLASSES, 1), LOW, np.float32)
    x[np.arange(len(label)), 0, label, 0] = HIGH
    return x


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The protocol with a network of ten pixels and its test images, of which the first is mislabelled."""
    out = tmp_path_factory.mktemp("confident")
    checkpoints.save(toy(), out / "weights", factory=FACTORY)
    label = np.r_[5, np.repeat(np.arange(CLASSES), 2)]
    x = images(np.r_[6, label[1:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "NETWORKS", {**networks.NETWORKS, "toy": Network(FACTORY, "", "mnist", "mnist")})
        patch.setattr(Study, "everything", lambda self, subject, split: (x, label))
        size = replace(SIZES["tiny"], pairs={"others": 12}, confidence_steps=300)
        work = Work(open_steps(out / "run", {}), Console(quiet=True))
        yield Study(work, size, {"magnet-mnist": SUBJECT}, {}, Places(None, None), memory={"weights of toy": out / "weights"})


def test_every_pair_once():
    """Protects the choice of pairs: all 90 of a source and another target, those that figures show first, then balanced over sources."""
    every = order()
    assert len(every) == len(set(every)) == CLASSES * (CLASSES - 1)
    assert all(source != target for source, target in every)
    assert every[:2] == [(4, 0), (0, 3)]
    assert set(np.bincount([source for source, _ in every[:42]]).tolist()) <= {4, 5}
    assert min(min(size.pairs.values()) for size in SIZES.values()) >= len(SHOWN)


def test_pairs_take_the_first_right_image(study):
    """Protects the images: the first of each class that the network classifies correctly, once for each of its targets."""
    x, index = firsts(study, SUBJECT)
    assert index.tolist() == list(range(0, 2 * CLASSES, 2))  # in the pool, which lacks the mislabelled image
    np.testing.assert_array_equal(x, images(np.arange(CLASSES)))
    found = pairs(study, SUBJECT)
    assert list(zip(found.source.tolist(), found.target.tolist(), strict=True)) == order()[:12]
    np.testing.assert_array_equal(found.x, images(found.source))
    assert found.place(0, 3) == 1


def test_class_without_an_image(tmp_path):
    """Protects from a grid with wrong rows: a class that the network never gets right is named."""
    np.savez(tmp_path / "pool.npz", x=images(np.arange(9)), y=np.arange(9))
    with pytest.raises(BadInput, match=r"none of \[9\]"):
        firsts(SimpleNamespace(pool=lambda subject: tmp_path / "pool.npz"), SUBJECT)


@pytest.mark.parametrize("kappa", [0, 4])
def test_attack_leads_by_the_confidence(study, kappa):
    """Protects the attack: the target leads by kappa, and the distance is that of the nearest such image, known for this network."""
    found = attacked(study, SUBJECT, kappa)
    assert found.reached.all()
    logits = SCALE * found.x_adv.reshape(-1, CLASSES)
    rows = np.arange(len(logits))
    lead = logits[rows, found.pairs.target] - logits[rows, found.pairs.source]
    assert (lead >= kappa - 1e-3).all()
    nearest = (SCALE * (HIGH - LOW) + kappa) / SCALE / np.sqrt(2)
    assert found.distance == pytest.approx(np.full(12, nearest), rel=0.02)
    np.testing.assert_allclose(found.distance, np.linalg.norm((found.x_adv - found.pairs.x).reshape(12, -1), axis=1), rtol=1e-5)


def test_costs_of_a_confidence(study):
    """Protects the measurements: a confidence is a set like any other, and more confidence costs an attack more."""
    costs = [study.costs(SUBJECT, named(kappa), "bim").cost for kappa in (0, 4)]
    assert [len(one) for one in costs] == [12, 12]
    assert (costs[0] < costs[1]).all()


def test_names_of_sets():
    """Protects the way from a name to its confidence, and other sets from being taken for one."""
    assert [confidence(named(kappa)) for kappa in (0, 15)] == [0, 15]
    assert confidence("C&W") is None


def test_what_counts_as_success():
    """Protects the success rate: the target reached, within the cap (its end included), and flagged by none of the detectors."""
    reached = np.array([True, True, True, True, False])
    distance = np.array([1.0, 1.6, 1.7, 1.0, 1.0])
    found = Attacked(Pairs(*[np.zeros(5)] * 4), np.zeros(5), reached, distance)
    first, second = np.array([False, False, False, True, False]), np.array([True, False, False, False, False])
    assert gets_through(found, 1.6).tolist() == [True, True, False, True, False]
    assert gets_through(found, 1.6, first).tolist() == [True, True, False, False, False]
    assert gets_through(found, 1.6, first, second).tolist() == [False, True, False, False, False]
    assert gets_through(found, 2.0, first, second).tolist() == [False, True, True, False, False]


def test_published_texts():
    """Protects the marks of Figure 7: words such as `any` and `<=15` become numbers, and the most exact word counts."""
    assert texts("a_MNIST", "No defense") == dict.fromkeys(KAPPAS, 100)
    assert texts("a_MNIST", "A2D") == {0: 0, 5: 0, 10: 0, 15: 0, 20: 3}
    assert texts("a_MNIST", "AE") == {0: 21, 20: 0}
    assert texts("a_MNIST", "A2D+AE") == dict.fromkeys(KAPPAS, 0)
    assert texts("b_CIFAR10", "AT") == {0: 72, 10: 21, 15: 0, 20: 0}
    assert texts("b_CIFAR10", "A2D+AT") == {0: 0, 5: 3, 10: 3, 15: 3, 20: 3}
    assert all(guards.magnet not in defence for defence in PANELS["adversarial-cifar10"].defences.values())


def test_magnet_left_out_with_a_reason(tmp_path):
    """Protects from a table that fails after hours: without the autoencoders, or on other data, a sentence says so."""
    away = SimpleNamespace(places=Places(tmp_path, None))
    assert "MNIST_I.h5, MNIST_II.h5 not in" in guards.lacks_magnet(away, Subject("magnet-mnist", "carlini", None, False))
    assert "not for digits" in guards.lacks_magnet(away, Subject("magnet-mnist", "digits", None, True))
    (tmp_path / "magnet").mkdir()
    for name in guards.AUTOENCODERS:
        (tmp_path / "magnet" / name).touch()
    assert guards.lacks_magnet(away, Subject("magnet-mnist", "carlini", None, False)) == ""


def test_magnet_keeps_to_its_weights(tmp_path, monkeypatch):
    """Protects numbers that belong together: autoencoders other than those with which a folder began are refused."""
    (tmp_path / "magnet").mkdir()
    for name in guards.AUTOENCODERS:
        (tmp_path / "magnet" / name).write_bytes(b"first")
    work = Work(open_steps(tmp_path / "run", {}), Console(quiet=True))
    study = Study(work, SIZES["tiny"], {}, {}, Places(tmp_path, None))
    monkeypatch.setattr(Study, "file", lambda *_: tmp_path / "set.npz")
    monkeypatch.setattr(Study, "arrays", lambda *_: {"flagged": np.array([True])})
    assert guards.magnet(study, SUBJECT, "kappa 0").all()
    (tmp_path / "magnet" / "MNIST_II.h5").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"MNIST_II.h5 with which"):
        guards.magnet(study, SUBJECT, "kappa 0")


def test_rows_of_a_grid_are_sources(study):
    """Protects the orientation: row 4 and column 0 hold the four that is taken for a zero; the diagonal holds benign images."""
    found = attacked(study, SUBJECT, 0)
    x, captions = laid_out(found, firsts(study, SUBJECT)[0])
    np.testing.assert_array_equal(x[4][0], found.x_adv[found.pairs.place(4, 0)])
    assert x[0][4] is None
    assert np.argmax(x[0][3]) == 3
    assert captions[4][0] == f"{found.distance[0]:.2f}"
    for label in range(CLASSES):
        np.testing.assert_array_equal(x[label][label], images([label])[0])
        assert captions[label][label] == "benign"
    shown = sum(one is not None for row in x for one in row)
    assert shown == CLASSES + 12


def test_failed_attacks_in_a_grid():
    """Protects the distances: an attack that failed has none, and is not in the mean."""
    found = Attacked(
        Pairs(images([0, 1]), np.array([0, 1]), np.array([1, 0]), np.arange(2)), images([1, 0]), np.array([True, False]), np.ones(2)
    )
    captions = laid_out(found, images(np.arange(CLASSES)))[1]
    assert (captions[0][1], captions[1][0]) == ("1.00", "failed")


def test_published_mean_without_failed_attacks(study, monkeypatch):
    """Protects the comparison: a place where the attack failed is in neither mean."""
    found = attacked(study, SUBJECT, 0)
    only = found._replace(reached=np.arange(12) < 2)
    monkeypatch.setattr("experiments.paper.grids.attacked", lambda *_: only)
    assert grid(study, SUBJECT, 0, "fig11_l2")[1].rows[0].cells[0].published == pytest.approx((3.88 + 3.48) / 2)


def test_grid_beside_the_published_one(study):
    """Protects the comparison: the published mean is over the same places of the grid."""
    pictures, table = grid(study, SUBJECT, 0, "fig11_l2")
    assert isinstance(pictures, Images)
    assert isinstance(table, Table)
    ours, reached = table.rows[0].cells
    places = order()[:12]
    theirs = {(4, 0): 3.88, (0, 3): 3.48, (0, 1): 4.65, (1, 2): 2.52, (2, 3): 2.47, (3, 4): 3.31, (4, 5): 2.43, (5, 6): 2.47, (6, 7): 3.38}
    theirs |= {(7, 8): 3.44, (8, 9): 3.17, (9, 0): 3.43}
    assert ours.published == pytest.approx(np.mean([theirs[place] for place in places]))
    assert ours.ours == pytest.approx(0.6 / np.sqrt(2), rel=0.02)
    assert (reached.ours, reached.n) == (100, (12,))


def test_lambdas():
    """Protects Table 1's ratios by hand: each of the set's own mean, and the average of the mean of all means, not of the ratios."""
    ratios, average = lambdas({"benign": 3.5572, "FGSM": 0.1093, "BIM": 0.0256, "JSMA": 0.0550, "C&W": 0.0004})
    assert ratios == pytest.approx({"FGSM": 32.545, "BIM": 138.953, "JSMA": 64.676, "C&W": 8893.0}, rel=1e-4)
    assert average == pytest.approx(74.77, abs=0.005)
    ratios, average = lambdas({"benign": 2.0, "FGSM": 1.0, "BIM": 0.0})
    assert (ratios["FGSM"], average) == (2, 4)
    assert np.isinf(ratios["BIM"])


def test_correlation():
    """Protects Figures 2 and 10: ranks, not values; and none where all have the same value."""
    assert correlation(SUBJECT, np.array([[1, 1], [2, 100], [3, 101.0]])).ours == pytest.approx(1)
    assert correlation(SUBJECT, np.array([[1, 3], [2, 2], [3, 1.0]])).ours == pytest.approx(-1)
    assert correlation(SUBJECT, np.ones((5, 2))).ours is None
    assert correlation(SUBJECT, np.zeros((0, 2))).reason


def digits(n):
    return np.random.default_rng(0).random((n, 28, 28, 1), np.float32)


def test_authors_files_are_read(tmp_path):
    """Protects the switch: files by their sets' names, the first images, and the label of the digit that each was made from."""
    x, label = digits(30), np.arange(30) % 10
    order = np.random.default_rng(1).permutation(30)[:20]
    crafted = np.clip(x[order] + 0.02, 0, 1)
    np.save(tmp_path / "Adv_mnist_cw.npy", crafted)
    np.save(tmp_path / "Adv_mnist_bim-a.npy", crafted)
    np.save(tmp_path / "Adv_cifar_cw.npy", np.zeros(3))
    found = authors.files(tmp_path)
    assert set(found) == {"C&W (authors)", "BIM (authors)"}
    made = authors.read(found["C&W (authors)"], x, label, 15)
    np.testing.assert_array_equal(made.x, crafted[:15])
    np.testing.assert_array_equal(made.label, label[order[:15]])
    assert authors.files(None) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((5, 32, 32, 3), np.float32), "32 x 32 x 3"),
        (np.zeros((5, 1, 28, 28), np.float32), "28 x 28 x 1"),
        (np.zeros((5, 784), np.float32), "Adv_mnist_cw.npy"),
        (np.zeros((0, 28, 28, 1), np.float32), "at least one image"),
        (np.array([{}], object), "Adv_mnist_cw.npy"),
    ],
)
def test_authors_files_of_something_else(tmp_path, content, message):
    """Protects from numbers of something else, and from running a file's code: other shapes and pickles are refused by name."""
    np.save(tmp_path / "Adv_mnist_cw.npy", content)
    with pytest.raises(BadInput, match=message):
        authors.files(tmp_path)


def test_authors_digits_out_of_range(tmp_path):
    """Protects from another scale: digits in [0, 255] as floats are refused."""
    np.save(tmp_path / "Adv_mnist_cw.npy", 255 * digits(3))
    with pytest.raises(BadInput, match=r"in \[0, 1\]"):
        authors.read(tmp_path / "Adv_mnist_cw.npy", digits(3), np.arange(3), 3)


def test_authors_folder_at_once(tmp_path):
    """Protects from a switch without effect: a folder without such files, or a run without MNIST, is refused before the work begins."""
    settings = Settings(("table2",), size="tiny", out=tmp_path / "out", authors=tmp_path)
    with pytest.raises(BadInput, match=r"expected Adv_mnist_\*\.npy"):
        opened(settings, ["table2"], Console(quiet=True))
    np.save(tmp_path / "Adv_mnist_cw.npy", digits(3))
    with pytest.raises(BadInput, match="Env1 MNIST among the networks"):
        opened(settings, ["table2"], Console(quiet=True))


def test_authors_file_of_the_run(tmp_path, monkeypatch):
    """Protects numbers that belong together: a set of Env1 MNIST alone, from the file with which the folder began."""
    monkeypatch.setattr(Study, "everything", lambda *_: (digits(3), np.array([7, 8, 9])))
    np.save(tmp_path / "Adv_mnist_cw.npy", digits(3))
    places = Places(None, None, tmp_path)
    work = Work(open_steps(tmp_path / "run", {}), Console(quiet=True))

    def again():
        return Study(work, SIZES["tiny"], {}, {}, places)

    mnist = Subject("env1-mnist", "lenet-env1", None, False)
    assert again().others(mnist) == ["C&W (authors)"]
    pictures = again().pictures(mnist, "C&W (authors)")
    np.testing.assert_array_equal(pictures.x, digits(3))
    assert pictures.label.tolist() == [7, 8, 9]
    assert again().others(Subject("env1-cifar10", "convnet-env1", None, False)) == []
    np.save(tmp_path / "Adv_mnist_cw.npy", digits(4))
    with pytest.raises(BadInput, match="choose another --out"):
        _ = again().given
