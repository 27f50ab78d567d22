"""Pack a page's content for its JavaScript: a JSON header, and columns as compressed arrays."""

from __future__ import annotations

import base64
import gzip
import json
from hashlib import blake2b
from typing import Any

from pdepth.report.html.content import Column, PageContent
from pdepth.report.names import class_name
from pdepth.report.style import FEW

MAX_LETTERS = 60  # of a class name
MAX_EXACT = 2**53  # whole numbers up to this are exact in JavaScript


def pack(content: PageContent) -> tuple[dict[str, Any], bytes]:
    """The header for JSON, and the columns, one after the other.

    Each column begins at a multiple of eight bytes, little-endian, in the type that its entry in
    the header's `columns` names: u1, u2, u4, f8, or JSON of `length` bytes.
    """
    header: dict[str, Any] = {
        "count": content.count,
        "classes": [
            {"value": str(label), "name": class_name(int(label), content.names, MAX_LETTERS)}
            for label in content.classes
        ],
        "named": content.names is not None,
        "selects": list(content.selects.items()),
        "depth": content.depth,
        "probes": content.probes,
        "few": FEW,
        "facts": content.facts,
        "run": content.run,
        "sheets": [
            {"where": sheet.where, "by": sheet.by, "more": sheet.more} for sheet in content.sheets
        ],
    }
    entries, chunks = [], []
    for name, column in content.columns.items():
        kind, packed = _pack_column(column)
        entries.append(
            {
                "name": name,
                "title": column.title,
                "kind": column.kind,
                "choices": column.choices,
                "digits": column.digits,
                "type": kind,
                "length": len(packed),
            }
        )
        chunks.append(packed + bytes(-len(packed) % 8))
    header["columns"] = entries
    data = b"".join(chunks)
    run = content.run or {}
    if run.get("labels") is None and run.get("inputs") is None:  # which would tell data apart
        header["of"] = blake2b(data, digest_size=8).hexdigest()
    return header, data


def _pack_column(column: Column) -> tuple[str, bytes]:
    values = column.values
    whole = values.dtype.kind in "iu" and len(values) > 0
    if values.dtype.kind == "U" or (
        whole and max(abs(values.max()), abs(values.min())) > MAX_EXACT
    ):
        return "json", json.dumps([str(value) for value in values]).encode()
    if whole and values.min() >= 0 and values.max() < 2**32:
        size = next(size for size in (1, 2, 4) if values.max() < 256**size)
        return f"u{size}", values.astype(f"<u{size}").tobytes()
    return "f8", values.astype("<f8").tobytes()


def compress(content: bytes) -> bytes:
    """Gzip, the same for the same content."""
    return gzip.compress(content, 6, mtime=0)


def encode_base64(content: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(content).decode("ascii")


def json_for_script(content: Any) -> str:
    """JSON that cannot end the script element that holds it.

    Raises ValueError for numbers that are not finite: a browser would read nothing of the page.
    """
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
