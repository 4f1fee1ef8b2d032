"""All measurements on one accelerator in some minutes, with one command.

    python -m experiments.speed.accelerator [--minutes 8] [--out DIR] [--checkpoint FILE --golden FILE]

The parts, most important first: `right` (costs on the card compared with those on the CPU), `fast` (speed compared with PyTorch), `where`
(the parts of a step's time), `lanes` (the fastest number of lanes), `training`. Each part runs in its own process, which is ended when its
time is over. A part or a row without enough time is left out with a note. Each result is written at once: a line of DIR/results.jsonl, and
DIR/results.md, a table for docs/accelerators.md.

Needs JAX 0.10 or newer, Flax, Optax, Orbax, NumPy, SciPy, scikit-learn, PyArrow, Pillow, matplotlib, PyTorch for `fast`, filelock for
`training`, and the small pure wheels tyro (with docstring_parser, typeguard, shtab, typing_extensions), rich (markdown-it-py, mdurl,
pygments) and jaxtyping (wadler_lindig). Foolbox, torchattacks and ART take part if they are installed.

Data: weights and images pinned under tests/golden; MNIST and CIFAR-10 if `a2d_jax.io.datasets` finds them. Otherwise images are made from
the pinned ones or drawn at random, and the table says so. ResNet-20 has its real weights with --checkpoint resnet20-12fca82f.th, and real
images in `right` with --golden, a file of images by kind. Without these files both are drawn, and the table says so.

On a CPU the same command runs with tiny sizes: this only tests it and has no meaning for speed.
"""
