"""Files that are being written, which a killed run leaves: under a temporary name beside their place."""

import os
import socket
from pathlib import Path

PARTIAL = ".part"


def is_partial(path: Path) -> bool:
    """Whether a file is one that was being written, by its name."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def remove_partial(folder: Path) -> None:
    """Removes the partial files of dead runs on this host; those of other hosts and of living runs stay."""
    for path in folder.rglob(f".*{PARTIAL}"):
        name = path.name.removesuffix(PARTIAL)
        owner, _, process = name.rpartition(".")[0].rpartition(".")
        if owner.endswith(f".{socket.gethostname()}") and process.isdigit() and not _alive(int(process)):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and somebody else's
        pass
    return True
