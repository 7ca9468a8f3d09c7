"""The registry: what is saved comes back to the bit, or not at all and with the reason."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pickle
import random
import shutil
import string
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from structlog.testing import capture_logs
from tests.examples import examples

from helios_core.clock import EventClock
from helios_core.errors import DataDirError
from helios_core.features import CONTEXT_1, CORE_7, FULL_12, FeatureSet
from helios_detector import registry as module
from helios_detector import training
from helios_detector.errors import ModelError, ModelMismatch, ModelUnreadable
from helios_detector.forest.scorer import META_FEATURE_HASH, ForestScorer
from helios_detector.registry import Registry
from helios_detector.training import Forest, train

T0 = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
SERVICE = "payments/api"


def rows_of(feature_set: FeatureSet, n: int = 300, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).lognormal(size=(n, len(feature_set.features))).astype(np.float32)
    rows[::5, 2:4] = np.nan
    rows[:, -1] = np.nan if seed == 0 else rows[:, -1]  # one column that nobody ever had
    return rows


@cache
def trained(feature_set: FeatureSet = CONTEXT_1) -> Forest:
    """A small one: none of what follows depends on how many trees there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "N_TREES", 10)
        return train(rows_of(feature_set), feature_set, T0)


@cache
def forest(day: int = 0, note: str = "", **metadata: str) -> Forest:
    """The same trees, as if trained on another day: another version."""
    return of_bytes(trained(), T0 + day * DAY_US, {"helios.trained_until": f"day {day}", "note": note} | metadata)


def of_bytes(made: Forest, trained_us: int, metadata: dict[str, str]) -> Forest:
    model = onnx.load_from_string(made.onnx)
    written = {entry.key: entry.value for entry in model.metadata_props} | metadata
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, written)
    data = model.SerializeToString()
    scorer = ForestScorer(data, feature_set=made.feature_set.name, feature_hash=written[META_FEATURE_HASH])
    return replace(made, version=version_of(data), onnx=data, trained_us=trained_us, scorer=scorer)


def version_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what model.json says, with a checksum that fits."""
    sealed = json.loads((path / "model.json").read_bytes())
    change(sealed["model"])
    body = json.dumps(sealed["model"])
    digest = hashlib.sha256(body.encode()).hexdigest()
    (path / "model.json").write_text(f'{{"schema": 1, "sha256": "{digest}", "later": [], "model": {body}}}')


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: inode, time and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def same(one: Forest, other: Forest) -> bool:
    rows = rows_of(one.feature_set, 400, seed=1)
    assert one.scorer.score(rows).tobytes() == other.scorer.score(rows).tobytes()
    assert [one.scorer.score_one(row) for row in rows[:20]] == [other.scorer.score_one(row) for row in rows[:20]]
    assert one.typical.dtype == other.typical.dtype
    assert one.typical.tobytes() == other.typical.tobytes()
    plain = [(f.version, f.feature_set, f.onnx, f.calibration, f.trained_us, f.rows) for f in (one, other)]
    return plain[0] == plain[1]


# ---- there and back


@pytest.mark.parametrize(
    "feature_set",
    [CONTEXT_1, CONTEXT_1.without_latency(), CORE_7, FULL_12.without_latency()],
    ids=lambda made: made.name,
)
def test_a_forest_comes_back_as_it_was(tmp_path: Path, feature_set: FeatureSet) -> None:
    made = trained(feature_set)
    assert np.isnan(made.typical).any()
    path = Registry(tmp_path).save(SERVICE, made)
    again = Registry(tmp_path)  # of another process
    assert path.parent.parent == tmp_path
    assert same(made, again.load(SERVICE, made.version))
    found = again.find(SERVICE, trained_us=made.trained_us)
    assert found is not None
    assert same(made, found)


def test_the_file_says_what_the_model_is(tmp_path: Path) -> None:
    made = forest(3)
    path = Registry(tmp_path, clock=EventClock(T0 + 1)).save(SERVICE, made)
    assert sorted(os.listdir(path)) == ["model.json", "model.onnx"]
    sealed = json.loads((path / "model.json").read_bytes())
    about = sealed["model"]
    assert sealed["schema"] == 1
    assert about["service"] == SERVICE
    assert about["version"] == made.version == path.name == version_of((path / "model.onnx").read_bytes())
    assert (about["feature_set"], about["feature_hash"]) == ("context-1", CONTEXT_1.hash)
    assert list(about["features"].items()) == [(f.name, f.unit) for f in CONTEXT_1.features]
    assert (about["trained_until"], about["trained_us"]) == ("2026-01-04T00:00:00.000000Z", T0 + 3 * DAY_US)
    assert about["created"] == "2026-01-01T00:00:00.000001Z"
    assert about["rows"] == 300
    assert about["calibration"] == made.calibration.to_dict()
    assert about["typical"][-1] is None
    assert set(about["libraries"]) == {"scikit-learn", "onnxruntime"}
    assert SERVICE.encode() in (path / "model.json").read_bytes()  # a person can look for it


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    registry.save(SERVICE, forest())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    assert registry.find(SERVICE, trained_us=T0) is not None


def test_what_was_never_saved_is_not_there(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    with capture_logs() as logs:
        assert registry.versions() == registry.versions(SERVICE) == []
        assert registry.find(SERVICE, trained_us=T0) is None
    assert logs == []
    with pytest.raises(ModelUnreadable, match=r"'payments/api' has no model 'abc', only \[\]: choose one, or train"):
        registry.load(SERVICE, "abc")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_found_by_service_and_time(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for day in range(3):
        registry.save(SERVICE, forest(day))
    registry.save("other", forest(7))
    for day in range(3):
        found = registry.find(SERVICE, trained_us=T0 + day * DAY_US)
        assert found is not None
        assert found.version == forest(day).version
    with capture_logs() as logs:
        for trained_us in (T0 - 1, T0 + 1, T0 + 7 * DAY_US):
            assert registry.find(SERVICE, trained_us=trained_us) is None
    assert logs == []


def test_of_two_of_the_same_time_the_last_made_is_found(tmp_path: Path) -> None:
    for order in (["x", "y"], ["y", "x"]):
        clock = EventClock(T0)
        registry = Registry(tmp_path / order[0], clock=clock)
        for note in order:
            clock.advance_to(clock.now_us() + 1)
            registry.save(SERVICE, forest(note=note))
        found = registry.find(SERVICE, trained_us=T0)
        assert found is not None
        assert found.version == forest(note=order[-1]).version


def test_versions_come_newest_first(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for day in (2, 0, 3, 1):
        registry.save("a" if day % 2 else "b", forest(day))
    assert [info.version for info in registry.versions()] == [forest(day).version for day in (3, 2, 1, 0)]
    newest = registry.versions()[0]
    assert newest.about is not None
    assert (newest.service, newest.about.trained_us, newest.damaged) == ("a", T0 + 3 * DAY_US, None)
    assert [info.version for info in registry.versions("b")] == [forest(2).version, forest(0).version]


def test_the_same_version_again_changes_nothing(tmp_path: Path) -> None:
    Registry(tmp_path, clock=EventClock(T0)).save(SERVICE, forest())
    before = tree(tmp_path)
    later = Registry(tmp_path, clock=EventClock(T0 + DAY_US))
    assert later.save(SERVICE, forest()) == later.versions()[0].path
    assert tree(tmp_path) == before
    later.save(SERVICE, later.load(SERVICE, forest().version))
    assert tree(tmp_path) == before


def test_a_forest_that_could_not_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(ModelError, match="are no model 0123456789ab: train again"):
        registry.save(SERVICE, replace(forest(), version="0123456789ab"))
    monkeypatch.setitem(module._MAX_BYTES, "model.onnx", len(forest().onnx) - 1)
    with pytest.raises(ModelError, match="train again"):
        registry.save(SERVICE, forest())
    assert registry.versions() == []


def test_it_keeps_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0"):
        Registry(tmp_path, keep=0)


# ---- names of services

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=256).filter(lambda name: len(name.encode()) <= 256)
ODD = ["", ".", "..", "/", "../../etc", "a/b", "a-b", "a b", "A-B", "-", "\0", "a\nb", "ä" * 128, "x" * 256, "lock"]
ODD += ["x" * 255, "x" * 41, "x" * 40, unicodedata.normalize("NFD", "ä" * 2), "ää", ".writing-1", "支付", "🔥" * 64]


def test_odd_names_stay_apart(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "deep" / "models")
    for number, name in enumerate(ODD):
        registry.save(name, forest(number))
    assert len(registry.versions()) == len(ODD)
    for number, name in enumerate(ODD):
        assert [info.version for info in registry.versions(name)] == [forest(number).version]
    assert {info.service for info in registry.versions()} == set(ODD)
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    assert len(list((tmp_path / "deep" / "models").iterdir())) == len(ODD)


@given(name=NAMES, other=NAMES)
@settings(max_examples=examples(40), deadline=None)
def test_any_text_is_a_name(name: str, other: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        slot = registry.save(name, forest()).parent
        assert slot.parent == Path(folder)
        assert os.listdir(folder) == [slot.name]
        assert len(slot.name) <= 64
        assert set(slot.name) <= set(string.ascii_letters + string.digits + "-_")
        assert [info.service for info in registry.versions()] == [name]
        assert registry.load(name, forest().version).onnx == forest().onnx
        if other != name:
            assert registry.versions(other) == []
            assert registry.save(other, forest()).parent.name.casefold() != slot.name.casefold()


@pytest.mark.parametrize("version", ["", ".", "..", "../..", "/", "\0", "x/y", ".promoted", "ä", "\udcff"])
def test_a_version_that_is_not_there_is_not_opened(tmp_path: Path, version: str) -> None:
    registry = Registry(tmp_path)
    registry.save(SERVICE, forest())
    registry.promote(SERVICE, forest().version)
    for call in (registry.load, registry.remove, registry.promote):
        with pytest.raises(ModelUnreadable, match="has no model"):
            call(SERVICE, version)
    assert len(registry.versions()) == 1


# ---- damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)

    return damage


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path / name, int((path / name).stat().st_size * share))

    return damage


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: void((path / name).write_bytes(data))


def said(**fields: Any) -> Callable[[Path], None]:
    return lambda path: reseal(path, lambda about: about.update(fields))


def unsaid(name: str) -> Callable[[Path], None]:
    return lambda path: reseal(path, lambda about: about.pop(name))


def folder_for(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        (path / name).mkdir()

    return damage


def pipe_for(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return damage


def link_for(*parts: str) -> Callable[[Path], None]:
    """The same bytes, but reached by a link out of the folder."""

    def damage(path: Path) -> None:
        target = path.joinpath(*parts)
        away = target.rename(path.parent.parent.with_name(f"away-{target.name}"))
        target.symlink_to(away)

    return damage


def file_for_the_version(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def loop(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path)


def void(_: object) -> None:
    """For a lambda whose value is nobody's."""


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "model.onnx, a bit flipped": (flip("model.onnx"), "hashes to"),
    "model.onnx, cut": (cut("model.onnx", 0.5), "hashes to"),
    "model.onnx, empty": (cut("model.onnx", 0), "hashes to"),
    "model.onnx, longer": (lambda p: os.truncate(p / "model.onnx", 10**6), "hashes to"),
    "model.onnx, too long": (lambda p: os.truncate(p / "model.onnx", 64 * 2**20 + 1), "at most 67108864 bytes"),
    "model.onnx, missing": (lambda p: (p / "model.onnx").unlink(), "no file"),
    "model.onnx, a folder": (folder_for("model.onnx"), "no file"),
    "model.onnx, a pipe": (pipe_for("model.onnx"), "no file"),
    "model.onnx, a link": (link_for("model.onnx"), "symbolic link"),
    "model.json, a bit flipped": (flip("model.json"), "changed after it was written"),
    "model.json, cut": (cut("model.json", 0.5), "cannot be understood"),
    "model.json, empty": (cut("model.json", 0), "cannot be understood"),
    "model.json, too long": (lambda p: os.truncate(p / "model.json", 2**20 + 1), "at most 1048576 bytes"),
    "model.json, missing": (lambda p: (p / "model.json").unlink(), "no file"),
    "model.json, a folder": (folder_for("model.json"), "no file"),
    "model.json, a pipe": (pipe_for("model.json"), "no file"),
    "model.json, a link": (link_for("model.json"), "symbolic link"),
    "model.json, no JSON": (written("model.json", b"\x80\x04."), "cannot be understood"),
    "model.json, no UTF-8": (written("model.json", b'{"\xff": 1}'), "cannot be understood"),
    "model.json, a list": (written("model.json", b"[]"), "cannot be understood"),
    "model.json, other fields": (written("model.json", b'{"service": 1}'), "cannot be understood"),
    "model.json, deep": (
        written("model.json", b'{"x":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
        "cannot be understood",
    ),
    "model.json, of later": (
        written("model.json", b'{"schema":2,"sha256":"","model":{}}'),
        "schema 2, this Helios reads 1",
    ),
    "a field missing": (unsaid("typical"), "cannot be understood"),
    "a field of another type": (said(rows="many"), "cannot be understood"),
    "of another service": (said(service="other"), "of 'other', out of place"),
    "of another version": (said(version="0123456789ab"), "0123456789ab of 'payments/api', out of place"),
    "another calibration": (said(calibration={"observations": 3}), "a calibration has"),
    "a calibration beyond numbers": (
        lambda path: reseal(path, lambda about: about["calibration"].update(floor=10**400)),
        "too large",
    ),
    "fewer typical values": (said(typical=[1.0]), "1 typical values of 10"),
    "a typical value beyond float32": (said(typical=[1e39] * 10), "cannot be understood"),
    "an unknown feature set": (said(feature_set="full-13"), "trained for full-13 .* does not have; train again"),
    "another feature set": (said(feature_set="core-7"), r"trained for context-1|core-7 is \(.*\) here; train again"),
    "other features": (
        said(feature_hash="0123456789abcdef"),
        rf"trained for context-1 \(0123456789abcdef\), context-1 is \({CONTEXT_1.hash}\) here; train again",
    ),
    "an empty folder": (emptied, "no file"),
    "a file for the folder": (file_for_the_version, "no file|Not a directory"),
    "a link for the folder": (link_for(), "symbolic link"),
    "a link to itself": (loop, "no file"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_and_leaves_the_rest_alone(tmp_path: Path, what: str) -> None:
    damage, message = DAMAGE[what]
    registry = Registry(tmp_path / "models")
    bad, good = forest(0), forest(1)
    path = registry.save(SERVICE, bad)
    registry.save(SERVICE, good)
    damage(path)

    with pytest.raises((ModelUnreadable, ModelMismatch), match=message) as raised:
        registry.load(SERVICE, bad.version)
    assert str(path) in str(raised.value)

    for infos in (registry.versions(), registry.versions(SERVICE)):
        assert {info.version: info.damaged for info in infos} == {bad.version: str(raised.value), good.version: None}

    with capture_logs() as logs:
        assert registry.find(SERVICE, trained_us=bad.trained_us) is None
    assert logs == [
        {
            "event": "model_unusable",
            "log_level": "warning",
            "service": SERVICE,
            "path": str(path),
            "error": str(raised.value),
        }
    ]
    found = registry.find(SERVICE, trained_us=good.trained_us)
    assert found is not None
    assert same(found, good)

    registry.save(SERVICE, bad)
    if isinstance(raised.value, ModelUnreadable):
        assert same(registry.load(SERVICE, bad.version), bad)
    registry.remove(SERVICE, bad.version)
    assert [info.version for info in registry.versions()] == [good.version]


def test_other_features_are_a_mismatch(tmp_path: Path) -> None:
    later = FeatureSet("context-1", 2, CONTEXT_1.features)
    made = trained(later)
    registry = Registry(tmp_path)
    registry.save(SERVICE, made)
    with pytest.raises(ModelMismatch, match=f"{later.hash}.*{CONTEXT_1.hash}.*train again"):
        registry.load(SERVICE, made.version)
    before = tree(tmp_path)
    registry.save(SERVICE, made)  # it is sound, for another release
    assert tree(tmp_path) == before


def test_a_model_of_other_features_than_its_file_says_is_a_mismatch(tmp_path: Path) -> None:
    made = forest(**{META_FEATURE_HASH: "0123456789abcdef"})
    registry = Registry(tmp_path)
    path = registry.save(SERVICE, made)
    with pytest.raises(ModelMismatch, match=rf"{path}: .*0123456789abcdef.*{CONTEXT_1.hash}.*train again"):
        registry.load(SERVICE, made.version)


def test_bytes_that_were_never_a_model_are_passed_over(tmp_path: Path) -> None:
    made = replace(forest(), onnx=b"no model", version=version_of(b"no model"))
    Registry(tmp_path, clock=EventClock(T0)).save(SERVICE, forest())
    registry = Registry(tmp_path, clock=EventClock(T0 + 1))
    path = registry.save(SERVICE, made)
    with pytest.raises(ModelUnreadable, match=rf"{path}: 8 bytes are no model .*train again"):
        registry.load(SERVICE, made.version)
    with capture_logs() as logs:
        found = registry.find(SERVICE, trained_us=T0)
    assert found is not None
    assert found.version == forest().version
    assert [(entry["event"], entry["path"]) for entry in logs] == [("model_unusable", str(path))]


def test_a_version_that_was_copied_to_another_place_is_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    path = registry.save(SERVICE, forest(0))
    other = registry.save("other", forest(1))
    shutil.copytree(path, other.parent / path.name)
    shutil.copytree(path, path.with_name("backup"))
    with pytest.raises(ModelUnreadable, match="of 'payments/api', out of place"):
        registry.load("other", path.name)
    with pytest.raises(ModelUnreadable, match="out of place"):
        registry.load(SERVICE, "backup")
    assert [info.damaged is None for info in registry.versions()].count(True) == 2
    registry.remove(SERVICE, "backup")
    assert len(registry.versions(SERVICE)) == 1


def test_fields_of_a_later_release_are_passed_over(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    path = registry.save(SERVICE, forest())
    reseal(path, lambda about: about.update(shadow={"of": "x"}, evaluation=[1]))
    assert same(registry.load(SERVICE, forest().version), forest())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(module.About.__struct_fields__)


@given(name=st.sampled_from(FIELDS), value=JSON)
@settings(max_examples=examples(100), deadline=None)
def test_whatever_the_file_says_fails_in_one_way_only(name: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        path = registry.save(SERVICE, forest())
        reseal(path, lambda about: about.update({name: value}))
        [info] = registry.versions()
        if info.damaged is None:
            assert registry.load(SERVICE, forest().version).onnx == forest().onnx
        else:
            with pytest.raises(ModelError) as raised:
                registry.load(SERVICE, forest().version)
            assert info.damaged == str(raised.value)
        with capture_logs():
            registry.find(SERVICE, trained_us=T0)


@given(name=st.sampled_from(["model.json", "model.onnx"]), data=st.data())
@settings(max_examples=examples(100), deadline=None)
def test_no_byte_can_change_unseen(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        path = registry.save(SERVICE, forest()) / name
        content = bytearray(path.read_bytes())
        # Half of the time in the first 200 bytes, which no checksum covers.
        last = min(len(content), 200) if data.draw(st.booleans()) else len(content)
        place = data.draw(st.integers(0, last - 1))
        if data.draw(st.booleans()):
            content[place] ^= data.draw(st.integers(1, 255))
        else:
            del content[place:]
        path.write_bytes(content)
        with pytest.raises(ModelUnreadable):
            registry.load(SERVICE, forest().version)
        [info] = registry.versions()
        assert info.damaged is not None


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder, and a user whom permissions stop."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)


@pytest.mark.parametrize("below", ["model.onnx", "model.json", ".", "..", "../.."])
def test_what_may_not_be_read_is_damaged(below: str) -> None:
    with unprivileged() as folder:
        registry = Registry(folder / "models")
        path = registry.save(SERVICE, forest())
        target = path.joinpath(below).resolve()
        target.chmod(0)
        try:
            with pytest.raises(ModelUnreadable, match="Permission denied"):
                registry.load(SERVICE, forest().version)
            assert [info.damaged is not None for info in registry.versions()] == [True]
            with capture_logs() as logs:
                assert registry.find(SERVICE, trained_us=T0) is None
            assert [entry["event"] for entry in logs] == ["model_unusable"]
            if below.startswith(".."):
                with pytest.raises((DataDirError, ModelUnreadable), match="Permission denied"):
                    registry.save(SERVICE, forest(1))
        finally:
            target.chmod(0o755)
        assert same(registry.load(SERVICE, forest().version), forest())


def test_what_cannot_be_pruned_does_not_fail_a_save() -> None:
    with unprivileged() as folder:
        registry = Registry(folder, keep=1)
        path = registry.save(SERVICE, forest(0))
        path.chmod(0)
        try:
            with capture_logs() as logs:
                registry.save(SERVICE, forest(1))
            assert [entry["event"] for entry in logs] == ["model_not_pruned"]
            assert len(registry.versions()) == 2
        finally:
            path.chmod(0o755)


@pytest.mark.parametrize("link", [False, True])
def test_a_service_folder_that_is_none_is_damaged(tmp_path: Path, link: bool) -> None:
    registry = Registry(tmp_path / "models")
    slot = registry.save(SERVICE, forest()).parent
    registry.save("other", forest(1))
    away = slot.rename(tmp_path / "away")
    if link:
        slot.symlink_to(away)
    else:
        slot.write_text("a file")
    assert [info.damaged is None for info in registry.versions()] == [True, False]
    [info] = registry.versions(SERVICE)
    assert (info.service, info.version, info.path) == (SERVICE, "", slot)
    with pytest.raises(ModelUnreadable):
        registry.load(SERVICE, forest().version)
    with pytest.raises((DataDirError, ModelUnreadable)):
        registry.save(SERVICE, forest(2))
    with capture_logs() as logs:
        assert registry.find(SERVICE, trained_us=T0) is None
    assert [entry["event"] for entry in logs] == ["model_unusable"]
    assert os.listdir(away) == [forest().version]


def test_a_file_for_the_registry_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    registry = Registry(tmp_path / "models")
    [info] = registry.versions()
    assert info.damaged is not None
    assert "Not a directory" in info.damaged
    with pytest.raises(DataDirError, match="models cannot be written: File exists"):
        registry.save(SERVICE, forest())
    with pytest.raises(ModelUnreadable, match="Not a directory"):
        registry.load(SERVICE, forest().version)


def test_the_registry_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    registry = Registry(tmp_path / "models")
    registry.save(SERVICE, forest())
    assert registry.find(SERVICE, trained_us=T0) is not None


def test_a_relative_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path("models"), Path(), Path("x/../models")):
        registry = Registry(folder)
        registry.save(SERVICE, forest())
        assert registry.find(SERVICE, trained_us=T0) is not None


# ---- a crash at any step


def test_a_crash_between_any_two_steps_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is copied before and after each call that changes what is on disk."""
    folder = tmp_path / "models"
    photos: list[tuple[Path, int]] = []
    day, shooting = 0, False

    def photographed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **named: Any) -> Any:
            photograph()
            result = call(*words, **named)
            photograph()
            return result

        return wrapped

    def photograph() -> None:
        nonlocal shooting
        if folder.exists() and not shooting:
            shooting = True  # copying makes folders, too
            copied = tmp_path / f"photo-{len(photos)}"
            shutil.copytree(folder, copied)
            photos.append((copied, day))
            shooting = False

    with monkeypatch.context() as patch:
        for owner, names in ((os, ("fsync", "unlink", "rmdir")), (Path, ("rename", "mkdir", "write_bytes"))):
            for name in names:
                patch.setattr(owner, name, photographed(getattr(owner, name)))
        registry = Registry(folder, keep=2)
        for day in range(1, 5):
            registry.save(SERVICE, forest(day))
    assert len(photos) > 80
    models = {forest(day).version: forest(day).onnx for day in range(1, 5)}
    for copied, saving in photos:
        after = Registry(copied, keep=2)
        assert [info.damaged for info in after.versions() if info.damaged] == []
        steps = ([saving - 1, saving - 2], [saving, saving - 1, saving - 2], [saving, saving - 1])
        assert days_of(after) in [[number for number in step if number > 0] for step in steps]
        for info in after.versions():
            assert after.load(SERVICE, info.version).onnx == models[info.version]
        after.save(SERVICE, forest(9))
        assert len(os.listdir(copied)) == 1  # nothing is left of what was begun


def test_a_version_is_safe_before_it_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        steps.append(f"{path.name} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    path = Registry(tmp_path).save(SERVICE, forest())
    assert steps == ["model.onnx", "model.json", "new", f"new -> {path.name}", path.parent.name, tmp_path.name]


def test_what_a_dead_writer_left_is_ignored_and_cleaned(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    slot = registry.save(SERVICE, forest(0)).parent
    for number in range(3):
        left = tmp_path / f".writing-{number}" / "new"
        left.mkdir(parents=True)
        (left / "model.onnx").write_bytes(forest(1).onnx[: number * 100])
    assert [info.version for info in registry.versions()] == [forest(0).version]
    assert registry.find(SERVICE, trained_us=T0) is not None
    registry.save(SERVICE, forest(1))
    assert os.listdir(tmp_path) == [slot.name]


@pytest.mark.parametrize("step", range(6))
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    registry = Registry(tmp_path)
    registry.save(SERVICE, forest(0))
    original, left = os.fsync, [step]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        if step < 5:
            with pytest.raises(DataDirError, match=f"{tmp_path} cannot be written: No space left on device"):
                registry.save(SERVICE, forest(1))
        else:
            registry.save(SERVICE, forest(1))  # files, their folder, and the two around it: five
    infos = registry.versions()
    assert len(os.listdir(tmp_path)) == 1
    assert [info.damaged for info in infos] == [None] * (1 if step < 3 else 2)
    registry.save(SERVICE, forest(1))
    assert len(registry.versions()) == 2


# ---- pruning, promotion, removal


def days_of(registry: Registry, service: str = SERVICE) -> list[int]:
    return [(info.about.trained_us - T0) // DAY_US for info in registry.versions(service) if info.about]


def test_the_newest_stay(tmp_path: Path) -> None:
    registry = Registry(tmp_path, keep=3)
    registry.save("other", forest(0))
    for day in range(7):
        registry.save(SERVICE, forest(day))
        assert days_of(registry) == list(range(day, max(-1, day - 3), -1))
    assert days_of(registry, "other") == [0]


def test_the_one_just_saved_stays_until_the_next(tmp_path: Path) -> None:
    registry = Registry(tmp_path, keep=2)
    for day in (5, 6):
        registry.save(SERVICE, forest(day))
    for day in (1, 2):
        registry.save(SERVICE, forest(day))
        assert days_of(registry) == [6, 5, day]
    registry.save(SERVICE, forest(7))
    assert days_of(registry) == [7, 6]


def test_the_promoted_one_is_never_pruned(tmp_path: Path) -> None:
    registry = Registry(tmp_path, keep=2)
    for day in range(3):
        registry.save(SERVICE, forest(day))
    registry.promote(SERVICE, forest(1).version)
    for day in range(3, 6):
        registry.save(SERVICE, forest(day))
    assert days_of(registry) == [5, 4, 1]
    assert [info.promoted for info in registry.versions()] == [False, False, True]
    registry.promote(SERVICE, forest(5).version)
    assert [info.promoted for info in registry.versions()] == [True, False, False]
    registry.save(SERVICE, forest(6))
    assert days_of(registry) == [6, 5]
    registry.remove(SERVICE, forest(5).version)
    assert [info.promoted for info in registry.versions()] == [False]


def test_what_cannot_be_loaded_cannot_be_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    path = registry.save(SERVICE, forest(0))
    registry.save(SERVICE, forest(1))
    registry.promote(SERVICE, forest(1).version)
    flip("model.onnx")(path)
    with pytest.raises(ModelUnreadable):
        registry.promote(SERVICE, forest(0).version)
    assert [info.version for info in registry.versions() if info.promoted] == [forest(1).version]


def test_a_damaged_mark_of_promotion_fails_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    slot = registry.save(SERVICE, forest()).parent
    (slot / ".promoted").mkdir()
    assert [info.promoted for info in registry.versions()] == [False]
    with pytest.raises(DataDirError):
        registry.promote(SERVICE, forest().version)
    (slot / ".promoted").rmdir()
    (slot / ".promoted").write_bytes(b"\xff" * 100)
    assert [info.promoted for info in registry.versions()] == [False]
    registry.promote(SERVICE, forest().version)
    assert [info.promoted for info in registry.versions()] == [True]


def test_damaged_ones_go_first(tmp_path: Path) -> None:
    registry = Registry(tmp_path, keep=2)
    for day in range(2):
        registry.save(SERVICE, forest(day))
    flip("model.onnx")(registry.versions()[0].path)
    registry.save(SERVICE, forest(2))
    assert days_of(registry) == [2, 0]


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for day in range(2):
        registry.save(SERVICE, forest(day))
    registry.remove(SERVICE, forest(0).version)
    assert days_of(registry) == [1]
    assert registry.find(SERVICE, trained_us=T0) is None
    with pytest.raises(
        ModelUnreadable, match=f"has no model '{forest(0).version}', only .'{forest(1).version}'.: choose"
    ):
        registry.remove(SERVICE, forest(0).version)
    registry.save(SERVICE, forest(0))
    assert days_of(registry) == [1, 0]


# ---- many at once


def test_readers_see_a_version_whole_or_not_at_all(tmp_path: Path) -> None:
    registry = Registry(tmp_path, keep=2)
    registry.save(SERVICE, forest(0))
    registry.promote(SERVICE, forest(0).version)
    made = [forest(day) for day in range(1, 9)]
    ended = threading.Event()

    def read() -> int:
        mine, reads = Registry(tmp_path), 0
        while not ended.is_set() or not reads:
            infos = mine.versions()
            assert [info.damaged for info in infos if info.damaged] == []
            assert forest(0).version in {info.version for info in infos}
            found = mine.find(SERVICE, trained_us=T0)
            assert found is not None
            assert found.onnx == forest(0).onnx
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for _ in range(4):
                for each in made:
                    registry.save(SERVICE, each)
                    registry.save("other", each)
        finally:
            ended.set()
        assert all(reader.result(timeout=60) > 0 for reader in readers)


def test_writers_take_turns(tmp_path: Path) -> None:
    made = [forest(day) for day in range(8)]

    def write(seed: int) -> None:
        registry = Registry(tmp_path, keep=8)
        for each in random.Random(seed).sample(made, len(made)):
            registry.save(SERVICE, each)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [info.damaged for info in Registry(tmp_path).versions()] == [None] * 8
    assert len(os.listdir(tmp_path)) == 1


def test_a_writer_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    registry.save(SERVICE, forest(0))
    monkeypatch.setattr(module, "_LOCK_S", 0.05)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataDirError, match=r"another writer has held its lock for 0\.05 s"):
            registry.save(SERVICE, forest(1))
        assert registry.find(SERVICE, trained_us=T0) is not None
    finally:
        os.close(descriptor)
    registry.save(SERVICE, forest(1))
