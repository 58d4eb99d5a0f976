"""Kubernetes' resource quantities, exactly: ``500m``, ``1.5Gi``, ``2e3``, ``0.1``.

Source: apimachinery's ``resource.Quantity``. CPU is counted in whole
millicores and everything else in whole units, both rounded up, as the
scheduler and the quota evaluator do (``Quantity.MilliValue``, ``Value``).
"""

import re
from fractions import Fraction
from functools import lru_cache

_PATTERN = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]*\.?[0-9]*)"
    r"(?P<suffix>[eE][+-]?[0-9]+|Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|)"
)
_LARGEST_EXPONENT = 40
"""Beyond every machine, and small enough for exact arithmetic: 1e999999999 must not stall us."""
_SUFFIXES: dict[str, Fraction] = {
    "": Fraction(1),
    **{
        name: Fraction(1024**power)
        for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
    },
    **{name: Fraction(1000**power) for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    "m": Fraction(1, 1000),
    "u": Fraction(1, 10**6),
    "n": Fraction(1, 10**9),
}


def parse(quantity: str | int | float) -> Fraction:
    """The exact value of a quantity; ValueError where the API server would refuse it."""
    text = str(quantity).strip(" ")
    match = _PATTERN.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 1.5Gi")
    suffix = match["suffix"]
    if suffix in _SUFFIXES:
        scale = _SUFFIXES[suffix]
    else:
        power = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, int(suffix[1:])))
        scale = Fraction(10) ** power
    # No digits at all is zero to the API server, as in "Gi".
    value = Fraction(match["number"].rstrip(".") or 0) * scale
    return -value if match["sign"] == "-" else value


@lru_cache(maxsize=4096)
def units(resource: str, quantity: str | int | float) -> int:
    """What one resource's quantity counts as: millicores for cpu, whole units otherwise."""
    value = parse(quantity) * (1000 if resource == "cpu" else 1)
    return -(-value.numerator // value.denominator)


def render(resource: str, amount: int) -> str:
    """The quantity that :func:`units` reads back as ``amount``, in the form people expect."""
    if resource == "cpu":
        return str(amount // 1000) if amount % 1000 == 0 else f"{amount}m"
    if resource == "memory" and amount and amount % 1024 == 0:
        for power, suffix in ((3, "Gi"), (2, "Mi"), (1, "Ki")):
            if amount % 1024**power == 0:
                return f"{amount // 1024**power}{suffix}"
    return str(amount)
