"""Names of classes as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_LETTERS = 13  # of a class name under an image

ClassNames = Sequence[str] | Mapping[int, str] | None


def class_name(label: int, class_names: ClassNames, max_letters: int = MAX_LETTERS) -> str:
    """The name of a class, shortened; the label itself where there is no name.

    Bytes that are no text, as in names of folders, are written out.
    """
    if isinstance(class_names, Mapping):
        name = class_names.get(label, str(label))
    elif class_names is not None and 0 <= label < len(class_names):
        name = class_names[label]
    else:
        name = str(label)
    name = name.encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= max_letters else name[: max_letters - 1] + "…"
