"""Origins: all facts on which costs depend are compared, differences are named with both values, missing facts are noted."""

import json
import re

import numpy as np
import pytest

from a2d_jax.errors import BadInput
from a2d_jax.io.provenance import Meeting, Origin, archive_meta, checked_meta, same_origins

META = {
    "counts": 1,
    "precision": "float32",
    "classifier": "models.lenet:lenet5",
    "weights_sha256": "a" * 64,
    "photographs": {"resize": 256, "crop": 224, "interpolation": "bilinear"},
    "shape": [28, 28, 1],
    "labels": "prediction",
    "target": "second",
    "attacks": {"bim": {"kind": "PGD", "max_steps": 500, "targeted": True}, "jsma": {"kind": "JSMA", "theta": 1.0}},
    "norms": {"bim": "linf", "jsma": "l0"},
    "clever": {"radius": 5.0, "norm": "l2"},
    "seed": 0,
    "versions": {"jax": "0.10.2"},
    "images": "a.npz",
}
OTHERS = {
    "counts": 2,
    "precision": "bfloat16",
    "classifier": "models.lenet:lenet4",
    "weights_sha256": "b" * 64,
    "photographs": {"resize": 232, "crop": 224, "interpolation": "bilinear"},
    "shape": [32, 32, 3],
    "labels": "set",
    "target": "random",
    "attacks": {"bim": {"kind": "PGD", "max_steps": 50, "targeted": True}, "jsma": {"kind": "JSMA", "theta": 1.0}},
    "norms": {"bim": "l2", "jsma": "l0"},
    "clever": {"radius": 2.0, "norm": "l2"},
}


def meet(other: dict, names=("bim", "jsma"), **options) -> Meeting:
    return same_origins(names, [Origin("a.parquet", META), Origin("b.parquet", other)], **options)


@pytest.mark.parametrize("fact", OTHERS)
def test_each_fact_is_compared(fact):
    """Protects against every mixture: one line names the fact, both values, both files, and the switch; with it, both are recorded."""
    with pytest.raises(BadInput) as caught:
        meet({**META, fact: OTHERS[fact]}, how="--mixed-origins")
    text = str(caught.value)
    assert re.fullmatch(
        r"expected costs [^\n]* as in a.parquet, got [^\n]* in b.parquet; [^\n]*, or pass --mixed-origins to mix them", text
    )
    mine, theirs = ("aaaaaaaaaaaa...", "bbbbbbbbbbbb...") if "sha256" in fact else ({"shape": "28 x 28 x 1"}.get(fact, ""), "")
    assert mine in text
    assert theirs in text
    mixed = meet({**META, fact: OTHERS[fact]}, mixed=True)
    ((recorded, values),) = mixed.mixed.items()
    assert recorded.partition(".")[0] in (fact, "bim")
    assert set(values) == {"a.parquet", "b.parquet"}
    assert "origins are mixed as asked" in mixed.notes[0]
    assert json.loads(json.dumps(mixed.as_meta)) == mixed.as_meta


def test_all_that_differs_is_named():
    """Protects the line: the first difference is told in words, others beside it, and it stays short."""
    with pytest.raises(BadInput) as caught:
        meet({**META, **OTHERS})
    text = str(caught.value)
    assert "also different: precision float32 and bfloat16, classifier models.lenet:lenet5 and models.lenet:lenet4" in text
    assert "more)" in text
    assert len(text) < 500
    assert "mixed_origins=True" in text


def test_what_does_not_matter_may_differ():
    """Protects use: other images, seeds and versions of libraries, attacks that are not compared, and a target that no attack aims at."""
    free = {"seed": 3, "images": "b.npz", "images_sha256": "x", "count": 7, "versions": {"jax": "0.9"}, "spec": {"limit": 3}}
    assert meet({**META, **free}) == Meeting()
    assert meet({**META, "attacks": {**META["attacks"], "bim": OTHERS["attacks"]["bim"]}}, names=("jsma",)) == Meeting()
    assert meet({**META, "target": "random"}, names=("jsma",)) == Meeting()
    assert meet({**META, "shape": (28, 28, 1)}) == Meeting()
    assert meet({**META, "photographs": None}) == Meeting()


@pytest.mark.parametrize("fact", ["counts", "weights_sha256", "labels", "attacks"])
def test_what_is_missing_is_told(fact):
    """Protects old files: what one of them does not record is a note that names it, not a difference."""
    found = meet({name: value for name, value in META.items() if name != fact})
    assert not found.mixed
    (note,) = found.notes
    assert re.fullmatch(rf"b.parquet does not record [^\n]*{'bim.kind' if fact == 'attacks' else fact}[^\n]*", note)


def test_no_record_at_all():
    """Protects tables of other tools: one note says that nothing is known; two tables without a record are two notes."""
    (note,) = meet({}).notes
    assert note == "b.parquet does not record how its costs were measured, so this could not be compared"
    assert len(same_origins(["bim"], [Origin("a", {}), Origin("b", {})]).notes) == 2


def test_three_origins():
    """Protects sets of tables: two that differ are found although the first of all records nothing."""
    origins = [Origin("a", {}), Origin("b", META), Origin("c", {**META, "weights_sha256": "c" * 64})]
    with pytest.raises(BadInput, match=r"aaaaaaaaaaaa\.\.\. as in b, got cccccccccccc\.\.\. in c"):
        same_origins(["bim"], origins)


def test_archives_record_how_images_were_prepared(tmp_path):
    """Protects crafted photographs: their archive knows how they were resized; other archives and damaged records know nothing."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(3), a2d=np.asarray(json.dumps({"photographs": META["photographs"]})))
    assert archive_meta(path) == {"photographs": META["photographs"]}
    for record in ("[1]", "no json", json.dumps({"photographs": 3}), "[" * 5000):
        np.savez(path, x=np.zeros(3), a2d=np.asarray(record))
        assert archive_meta(path) == {}
    path.write_bytes(b"PK")
    assert archive_meta(path) == {}
    assert archive_meta(tmp_path / "folder") == {}


def test_checked_meta(tmp_path):
    """Protects readers: a record of another kind is none, one of a wrong form is refused."""
    assert checked_meta([1], tmp_path) == {}
    assert checked_meta({**META, "photographs": None}, tmp_path)["seed"] == 0
    with pytest.raises(BadInput, match="settings of the run"):
        checked_meta({"shape": [0, 1, 1]}, tmp_path)
