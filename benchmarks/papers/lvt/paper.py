"""The figures of LVT's paper (Rakhimov et al. 2020, arXiv 2006.10704), and the runs that correspond to its rows.

Bits/dim with one given frame, FVD with five, mean and standard deviation of 10 runs; BAIR robot pushing unless noted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenreel.benchmarks.papers.lvt.setup import Variant


@dataclass(frozen=True)
class Figures:
    """One row of table 2, 7 or 8."""

    bits: float  # bits/dim
    fvd: str


@dataclass(frozen=True)
class Attention:
    """One row of table 7."""

    name: str
    figures: Figures
    parameters: float  # millions
    seconds: int  # to sample one video, on a V100


@dataclass(frozen=True)
class Decoder:
    """One row of table 8: the decoder's input and output."""

    variant: Variant
    input: str
    output: str
    figures: Figures


RECONSTRUCTION = {1: (0.0016, "222.71"), 4: (0.0004, "47.41")}  # table 1: nc -> MSE, FVD
REPEATED_FRAME_FVD = {"BAIR (table 3)": "320.90", "Kinetics-600 (table 6)": "271.00"}
SUBSCALING = {  # table 2: nc -> subscaling type -> figures
    1: {
        "single frame": Figures(1.28, "258.89 ± 2.85"),
        "spatial": Figures(1.79, "524.43 ± 9.41"),
        "spatiotemporal": Figures(1.25, "275.71 ± 5.41"),
    },
    4: {
        "single frame": Figures(1.53, "125.76 ± 2.90"),
        "spatial": Figures(2.99, "920.37 ± 7.71"),
        "spatiotemporal": Figures(1.62, "145.85 ± 1.68"),
    },
}
ATTENTION = {  # table 7: our name -> row; nc = 4, single frame
    "query-key": Attention("query-key + relative distance", Figures(1.53, "125.76 ± 2.90"), 49.87, 35),
    "key": Attention("key-only + relative distance", Figures(1.57, "130.27 ± 4.26"), 41.50, 32),
    "relative": Attention("relative distance only", Figures(1.58, "141.62 ± 4.34"), 33.09, 30),
}
_ADAPTIVE = Variant(adaptive_input=True, adaptive_softmax=True)
_TIED_EMBEDDINGS, _TIED_PROJECTIONS = replace(_ADAPTIVE, tied="embeddings"), replace(_ADAPTIVE, tied="projections")
DECODERS = (  # table 8; nc = 1
    *(Decoder(Variant(name), "embedding", "softmax", figures) for name, figures in SUBSCALING[1].items()),
    Decoder(Variant(tied="embeddings"), "embedding", "softmax (tied emb)", Figures(1.27, "265.10 ± 3.85")),
    Decoder(Variant(adaptive_input=True), "adaptive", "softmax", Figures(1.26, "259.73 ± 6.35")),
    Decoder(Variant(adaptive_softmax=True), "embedding", "adaptive", Figures(1.37, "265.99 ± 4.16")),
    Decoder(_ADAPTIVE, "adaptive", "adaptive", Figures(1.36, "259.88 ± 5.25")),
    Decoder(_TIED_EMBEDDINGS, "adaptive", "adaptive (tied emb)", Figures(1.35, "259.55 ± 8.50")),
    Decoder(_TIED_PROJECTIONS, "adaptive", "adaptive (tied emb/proj)", Figures(1.34, "264.79 ± 4.27")),
)
