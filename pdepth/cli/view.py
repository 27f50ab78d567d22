"""`pdepth view`."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from pdepth.cli.options import Images, Results, SupportImages


def view(
    results: Results,
    images: Images = None,
    support: SupportImages = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of this computer.", show_default="a free one")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Show results in a browser, from a server on this computer; Ctrl-C ends it.

    The page is that of pdepth report, without its limits: all pictures are there, in their own
    size when an example is opened, and a million examples. Only this computer is answered, and
    only under the address that is printed; nothing is changed.

    \b
    Examples:
      pdepth view depths
      pdepth view depths --images imagefolder:test --port 8000 --no-browser
    """
    from pdepth import demo
    from pdepth.report.view import View, serving

    shown = View(results, images, {demo.DATA: demo.result_images}, support=support)
    if shown.note:
        typer.echo(shown.note, err=True)
    with serving(shown, port) as address:
        typer.echo(f"{address}  (Ctrl-C ends it)")
        if browser:
            import webbrowser

            webbrowser.open(address)
        threading.Event().wait()
