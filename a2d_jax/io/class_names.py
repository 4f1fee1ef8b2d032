"""Names of the classes of the data sets that `a2d_jax.io.datasets` knows, in the order of a classifier's logits."""

from pathlib import Path

IMAGENET_CLASSES = tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").split())
"""The 1000 classes by their numbers in WordNet, as the folders of ImageNet are called."""
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
