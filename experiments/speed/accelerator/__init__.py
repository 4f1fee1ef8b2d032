"""All that one accelerator can show of this project in some minutes, by one command.

    python -m experiments.speed.accelerator [--minutes 8] [--out DIR] [--checkpoint FILE --golden FILE]

Parts in order of value: `right` (costs of the card beside those of the CPU), `fast` (side by side with PyTorch), `where` (what a step is
spent on), `lanes` (how many are fastest), `training`. Each runs in a process of its own that is ended when its time is over; a part or
a row for which the time is short is left out and says so. A result is written when it is there: a line of DIR/results.jsonl, and
DIR/results.md, a table for docs/performance.md.

Needs JAX 0.10 or newer, Flax, Optax, Orbax, NumPy, SciPy, scikit-learn, PyArrow, Pillow, matplotlib, PyTorch for `fast`, filelock for
`training`, and the small pure wheels tyro (with docstring_parser, typeguard, shtab, typing_extensions), rich (markdown-it-py, mdurl,
pygments) and jaxtyping (wadler_lindig). Foolbox, torchattacks and ART take part where they are installed.

Data: weights and images pinned under tests/golden; MNIST and CIFAR-10 where `a2d_jax.io.datasets` finds them, else images made from the
pinned ones or drawn, and the table says so. ResNet-20 has its real weights with --checkpoint resnet20-12fca82f.th, and in `right` real
images with --golden, a file of images by kind; without them both are drawn, and the table says so.

On a CPU the same command runs with tiny sizes: that is its test, and says nothing about speed.
"""
