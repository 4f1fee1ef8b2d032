"""Convert a checkpoint of another framework, and compare the result with the logits that the framework itself gives."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from a2d_jax.classifiers import as_classifier, input_shape
from a2d_jax.console import Done, Report, silent
from a2d_jax.costs.inputs import logits_of
from a2d_jax.errors import BadInput
from a2d_jax.io import convert as conversion
from a2d_jax.io.checkpoints import CARD, load, make_module, read_class_names, save
from a2d_jax.io.files import refuse_existing
from a2d_jax.io.images import open_images
from a2d_jax.io.orbax_files import Unreadable
from a2d_jax.io.photographs import preprocessing_from
from a2d_jax.jobs.spec import ConvertSpec

CLOSE = 1e-3
"""Largest difference of two frameworks' logits that rounding explains, as a share of the largest logit."""


def convert(spec: ConvertSpec, report: Report = silent) -> Done:
    """Read the weights of a checkpoint of another framework into a Flax module and write them as an Orbax folder.

    With `check` the logits of the module are compared with those of the framework first, and nothing is written if they differ.
    """
    refuse_existing(spec.out, spec.force, "--force", inputs=spec.inputs(), card=CARD)
    names = None if spec.class_names is None else read_class_names(spec.class_names)
    module: Any = make_module(spec.classifier, weights=False)
    if not isinstance(module, nnx.Module):
        raise BadInput(
            f"expected a factory of a Flax NNX module, got {type(module).__name__} from {spec.classifier}; name a factory of one"
        )
    others = nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngState))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(module, others))):
        module = make_module(spec.classifier)  # it holds constants that no checkpoint has
    left_out = tuple(name for name in map(str.strip, (spec.leave_out or "").split(",")) if name)
    if spec.source.is_dir():
        whole, notes = _from_orbax(spec, module)
    else:
        converted = conversion.convert(spec.source, module, key=spec.key, leave_out=left_out, verified=spec.check is not None)
        whole, notes = converted.module, converted.notes
    compared = {} if spec.check is None else _compared(whole, Path(spec.check[0]), Path(spec.check[1]), notes)
    card = save(whole, spec.out, factory=spec.classifier, source=spec.source, class_names=names, force=spec.force, how="--force")
    return Done({"out": str(spec.out), "parameters": card["parameters"], "classes": card["classes"], **compared}, notes=notes)


def _from_orbax(spec: ConvertSpec, module: nnx.Module) -> tuple[nnx.Module, list[str]]:
    """The module with the weights of an Orbax folder."""
    try:
        loaded = load(spec.classifier, spec.source, key=spec.key)
    except Unreadable as error:
        names = ", ".join(sorted(child.name for child in spec.source.iterdir())[:5]) or "nothing"
        raise BadInput(
            f"expected a checkpoint file or an Orbax folder, got the folder {spec.source} with {names}; name the file in it (of several "
            "parts, their *.index.json)"
        ) from error
    whole = nnx.clone(module)
    nnx.update(whole, loaded.classifier.variables)
    return whole, loaded.notes


def _compared(module: nnx.Module, images: Path, file: Path, notes: list[str]) -> dict[str, Any]:
    """How far the logits of a module are from those of the original framework.

    Raises:
      BadInput: they differ by more than rounding, or the files cannot be compared.
    """
    theirs = _read_logits(file)
    shape = input_shape(module)
    source = open_images(images, shape, preprocessing=preprocessing_from(getattr(module, "photographs", None), shape))
    if len(source) != len(theirs):
        raise BadInput(f"expected logits of the {len(source)} images in {images}, got {len(theirs)} rows in {file}; save both again")
    pieces: list[np.ndarray] = []
    classifier = as_classifier(module)
    for piece in source.pieces():
        bad = next((error for error in piece.error if error is not None), None)
        if bad is not None:
            raise BadInput(f"expected images that can be read in {images}, got one that cannot ({bad}); leave it out, and its logits too")
        try:
            pieces.append(logits_of(classifier, piece.x))
        except BadInput:
            raise
        except Exception as error:  # the user's own module says in its own way that it does not fit
            raise BadInput(f"expected images that the module takes, got {images}, for which it raises {error!r}; check both") from error
    ours = np.concatenate(pieces)
    if ours.shape != theirs.shape:
        raise BadInput(f"expected logits of shape {ours.shape} as the module gives, got {theirs.shape} in {file}; check both")
    if np.allclose(theirs.sum(1), 1, atol=1e-3) and (theirs >= 0).all():
        notes.append(f"{file} holds probabilities; the softmax of the module's logits is compared with them")
        ours = np.asarray(jax.nn.softmax(ours))
    largest = float(np.abs(ours - theirs).max())
    equal = float((ours.argmax(1) == theirs.argmax(1)).mean())
    found = f"a largest difference of {largest:.3g} and equal classes for {equal:.1%} of {len(ours)} images"
    if not largest <= CLOSE * float(np.abs(theirs).max()):
        raise BadInput(
            f"expected logits as {file} has them, got {found}; check the order of pixels and channels, normalisation, "
            "flattened (docs/converting.md) and the settings of every layer; nothing was written"
        )
    return {"largest difference": largest, "equal classes": equal}


def _read_logits(file: Path) -> np.ndarray:
    try:
        logits = np.load(file, allow_pickle=False)
        theirs = np.asarray(logits, np.float64)
    except Exception as error:  # no file, another kind, or a damaged one
        raise BadInput(
            f"expected logits of shape (n, k) as .npy, got {file}, which cannot be read ({error}); save them with np.save"
        ) from error
    if theirs.ndim != 2 or not theirs.size or not np.isfinite(theirs).all():
        raise BadInput(f"expected finite logits of shape (n, k), got {theirs.shape} in {file}; save one row for each image")
    return theirs
