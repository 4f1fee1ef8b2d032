"""The real checkpoints of the CIFAR ResNets: accuracy, official costs, and other names of the same arrays."""

import numpy as np
import pytest
from flax import nnx

from a2d_jax import classifiers, costs, presets
from a2d_jax.io import convert
from models import resnet

OFFSET = {"bim": 1, "bim2": 1, "jsma": 0}  # official count = cost - offset, and never below 0
CRAFTED = ("fgsm", "bim", "jsma", "deepfool")
CHECKPOINTS = {  # file, right answers on the first 500 CIFAR-10 test images in PyTorch, and on all 10,000 (20 and 56 as published)
    "cifar_resnet20": ("resnet20-12fca82f.th", 455, 9173),
    "cifar_resnet32": ("resnet32-d509ac18.th", 466, 9263),
    "cifar_resnet44": ("resnet44-014dd654.th", 465, 9310),
    "cifar_resnet56": ("resnet56-4bfd9763.th", 470, 9339),
}


def real(shared, name):
    arrays = convert.read_arrays(shared / "data" / "checkpoints" / CHECKPOINTS[name][0])
    return classifiers.from_nnx(convert.to_module(arrays, nnx.eval_shape(getattr(resnet, name))))


@pytest.fixture(scope="module")
def images(cifar10):
    """The 10,000 test images and their labels."""
    rows = np.fromfile(cifar10 / "test_batch.bin", np.uint8).reshape(-1, 3073)
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32) / 255, rows[:, 0]


def right(classifier, x, label):
    return int(np.sum(costs.predictions(classifier, x)[0] == label))


@pytest.mark.parametrize("name", ["cifar_resnet20", pytest.param("cifar_resnet56", marks=pytest.mark.release)])
def test_first_images(name, shared, images):
    """The converted checkpoint is right on exactly as many of the first 500 test images as in PyTorch."""
    x, label = images
    assert right(real(shared, name), x[:500], label[:500]) == CHECKPOINTS[name][1]


@pytest.mark.release
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_accuracy(name, shared, images):
    """The converted checkpoints reach their accuracy on the 10,000 test images, to the image: 91.73, 92.63, 93.10, 93.39 %."""
    assert right(real(shared, name), *images) == CHECKPOINTS[name][2]


def counts(shared, attack, n):
    """Our counts in the official counting, and the official ones, on the first `n` images of every set."""
    file = np.load(shared / "data" / "golden" / "resnet20_cifar10_official.npz", allow_pickle=False)
    kinds = ("benign", *CRAFTED)
    x = np.concatenate([file[kind][:n] for kind in kinds])
    table, _ = costs.costs(real(shared, "cifar_resnet20"), x, {attack: presets.make("cifar10", "defence", attack)})
    ours = np.maximum(table[:, 0] - OFFSET[attack], 0)
    theirs = np.concatenate([file[f"{kind}_{attack}"][:n] for kind in kinds])
    return ours[:n] - theirs[:n], ours[n:] - theirs[n:]


def test_first_official_counts(shared):
    """BIM costs of the first four images of each set are the official ones, benign within 1 (float32 here, float64 there)."""
    benign, crafted = counts(shared, "bim", 4)
    assert np.abs(benign).max() <= 1
    np.testing.assert_array_equal(crafted, 0)


@pytest.mark.release
@pytest.mark.parametrize(("attack", "share"), [("bim", 0.95), ("bim2", 0.95), ("jsma", 0.85)])
def test_official_counts(shared, attack, share):
    """Costs of the released code on CIFAR-10: crafted images equal in the stated share, benign ones within 1 in the median."""
    benign, crafted = counts(shared, attack, 40)
    assert np.mean(crafted == 0) >= share
    assert np.median(np.abs(benign)) <= 1


def test_hugging_face_names():
    """A file in the names of Hugging Face's ResNet gives the same arrays as one in torchvision's."""
    abstract = nnx.eval_shape(resnet.resnet50)
    theirs = {
        "resnet.embedder.embedder.convolution.weight": "conv1.weight",
        "resnet.embedder.embedder.normalization.running_mean": "bn1.running_mean",
        "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight": "layer1.0.downsample.0.weight",
        "resnet.encoder.stages.0.layers.0.shortcut.normalization.bias": "layer1.0.downsample.1.bias",
        "resnet.encoder.stages.3.layers.2.layer.0.convolution.weight": "layer4.2.conv1.weight",
        "resnet.encoder.stages.3.layers.2.layer.2.normalization.running_var": "layer4.2.bn3.running_var",
        "classifier.1.bias": "fc.bias",
    }
    for name, expected in theirs.items():
        assert abstract.rename(name) == expected
        assert abstract.rename(expected) == expected
