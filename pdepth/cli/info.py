"""`pdepth info`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def info(
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the same names as the attributes.")
    ] = False,
) -> None:
    """Say what is here: versions, instruction sets and the one in use, backends, extras.

    For reports of bugs, and to see which level a search runs at. PDEPTH_SIMD names another level.

    \b
    Examples:
      pdepth info
      PDEPTH_SIMD=portable pdepth info
    """
    from pdepth.report.environment import Environment

    found = Environment.here()
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
