"""Numbers as a reader wants them."""

from __future__ import annotations


def tokens(count: int) -> str:
    """8192 -> "8K", 1048576 -> "1M", 1000 -> "1,000"."""
    if count >= 1024**2 and count % 1024**2 == 0:
        return f"{count // 1024**2}M"
    return f"{count // 1024}K" if count >= 1024 and count % 1024 == 0 else f"{count:,}"


def significant(value: float, digits: int = 3) -> str:
    """Plain decimal notation with at least `digits` significant digits: 0.04125 -> "0.0413", 12345.6 -> "12,346"."""
    if value == 0:
        return "0"
    # Read the exponent after rounding, which may carry into a further digit (9.996 -> 10.0).
    exponent = int(f"{abs(value):.{digits - 1}e}".split("e")[1])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def ratio(value: float) -> str:
    """A speedup: "0.71×", "12.3×", "104×"."""
    if value < 0.1:
        return f"{significant(value, 2)}×"
    return f"{value:.2f}×" if value < 9.995 else f"{significant(value)}×"


def change(value: float) -> str:
    """New over old, where a percent matters: "0.952×", "1.050×", "12.3×"."""
    return f"{value:.3f}×" if 0.1 <= value < 9.9995 else ratio(value)


def mebibytes(size: int) -> str:
    return significant(size / 2**20)


def join(parts: list[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"
