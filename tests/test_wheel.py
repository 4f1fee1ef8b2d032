"""The wheel: it contains only the library and works outside the checkout."""

import hashlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import a2d_jax

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


def test_one_version():
    """Protects citations and bug reports: what the package says, what is installed and what is cited are one version."""
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert importlib.metadata.version("a2d-jax") == a2d_jax.__version__ == cited[1]
    assert (ROOT / "a2d_jax" / "py.typed").exists()


@pytest.mark.slow
def test_an_empty_environment_runs_the_readme(tmp_path):
    """Protects a new user: the source distribution builds the wheel that the checkout builds, and where nothing but this wheel and what it
    asks for is installed, the README's example runs, and `a2d` and `python -m a2d_jax` answer."""
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, tmp_path / "direct", ROOT], check=True, cwd=tmp_path)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "build>=1.2"], check=True, cwd=tmp_path)
    subprocess.run([python, "-m", "build", "--sdist", "--outdir", tmp_path / "source", ROOT], check=True, cwd=tmp_path, capture_output=True)
    (source,) = (tmp_path / "source").iterdir()
    subprocess.run([*build, tmp_path / "through", source], check=True, cwd=tmp_path)
    (wheel,), (again,) = ((tmp_path / folder).glob("*.whl") for folder in ("direct", "through"))
    assert contents(wheel) == contents(again)

    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", wheel], check=True, cwd=tmp_path)
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example[1])
    bare = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    for command in (["example.py"], ["-m", "a2d_jax", "info"], [environment / "bin" / "a2d", "info"]):
        done = subprocess.run([python, *command], cwd=tmp_path, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "crafted.npz").exists()
    assert a2d_jax.__version__ in done.stdout


def contents(wheel):
    """Names and digests of what a wheel holds."""
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}
