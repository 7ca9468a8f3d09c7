"""The files of the page: what is vendored is what it says it is, and everything is served as it should be."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import httpx
import pytest

import helios_reporter.console
from helios_reporter.console.assets import Assets

STATIC = Path(helios_reporter.console.__file__).parent / "static"
VENDOR = STATIC / "vendor"
OWN = sorted(path for kind in ("js", "css") for path in (STATIC / kind).rglob("*.*"))


def test_vendored_files_are_those_that_are_named() -> None:
    """Package, version, licence and hash of each; nothing else lies beside them."""
    packages = json.loads((VENDOR / "VENDORED.json").read_text(encoding="utf-8"))["packages"]
    named = {}
    for package in packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert package["licence"] in {"MIT", "Apache-2.0"}
        files = [entry["file"] for entry in package["files"]]
        assert f"{package['package']}/LICENSE" in files
        named |= {entry["file"]: entry["sha256"] for entry in package["files"]}
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "VENDORED.json"
    }
    assert found == named


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_our_files_are_small_and_never_make_markup_of_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert text.startswith(("//", "/*"))
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "dangerouslySetInnerHTML",
        "eval(",
        "new Function",
    ):
        assert forbidden not in text
    assert not re.search(r"\sstyle=", text)
    assert "http://" not in text
    assert "https://" not in text


async def test_files_are_served_under_the_hash_of_all(client: httpx.AsyncClient) -> None:
    version = Assets().version
    page = (await client.get("/")).text
    paths = set(re.findall(r'"(/static/[^"]+)"', page))
    assert all(path.startswith(f"/static/{version}/") for path in paths)
    for path in paths:
        answer = await client.get(path, headers={"accept-encoding": "identity"})
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        suffix = path[path.rindex(".") :]
        kind = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[
            suffix
        ]
        assert answer.headers["content-type"].startswith(kind), path
        assert answer.content == (STATIC / path.split("/", 3)[3]).read_bytes()


async def test_what_is_asked_for_in_another_version_is_not_there(client: httpx.AsyncClient) -> None:
    version = Assets().version
    for path in ("/static/old/js/app.js", f"/static/{version}/js/none.js", f"/static/{version}/../app.py", "/static/x"):
        assert (await client.get(path)).status_code == 404, path
    assert (await client.get(f"/static/{version}/index.html")).status_code == 404


async def test_large_files_are_sent_compressed(client: httpx.AsyncClient) -> None:
    path = f"/static/{Assets().version}/vendor/uplot/uPlot.esm.js"
    async with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "accept-encoding"
    assert gzip.decompress(raw) == (VENDOR / "uplot" / "uPlot.esm.js").read_bytes()


async def test_the_page_and_its_icon_answer_to_head(client: httpx.AsyncClient) -> None:
    assert (await client.head("/")).status_code == 200
    assert (await client.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


def test_every_import_of_a_module_exists() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        for target in re.findall(r'from "(\.[^"]+)"', path.read_text(encoding="utf-8")):
            assert (path.parent / target).resolve().is_file(), f"{path.name} imports {target}"
