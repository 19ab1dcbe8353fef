"""The reporting kit: turns rows and arrays into tables and figures in a folder."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Folder(Protocol):
    """The folder of a report. Names are relative to it; each file is written whole or not at all (`unlearn_jax.runs.Run`)."""

    def write_text(self, name: str, text: str) -> None:
        """Writes text as UTF-8."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes bytes as they are."""

    def write_json(self, name: str, value: Any) -> None:
        """Writes valid JSON, NaN as null."""

    def write_csv(self, name: str, columns: Any, rows: Any) -> None:
        """Writes a table with a header, None as an empty cell."""
