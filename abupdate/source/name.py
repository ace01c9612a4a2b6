"""What people write as SOURCE, and the source that it stands for."""

from __future__ import annotations

from pathlib import Path

from abupdate.errors import UsageError
from abupdate.release.version import Version
from abupdate.source.http import HttpSource
from abupdate.source.local import FileSource, StoredSource, StreamSource
from abupdate.source.remote import RemoteSource
from abupdate.source.source import Source

_STORED = "release/"


def parse_source(text: str) -> Source:
    """The source that a text names. Raises `UsageError`."""
    if text == "-":
        return StreamSource()
    url, hash_sign, ref = text.rpartition("#")
    if hash_sign and not Path(text).is_file():
        return RemoteSource(url, ref)
    if text.startswith(("http://", "https://")):
        return HttpSource(text)
    if text.startswith(_STORED):
        try:
            return StoredSource(Version.parse(text.removeprefix(_STORED)))
        except UsageError as error:
            if Path(text).is_file():
                error.hint = f"The file of that name is given as ./{text}"
            raise
    return FileSource(Path(text))
