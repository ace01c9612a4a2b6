"""abupdate's own writing, as a command of its own: `python -m bench.write STORE COMMIT TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path

from abupdate.events import Events
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import apply
from abupdate.store.materialise.plan import plan_from
from abupdate.store.repository import Repository


def main() -> None:
    """With a fourth word, the commit that the target holds."""
    store, commit, target, *base = sys.argv[1:]
    repository = Repository(Path(store))
    with open_commit(repository, commit) as content:
        plan = plan_from(content.beside(base[0]) if base else None, content)
    apply(plan, repository, Path(target), Events())


if __name__ == "__main__":
    main()
