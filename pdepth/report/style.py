"""What figures and the page share: colours, and when a share is marked as uncertain."""

# From Okabe and Ito's palette, which can be told apart with every common colour vision.
RIGHT, WRONG, PROBE = "#0072B2", "#E69F00", "#009E73"
INK, MUTED, FAINT = "#22272E", "#6B7480", "#E3E6EA"

FEW = 10  # a share of fewer examples is drawn hollow
