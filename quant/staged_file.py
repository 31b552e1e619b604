"""An output file that appears complete or not at all, see :mod:`cg.quant.staging`."""

from __future__ import annotations

from pathlib import Path

from cg.quant.staging import Staged, output_exists
from cg.runtime.errors import OutputExistsError

__all__ = ["StagedFile"]


class StagedFile(Staged):
    """A file, that the caller writes, forces to the disk and closes."""

    def __init__(self, target: Path, *, overwrite: bool, magic: bytes) -> None:
        """``magic`` begins every file of this kind; nothing else is ever replaced."""
        super().__init__(target, overwrite=overwrite)
        self._magic = magic

    def _check_target(self) -> None:
        target = self.target
        if not target.exists():
            return
        if target.is_dir():
            raise OutputExistsError(f"{target} is a folder, not a file", hint="name a file for the output")
        if not self._overwrite:
            raise output_exists(target)
        if not target.is_file() or not self._is_of_this_kind():
            raise OutputExistsError(
                f"{target} is another kind of file, it is not replaced", hint="remove it yourself"
            )

    def _is_of_this_kind(self) -> bool:
        with self.target.open("rb") as file:
            return file.read(len(self._magic)) == self._magic

    def _begin(self) -> None:
        pass

    def _publish(self) -> None:
        self._check_target()
        self.path.replace(self.target)

    def _discard(self) -> None:
        self.path.unlink(missing_ok=True)

    def _clear_leftovers(self) -> None:
        for file in self._siblings("partial-"):
            if file.is_file() and not file.is_symlink():
                file.unlink()
                self.notes.append(f"removed {file.name}, left behind by a killed run")
