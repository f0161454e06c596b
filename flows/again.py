"""What `reproduce` and `diff` share: which commit a name stands for, and folders hashed as DVC hashes them."""

from pathlib import Path

from flows.releases import releases
from flows.workspace import git
from rlhf.errors import PreflowError
from tasks.witness import file_md5, folder_md5


def resolve(root: Path, text: str) -> releases.Release:
    """A model, a version, a run or a ref of ours by `releases.find`; else any commit that git knows by this name.

    Raises:
        PreflowError: it is none of them; DependencyDown: it is not here, and the git remote did not answer.
    """
    try:
        return releases.find(root, text)
    except PreflowError:
        try:
            commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}").strip()
        except PreflowError:
            commit = ""
        if not commit:
            raise
        return releases.Release(ref=text, commit=commit, run="")


def md5_of(path: Path) -> str | None:
    """DVC's md5 of a file or folder as it lies on disk, read to the last byte; None where nothing is there."""
    if path.is_file():
        return file_md5(path)
    return folder_md5(files_on_disk(path)) if path.is_dir() else None


def files_on_disk(folder: Path) -> dict[str, str]:
    """md5 of each file of a folder that DVC sees, by its path in it."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hidden = ignored(folder)
    return {name: file_md5(path) for name, path in files.items() if name not in hidden}


def ignored(folder: Path) -> set[str]:
    """Files of a folder that DVC does not see. Git knows the form of .dvcignore, which is that of .gitignore."""
    try:
        told = git(folder, "ls-files", "-z", "-c", "-o", "-i", "--exclude-per-directory=.dvcignore", "--", ".")
    except PreflowError:  # a link to another disk, where no .dvcignore is
        return set()
    return set(told.split("\0"))
