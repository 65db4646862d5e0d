"""Regular expressions over the labels of series, as Prometheus reads them.

Called by `decisions.promql_reading` and by `alerting` for matchers. RE2 through CEL: its time is
linear in the text, so that no pattern, an Alertmanager's included, can hold anybody up.
"""

from __future__ import annotations

from functools import lru_cache

from cel_expr_python import cel


@lru_cache(maxsize=65_536)
def matches_whole(pattern: str, text: str) -> bool:
    """Whether the whole of `text` matches; raises ValueError when `pattern` is not RE2's.

    Examples
    --------
    >>> matches_whole("west|east", "west"), matches_whole("west|east", "westend")
    (True, False)
    """
    try:
        value = _matching().eval(data={"text": text, "pattern": f"^(?s:{pattern})$"})
    except Exception as error:  # the library raises RuntimeError, and says no more in its types
        raise ValueError(f"bad regular expression {pattern[:80]!r}: {error}") from None
    if value.type() != cel.Type.BOOL:
        raise ValueError(f"bad regular expression {pattern[:80]!r}")
    return bool(value.value())


@lru_cache(maxsize=1)
def _matching() -> cel.Expression:
    names = {"text": cel.Type.STRING, "pattern": cel.Type.STRING}
    return cel.NewEnv(variables=names).compile("text.matches(pattern)")
