"""One measured figure, and the JSON line it is printed as."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`limit` is what `value` is held against, a bar or a physical limit; `note` says which, and the details.

    `ratio` compares the two, taken in the same run. None: there is nothing to compare with.
    """

    name: str
    value: float
    unit: str
    limit: float | None
    ratio: float | None
    note: str

    def line(self) -> str:
        """One line of JSON."""
        shown = asdict(self)
        for name in ("value", "limit", "ratio"):
            if shown[name] is not None:
                shown[name] = _rounded(shown[name])
        return json.dumps(shown, ensure_ascii=False)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` lie below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _rounded(number: float) -> float:
    """Three significant digits, and whole numbers above a thousand: a bench has no more to say."""
    return round(number) if abs(number) >= 1000 else float(f"{number:.3g}")
