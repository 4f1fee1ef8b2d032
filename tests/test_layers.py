"""The layers of the package: a file imports only from lower layers, so that there are no cycles."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "a2d_jax"
FLOORS = [
    {"errors", "process"},
    {"imports", "supervision"},
    {"inputs"},
    {"types", "metrics", "console", "hardware"},
    {"norms", "losses", "measurements", "classifiers", "nn"},
    {"attacks", "detectors", "robustness"},
    {"drivers"},
    {"specs"},
    {"presets", "io", "report"},
    {"costs"},
    {"adaptive", "scale"},
    {"jobs"},
    {"command"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
OUTSIDE = {"a2d_jax", "models", "experiments", "tests"}


def imports(path: pathlib.Path) -> set[str]:
    """Project modules that a file imports, as `a2d_jax.room` or the name of another top-level package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in OUTSIDE:
                found.add(".".join(parts[:2]))
    return found


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor():
    """Protects the map: a new file or folder must be given a floor."""
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(FLOOR)


def test_files_import_only_lower_floors():
    """Protects the direction: same room or a lower floor; attacks know no detector, detectors know no attack; nobody knows models."""
    for path in PACKAGE.rglob("*.py"):
        if room(path) in ("__init__", "__main__"):
            continue
        own = FLOOR[room(path)]
        for name in imports(path):
            package, other = name.split(".")[0], name.split(".")[1]
            assert package == "a2d_jax", f"{path} imports {name}"
            assert other == room(path) or FLOOR[other] < own, f"{path} imports {name}"


def test_nobody_imports_experiments_or_tests():
    """Protects the top: experiments and tests stand on the library and the zoo, never the other way round."""
    for folder in ("a2d_jax", "models"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {name for name in imports(path) if name.split(".")[0] in ("experiments", "tests")}, path


def test_files_stay_small():
    """Protects readers: a file of the library is read in one sitting."""
    long = {str(path): n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 420}
    assert not long
