"""Build the documentation site from the pages of docs/ and from the docstrings, and check every page and link of it.

    python -m experiments.site

The site is in build/site. Nothing in it is fetched from elsewhere, and its pages open from the disk; the search needs a server:
`python -m http.server --directory build/site`. A warning of the generator, a page outside the navigation, a link without a target or an
undocumented public name ends the command with exit code 1. Settings: zensical.toml. Run time: about 20 s, the import of JAX included.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from experiments.site import check, pages

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Gather, build, check; the exit code."""
    for folder in (pages.PAGES, pages.SITE):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    pages.gather(ROOT)
    built = subprocess.run([Path(sys.executable).parent / "zensical", "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if built.returncode:
        return 1
    faults = check.faults(ROOT)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(faults)} faults" if faults else f"the site is in {pages.SITE}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
