"""The wheel: it contains only the library and works outside the checkout."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

EXAMPLE = """
import sys
for extra in ("matplotlib", "jinja2", "filelock"):
    sys.modules[extra] = None  # as if it were not installed: the core needs none of them
import jax, numpy as np, a2d_jax, pathlib
from a2d_jax import Classifier, Defense, attacks, detectors
assert pathlib.Path(a2d_jax.__file__).is_relative_to(sys.argv[1]), a2d_jax.__file__
rng = np.random.default_rng(0)
classifier = Classifier(rng.normal(size=(3, 16)).astype(np.float32), lambda w, x: w @ x.ravel())
x = rng.uniform(size=(60, 4, 4, 1)).astype(np.float32)
fitted = Defense(classifier, {"bim": attacks.bim(0.3, 0.001, 300)}, detectors.ZScore()).fit(x[:40])
print(fitted.predict(x[40:]).mean())
from a2d_jax import cli
assert cli.main(["info"]) == 0
try:
    import a2d_jax.report
except ImportError as error:
    assert "a2d-jax[report]" in str(error)
else:
    raise AssertionError("reports need an extra")
"""


@pytest.mark.release
def test_wheel_holds_the_library_and_works_elsewhere(tmp_path):
    """Protects users of the package: no `models`, `tests` or `experiments` in it, templates included, and it runs from anywhere."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"a2d_jax", f"a2d_jax-{wheel.name.split('-')[1]}.dist-info"}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "a2d_jax").rglob("*") if path.suffix in (".py", ".j2", ".txt")} <= set(
        names
    )
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, cwd=tmp_path)
    (tmp_path / "example.py").write_text(EXAMPLE)
    done = subprocess.run(
        [sys.executable, "example.py", site],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
