"""The files of the page, read once: served under the hash of all of them, so that they can be cached for ever."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
_INDEX: Final = "index.html"
_MIN_GZIP: Final = 1_000
_IMPORTS: Final = {
    "preact": "vendor/preact/preact.mjs",
    "preact/hooks": "vendor/preact/hooks.mjs",
    "htm": "vendor/htm/htm.mjs",
    "uplot": "vendor/uplot/uPlot.esm.js",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served."""

    content: bytes
    content_type: str
    gzipped: bytes | None


class Assets:
    """The static files, and the page that names them."""

    def __init__(self) -> None:
        found = dict(sorted(_walk(files(__package__) / "static", "")))
        digest = hashlib.sha256()
        for path, content in found.items():
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        self.version: Final = digest.hexdigest()[:12]
        template = found.pop(_INDEX).decode()
        self._files = {path: _asset(path, content) for path, content in found.items()}
        import_map = json.dumps(
            {"imports": {name: f"/static/{self.version}/{path}" for name, path in _IMPORTS.items()}}
        )
        preloads = "\n".join(
            f'<link rel="modulepreload" href="/static/{self.version}/{path}">'
            for path in found
            if path.startswith("js/") or path in _IMPORTS.values()
        )
        page = template.replace("{{import_map}}", import_map).replace("{{preloads}}", preloads)
        self.page: Final = page.replace("{{static}}", f"/static/{self.version}").encode()
        hashed = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
        self.policy: Final = "; ".join(
            (
                "default-src 'self'",
                f"script-src 'self' 'sha256-{hashed}'",
                "style-src 'self'",
                "connect-src 'self'",
                "img-src 'self' data:",
                "object-src 'none'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
                "form-action 'self'",
            )
        )

    def get(self, version: str, path: str) -> Asset | None:
        """A file of this version; None for any other."""
        return self._files.get(path) if version == self.version else None


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.startswith("."):
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _asset(path: str, content: bytes) -> Asset:
    suffix = path[path.rfind(".") :] if "." in path else ""
    gzipped = gzip.compress(content, 9, mtime=0) if len(content) >= _MIN_GZIP else None
    return Asset(content, _TYPES.get(suffix, "text/plain; charset=utf-8"), gzipped)
