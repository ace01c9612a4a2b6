"""abupdate's own writing, as a command: `python -m bench.write STORE COMMIT TARGET [BASE]`.

`BASE` is the commit that the target holds. With `-` as target it only plans,
and prints the seconds that this took, and the files and bytes to write.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from abupdate.events import Events
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import apply
from abupdate.store.materialise.plan import plan_from
from abupdate.store.repository import Repository


def main() -> None:
    """The command."""
    store, commit, target, *base = sys.argv[1:]
    repository = Repository(Path(store))
    start = time.monotonic()
    with open_commit(repository, commit) as content:
        plan = plan_from(content.beside(base[0]) if base else None, content)
    if target == "-":
        print(time.monotonic() - start, len(plan.files), plan.size)
    else:
        apply(plan, repository, Path(target), Events())


if __name__ == "__main__":
    main()
