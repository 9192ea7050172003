"""Writes docs/metrics.md from metrics/names.py: `python docs/make_metrics.py`."""

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from metrics.names import TABLE

PAGE = Path(__file__).with_name("metrics.md")
HEAD = """# Every metric

Made from `metrics/names.py` by `python docs/make_metrics.py`. What to do about them: docs/operating.md. In Prometheus
`policy/kl_ref` is `ray_wutong_policy_kl_ref`: docs/watching.md. `<...>` stands for a name of the recipe or of a worker.
"""


def page() -> str:
    """The page's text: one table a space of names, in the order in which the spaces first come."""
    first = {row.name.partition("/")[0]: place for place, row in reversed([*enumerate(TABLE.values())])}
    rows = sorted(TABLE.values(), key=lambda row: first[row.name.partition("/")[0]])
    parts = [HEAD]
    for space, members in groupby(rows, key=lambda row: row.name.partition("/")[0]):
        lines = [f"| `{row.name}` | {row.unit} | {row.meaning.replace('|', chr(92) + '|')} |" for row in members]
        parts.append("\n".join([f"## {space}", "", "| name | unit | meaning |", "|---|---|---|", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
