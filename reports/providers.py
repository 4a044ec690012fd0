"""How a provider is named, ordered and drawn: the same everywhere in a report.

Hue tells the family, marker and dash tell its members apart, so that no reading depends on colour alone. All colours
keep a contrast of about 3:1 or more on white and on near-black.
"""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = ("ssa", "nsa", "packed", "dense")
# In order of preference: the kernel inside PyTorch, then the original package.
FLASH_ATTENTION_2 = ("dense-sdpa-flash", "dense-flash-attn")
# Which SSA implementation a report is about: the first of these that has a time.
SUBJECTS = ("ssa-triton", "ssa-eager", "ssa-flex", "ssa-reference")


@dataclass(frozen=True)
class Appearance:
    label: str
    color: str
    marker: str
    dash: str = "-"
    width: float = 1.5


_KNOWN = {
    "ssa-triton": Appearance("SSA Triton", "#1f7fc4", "o", "-", 2.4),
    "ssa-eager": Appearance("SSA eager", "#4a90b8", "o", "--"),
    "ssa-flex": Appearance("SSA FlexAttention", "#5f83d6", "P", "-."),
    "ssa-reference": Appearance("SSA reference", "#7a8794", "X", ":"),
    "nsa-triton": Appearance("NSA Triton", "#12906a", "^", "-"),
    "nsa-eager": Appearance("NSA eager", "#579a5c", "^", "--"),
    "packed-sdpa-flash": Appearance("packed 2³, FA2", "#9a5fd0", "*", "-"),
    "packed-sdpa-cpu": Appearance("packed 2³, SDPA (CPU)", "#9a5fd0", "*", "--"),
    "dense-sdpa-flash": Appearance("FlashAttention-2", "#d9541e", "s", "-", 2.0),
    "dense-flash-attn": Appearance("FA2 package", "#b8652f", "s", "--"),
    "dense-flash-attn-4": Appearance("FlashAttention-4", "#d23f6f", "D", "-"),
    "dense-sdpa-cudnn": Appearance("cuDNN attention", "#b5760a", "v", "-"),
    "dense-sdpa-efficient": Appearance("memory-efficient", "#bf5a86", "<", "-."),
    "dense-sdpa-cpu": Appearance("dense SDPA (CPU)", "#c26a3a", "h", "-"),
    "dense-sdpa-math": Appearance("dense math", "#96801a", "d", ":"),
    "dense-flex": Appearance("dense FlexAttention", "#a8702a", "p", "--"),
}
_FAMILY_COLOR = {"ssa": "#1f7fc4", "nsa": "#12906a", "packed": "#9a5fd0", "dense": "#d9541e"}


def family(provider: str) -> str:
    """The prefix of a provider's name: "ssa", "nsa", "packed", "dense"."""
    return provider.split("-", 1)[0]


def appearance(provider: str) -> Appearance:
    """Label and drawing style; an unlisted provider keeps its own name and takes the colour of its family."""
    return _KNOWN.get(provider) or Appearance(provider, _FAMILY_COLOR.get(family(provider), "#7a8794"), ".", "--")


def label(provider: str) -> str:
    return appearance(provider).label


def sort_key(provider: str) -> tuple[int, int, str]:
    """Families in the order of `FAMILIES`, known members in the order listed here, others after them by name."""
    name = family(provider)
    known = list(_KNOWN)
    return (
        FAMILIES.index(name) if name in FAMILIES else len(FAMILIES),
        known.index(provider) if provider in _KNOWN else len(known),
        provider,
    )
