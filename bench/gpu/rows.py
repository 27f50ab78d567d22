"""What a run has found, a line at a time, so that one that is killed leaves all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "rows.jsonl"
SAME = ("device", "driver", "commit", "versions")  # of runs that can be one
END = ""  # the name of the row that ends a part


class Rows:
    """The rows of a run: a file, one JSON object a line, with part, name and value.

    Of rows of one name the last counts. The first row says where the run is.

    Args:
        folder: made if there is none.
        about: the machine, device and versions.
        earlier: the folder of a run to go on with; the same one, or another whose rows are copied.

    Raises:
        ValueError: the run to go on with was elsewhere, or the folder has rows of another.
    """

    def __init__(self, folder: Path, about: dict[str, Any], earlier: Path | None = None) -> None:
        self.path: Path = folder / NAME
        self._values: dict[tuple[str, str], Any] = {}
        if earlier is not None:
            self._values = read(earlier / NAME)
            before = self._values.get(("about", END), {})
            if other := [name for name in SAME if before.get(name) != about.get(name)]:
                raise ValueError(
                    f"resume: expected a run of the same {', '.join(SAME)}, got other "
                    f"{', '.join(other)} in {earlier / NAME}; begin anew with another --out."
                )
            about = before
        elif self.path.exists():
            raise ValueError(
                f"out: expected a folder without {NAME}, got {folder}; --resume {folder} goes on."
            )
        folder.mkdir(parents=True, exist_ok=True)
        begun = [("about", END, about)]
        begun += [(*key, value) for key, value in self._values.items() if key[0] != "about"]
        temporary = self.path.with_suffix(".new")
        temporary.write_text("".join(_line(*row) for row in begun))
        os.replace(temporary, self.path)
        self._values[("about", END)] = about
        self._file = self.path.open("a")

    @property
    def about(self) -> dict[str, Any]:
        return dict(self._values[("about", END)])

    def write(self, part: str, name: str, value: Any) -> None:
        """Add a row, on the disk when this returns; nothing where it is known."""
        line = _line(part, name, value)
        if line == _line(part, name, self._values.get((part, name))):
            return
        self._values[(part, name)] = json.loads(line)["value"]
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def of(self, part: str) -> dict[str, Any]:
        """The rows of a part by name, without that which ends it."""
        return {
            name: value
            for (own, name), value in self._values.items()
            if own == part and name != END
        }

    def ended(self, part: str) -> dict[str, Any] | None:
        """The row that ends a part, or None."""
        value: dict[str, Any] | None = self._values.get((part, END))
        return value

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> dict[tuple[str, str], Any]:
    """The rows of a file by part and name; a last line that was cut off is left out."""
    values: dict[tuple[str, str], Any] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        values[(row["part"], row["name"])] = row["value"]
    return values


def _line(part: str, name: str, value: Any) -> str:
    return json.dumps({"part": part, "name": name, "value": value}) + "\n"
