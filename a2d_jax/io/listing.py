"""The files in a folder: every reader that lists files uses this.

Stray files of operating systems, notebooks, archives, network drives and synchronisation programs are left out. Links are followed. Each
real file or folder counts once: under its own name if it is in the folder, else under the first link to it.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from a2d_jax.errors import BadInput

NAMES = {
    *("__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),  # Windows
    *("lost+found", "lost.dir", "found.000"),  # repairs of a file system
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),  # network drives
    *("__pycache__", "_vti_cnf", "picasa.ini"),
}
"""In small letters. Names that begin with a dot need no entry: .DS_Store, ._x.png, .ipynb_checkpoints, .git, .nfs0001, .stversions, ..."""

PATTERN = re.compile(
    r"""^\.|^~\$|^~syncthing~|~$                                             # hidden; locks of editors, backups
    |\.(tmp|temp|part|partial|filepart|crdownload|download|opdownload|aria2|!ut|!qb|swp)$  # not whole yet
    |\.sync-conflict-\d{8}-\d{6}|\(.*conflicted\ copy.*\d{4}-\d\d-\d\d.*\)   # second versions of Syncthing, Dropbox, Nextcloud
    |:zone\.identifier$|@syno(eastream|resource)$                            # what Windows and Synology know of a file
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is a stray of a system or a tool."""
    return name.lower() in NAMES or PATTERN.search(name) is not None


@dataclass(frozen=True)
class Listing:
    """The contents of a folder; each list is sorted by name, and paths begin with the path of the folder.

    Attributes:
      files: files, including the targets of links.
      folders: folders that were entered.
      strays: stray files and folders of systems and tools.
      again: links to something that is listed under another name, or to a folder above.
      dangling: links without a target.
      deeper: folders that are too deep to be entered.
      others: entries that are neither files nor folders.
    """

    files: list[Path] = field(default_factory=list[Path])
    folders: list[Path] = field(default_factory=list[Path])
    strays: list[Path] = field(default_factory=list[Path])
    again: list[Path] = field(default_factory=list[Path])
    dangling: list[Path] = field(default_factory=list[Path])
    deeper: list[Path] = field(default_factory=list[Path])
    others: list[Path] = field(default_factory=list[Path])


def listing(folder: Path, depth: int = 0) -> Listing:
    """List a folder.

    Args:
      folder: what to list.
      depth: how many levels of sub-folders to enter.

    Raises:
      BadInput: the folder, or one of those to enter, cannot be read.
    """
    found = Listing()
    links: list[tuple[Path, int]] = []
    root = Path(os.path.realpath(folder))
    entered = {root}
    _enter(folder, root, depth, found, links, entered)
    targets: dict[Path, Path] = {}
    while links:  # folders behind links may hold links
        here, links = sorted(links), []
        for path, levels in here:
            target = Path(os.path.realpath(path))
            if target.is_file():
                targets[path] = target
            elif not target.is_dir():
                (found.dangling if not target.exists() else found.others).append(path)
            elif target in entered or root.is_relative_to(target):
                found.again.append(path)
            elif levels:
                found.folders.append(path)
                entered.add(target)
                _enter(path, target, levels - 1, found, links, entered)
            else:
                found.deeper.append(path)
    counted: set[Path] = set()
    for path, target in sorted(targets.items()):
        listed = target.parent in entered and not is_stray(target.name)
        (found.again if listed or target in counted else found.files).append(path)
        counted.add(target)
    for paths in vars(found).values():
        paths.sort(key=Path.as_posix)
    return found


def _enter(folder: Path, real: Path, depth: int, found: Listing, links: list[tuple[Path, int]], entered: set[Path]) -> None:
    """Sort what lies in a folder, and in those below it, into `found`; links into `links`; real paths of folders into `entered`."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise BadInput(f"expected a folder that can be read, got {folder} ({error.strerror}); check its permissions") from error
    for entry in entries:
        path = folder / entry.name
        if is_stray(entry.name):
            found.strays.append(path)
        elif entry.is_symlink():
            links.append((path, depth))
        elif entry.is_file(follow_symlinks=False):
            found.files.append(path)
        elif not entry.is_dir(follow_symlinks=False):
            found.others.append(path)
        elif depth:
            found.folders.append(path)
            entered.add(real / entry.name)
            _enter(path, real / entry.name, depth - 1, found, links, entered)
        else:
            found.deeper.append(path)


def plain(name: str) -> str:
    """A name as text that can be written anywhere: bytes that are not UTF-8 become `\\xe9` and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
