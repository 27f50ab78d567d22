"""What figures and the page share: colours, and when a share is marked as uncertain."""

from dataclasses import dataclass

# From Okabe and Ito's palette, which can be told apart with every common colour vision.
RIGHT, WRONG, PROBE = "#0072B2", "#E69F00", "#009E73"
INK, MUTED, FAINT = "#22272E", "#6B7480", "#E3E6EA"


@dataclass(frozen=True)
class Theme:
    """The colours of a picture: its ground, what is written, what agrees and what does not."""

    paper: str = "white"
    ink: str = INK
    muted: str = MUTED
    faint: str = FAINT
    right: str = RIGHT
    wrong: str = WRONG


LIGHT = Theme()
DARK = Theme("#1D2126", "#E6E9ED", "#A7B0BB", "#333A42", "#56B4E9", "#E69F00")

FEW = 10  # a share of fewer examples is drawn hollow
