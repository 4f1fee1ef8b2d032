"""The experiment on photographs, with a small network in place of the large one."""

import re
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from a2d_jax.errors import BadInput
from a2d_jax.scale.runs import RECORDS, Run
from a2d_jax.scale.steps import STEPS, Steps
from experiments import imagenet
from tests import nets

pytestmark = pytest.mark.xdist_group("imagenet")  # one process: its fixtures take seconds


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """48 images of noise, each called by the class that the network gives it, and two called by another."""
    folder = tmp_path_factory.mktemp("photographs")
    x = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    label = np.asarray(jax.vmap(nets.convnet())(x.astype(np.float32) / 255)).argmax(1)
    label[:2] = (label[:2] + 1) % 5
    for number, (image, name) in enumerate(zip(x, label, strict=True)):
        Image.fromarray(image[..., 0]).save(folder / f"{name:04}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def finished(photographs, tmp_path_factory):
    """Settings and table of a whole run."""
    settings = imagenet.Settings(
        photographs, tmp_path_factory.mktemp("out"), images=48, crafted=6, jsma=0, cw=0, lanes=2, classifier="tests.nets:convnet"
    )
    return settings, imagenet.main(settings)


def step(settings, name):
    """The file that says that a step is done."""
    return settings.out / RECORDS / STEPS / f"{name}.json"


def test_table_holds_what_the_files_say(finished):
    """Protects the numbers of the table: AUROC by scikit-learn from the raw costs, medians and shares of right verdicts by NumPy."""
    settings, text = finished
    rows = {cells[0]: cells for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line)}
    assert list(rows) == ["set", "---", "benign", "fgsm", "bim", "deepfool"]

    def costs(name):
        table = pq.read_table(settings.out / f"costs-{name}.parquet").to_pydict()
        return np.array([cost for cost, attack in zip(table["cost"], table["attack"], strict=True) if attack == "bim"])

    benign, crafted = costs("benign"), costs("deepfool-6")
    assert int(rows["benign"][1]) == len(benign) == 24
    assert rows["deepfool"][1] == f"{len(crafted)} of 6"
    assert float(rows["benign"][2]) == np.median(benign)
    auroc = roc_auc_score(np.repeat([0, 1], [len(benign), len(crafted)]), -np.concatenate([benign, crafted]))
    assert float(rows["deepfool"][3].split()[0]) == pytest.approx(auroc, abs=5e-4)
    flagged = pq.read_table(settings.out / "verdicts-deepfool-6-bim.parquet")["adversarial"].to_pylist()
    assert rows["deepfool"][4] == f"{100 * np.mean(flagged):.1f} %"
    assert auroc > 0.9


def test_halves_hold_right_photographs_once(finished):
    """Protects the split: no photograph on both sides, none that the network gets wrong, and crafted ones come from the judged half."""
    settings, _ = finished
    fit, judged = ({file.name for file in (settings.out / half).glob("*.png")} for half in ("fit", "judged"))
    assert len(fit) == len(judged) == 24
    assert not fit & judged
    assert not any(name.endswith(("_0.png", "_1.png")) for name in fit | judged)
    assert Steps(settings.out).facts()["all-fgsm-6.npz"]["summary"]["images"] == 6


def test_bound_saves_steps(finished):
    """Protects the iteration bound: fewer steps on benign images at verdicts that `main` compared."""
    saved = re.findall(r"(\d+) steps on the benign images instead of (\d+)", finished[1])
    assert len(saved) == 2
    assert all(int(after) < int(before) for after, before in saved)


def test_goes_on_where_it_stopped(finished, monkeypatch):
    """Protects resuming: a step that is done is not done again, one that is missing is, and the table comes out the same."""
    settings, text = finished
    step(settings, "costs-bim-6.parquet").unlink()
    ran = []
    run = imagenet.jobs.run
    monkeypatch.setattr(imagenet.jobs, "run", lambda spec, report: ran.append(spec.out.name) or run(spec, report))
    assert imagenet.main(settings).splitlines()[:-1] == text.splitlines()[:-1]  # the last line has the seconds
    assert ran == ["costs-bim-6.parquet"]


def test_goes_on_within_a_step(finished, monkeypatch):
    """Protects hours: a step that was killed in the middle goes on in its run folder, although the files of steps may be replaced."""
    settings, text = finished
    step(settings, "costs-fit.parquet").unlink()
    made = []
    commit = Run.commit

    def stops(run, measurement, part, unit):
        if measurement == "bim2" and made == ["predict", "bim"]:
            raise KeyboardInterrupt
        made.append(measurement)
        commit(run, measurement, part, unit)

    monkeypatch.setattr(Run, "commit", stops)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(settings)
    assert (settings.out / "costs-fit.parquet.run").is_dir()
    made.append("killed")
    assert imagenet.main(settings).splitlines()[:-1] == text.splitlines()[:-1]
    assert made == ["predict", "bim", "killed", "bim2"]


@pytest.mark.parametrize("change", [{"images": 40}, {"seed": 1}])
def test_other_settings_need_another_folder(finished, change):
    """Protects against mixing: results of other photographs are not taken for those of these."""
    with pytest.raises(BadInput, match=f"{next(iter(change))} is .*choose another place"):
        imagenet.main(replace(finished[0], **change))


def test_names_must_begin_with_the_class(tmp_path):
    """Protects the labels: a name without a class is told, not guessed."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "tench.png")
    with pytest.raises(BadInput, match=r"tench\.png"):
        imagenet.main(imagenet.Settings(tmp_path, tmp_path / "out", classifier="tests.nets:convnet"))


def test_errors_of_the_command_are_one_line(tmp_path, capsys):
    """Protects scripts around it: bad input exits with 1 and one line that names the command."""
    arguments = ["--photographs", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--classifier", "tests.nets:convnet"]
    assert imagenet.run(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("experiments.imagenet: error: expected images")
    assert said.count("\n") == 1
