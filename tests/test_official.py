"""Costs compared with those of the authors' released code (Foolbox 1.8) on the same images and the same LeNet-5.

`golden/official_lenet5.npz` contains a sample of the reference file: the first 8 images of each set with their official counts, and the
random DBA counts of 24 images of four sets. The whole file is used if it is present.
"""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from a2d_jax import costs, metrics, presets
from experiments import official_counts
from experiments.official_counts import OFFSET
from tests.attacks.pinned import lenet

CRAFTED = ("fgsm", "bim", "jsma", "deepfool", "cw")


@pytest.fixture(scope="module")
def net():
    return lenet()


@pytest.fixture(scope="module")
def pinned(request):
    return dict(np.load(request.path.parent / "golden" / "official_lenet5.npz", allow_pickle=False))


def counts(file, kinds):
    """Our counts in the official counting, by set and defence, as `a2d cost` writes them. All sets in one table, nothing clipped."""
    args = official_counts.Args(golden=None, classifier="tests.attacks.pinned:lenet")
    found = official_counts.counts(args, np.concatenate([file[kind] for kind in kinds]), list(OFFSET))
    ends = np.cumsum([len(file[kind]) for kind in kinds])
    return {(kind, name): part for name, column in found.items() for kind, part in zip(kinds, np.split(column, ends[:-1]), strict=True)}


def check(ours, file):
    for name in OFFSET:
        assert min(count.min() for (_, defence), count in ours.items() if defence == name) >= 0, "no cost is below that of one update"
        equal = np.concatenate([ours[kind, name] == file[f"{kind}_{name}"] for kind in CRAFTED])
        assert equal.mean() >= (0.9 if name == "jsma" else 0.98), name
        gap = np.abs(ours["benign", name] - file[f"benign_{name}"])
        assert np.median(gap) <= 1, name
        assert np.percentile(gap, 95) <= 5, name
        for kind in CRAFTED:
            area = metrics.auroc(-ours["benign", name], -ours[kind, name])
            official = metrics.auroc(-file[f"benign_{name}"], -file[f"{kind}_{name}"])
            assert abs(area - official) <= 0.005, (kind, name)


def test_pinned_counts(pinned):
    """Protects parity: counts of the pinned images are the official ones, within the stated bounds."""
    check(counts(pinned, ("benign", *CRAFTED)), pinned)


@pytest.mark.slow
def test_pinned_boundary_costs(net, pinned):
    """Protects DBA where no reference data lies beside the checkout: costs of 24 crafted images against the official ones."""
    kinds = ("fgsm", "jsma", "cw")
    attack = {"dba": presets.make("mnist", "defence", "dba")}
    ours = costs.costs(net, np.concatenate([pinned[kind] for kind in kinds]), attack)[0][:, 0]
    for kind, sample in zip(kinds, np.split(ours, 3), strict=True):
        assert mannwhitneyu(np.minimum(sample, 5000), pinned[f"{kind}_dba"]).pvalue > 0.01, (kind, np.median(sample))


@pytest.mark.release
def test_all_counts(shared):
    """Protects parity on the whole reference file: 60 benign and 260 crafted images, three defences."""
    file = dict(np.load(shared / "data" / "golden" / "lenet5_mnist_official.npz", allow_pickle=False))
    check(counts(file, ("benign", *CRAFTED)), file)


@pytest.mark.release
def test_boundary_costs_are_distributed_alike(net, shared):
    """Protects DBA: over 24 images and 5 keys its costs and the official ones come from one distribution (Mann-Whitney)."""
    file = dict(np.load(shared / "data" / "golden" / "lenet5_mnist_official.npz", allow_pickle=False))
    kinds = ("benign", "fgsm", "jsma", "cw")
    x = np.concatenate([file[kind][:24] for kind in kinds])
    attack = {"dba": presets.make("mnist", "defence", "dba")}
    ours = np.stack([costs.costs(net, x, attack, seed=seed)[0][:, 0] for seed in range(5)])
    begin = 0
    for kind in kinds:
        official = file[f"{kind}_dba"]
        sample = ours[:, begin : begin + len(file[kind][:24])]
        begin += sample.shape[1]
        for costs_of_key in sample:
            assert mannwhitneyu(np.minimum(costs_of_key, 5000), official).pvalue > 0.01, (kind, np.median(costs_of_key))
