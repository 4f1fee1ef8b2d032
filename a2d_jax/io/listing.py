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
    """The contents of a folder as names relative to it, with slashes; each list is sorted.

    Names are text and not paths, which take five times the memory: a folder may have millions of files.

    Attributes:
      files: files, including the targets of links.
      folders: folders that were entered.
      strays: stray files and folders of systems and tools.
      again: links to something that is listed under another name, or to a folder above.
      dangling: links without a target.
      deeper: folders that are too deep to be entered.
      others: entries that are neither files nor folders.
    """

    files: list[str] = field(default_factory=list[str])
    folders: list[str] = field(default_factory=list[str])
    strays: list[str] = field(default_factory=list[str])
    again: list[str] = field(default_factory=list[str])
    dangling: list[str] = field(default_factory=list[str])
    deeper: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])


def listing(folder: Path, depth: int = 0) -> Listing:
    """List a folder. What is neither a link nor in a link is known from the folder itself and not looked at.

    Args:
      folder: what to list.
      depth: how many levels of sub-folders to enter.

    Raises:
      BadInput: the folder, or one of those to enter, cannot be read.
    """
    found = Listing()
    links: list[tuple[str, int]] = []
    root = os.path.realpath(folder)
    entered = {root}
    _enter(folder, "", root, depth, found, links, entered)
    targets: dict[str, str] = {}
    while links:  # folders behind links may hold links
        here, links = sorted(links, key=lambda link: link[0].split("/")), []
        for name, levels in here:
            target = os.path.realpath(folder / name)
            if os.path.isfile(target):
                targets[name] = target
            elif not os.path.isdir(target):
                (found.others if os.path.exists(target) else found.dangling).append(name)
            elif target in entered or Path(root).is_relative_to(target):
                found.again.append(name)
            elif levels:
                found.folders.append(name)
                entered.add(target)
                _enter(folder, f"{name}/", target, levels - 1, found, links, entered)
            else:
                found.deeper.append(name)
    counted: set[str] = set()
    for name, target in sorted(targets.items(), key=lambda link: link[0].split("/")):
        above, own = os.path.split(target)
        listed = above in entered and not is_stray(own)
        (found.again if listed or target in counted else found.files).append(name)
        counted.add(target)
    for names in vars(found).values():
        names.sort()
    return found


def _enter(folder: Path, under: str, real: str, depth: int, found: Listing, links: list[tuple[str, int]], entered: set[str]) -> None:
    """Sort what lies `under` a sub-folder, and below it, into `found`; links into `links`; real paths of folders into `entered`."""
    below: list[str] = []  # entered after this folder was closed
    try:
        with os.scandir(folder / under) as entries:
            for entry in entries:
                name = under + entry.name
                if is_stray(entry.name):
                    found.strays.append(name)
                elif entry.is_symlink():
                    links.append((name, depth))
                elif entry.is_file(follow_symlinks=False):
                    found.files.append(name)
                elif not entry.is_dir(follow_symlinks=False):
                    found.others.append(name)
                elif depth:
                    found.folders.append(name)
                    below.append(entry.name)
                else:
                    found.deeper.append(name)
    except OSError as error:
        raise BadInput(f"expected a folder that can be read, got {folder / under} ({error.strerror}); check its permissions") from error
    for name in below:
        entered.add(os.path.join(real, name))
        _enter(folder, f"{under}{name}/", os.path.join(real, name), depth - 1, found, links, entered)


def plain(name: str) -> str:
    """A name as text that can be written anywhere: bytes that are not UTF-8 become `\\xe9` and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
