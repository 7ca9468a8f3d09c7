"""Trained forests on disk, by service and version; it neither trains nor decides which of them serves.

`<folder>/<service>-<hash>/<version>/` holds `model.onnx` and `model.json`, which says what it is. A version is
written beside its place and renamed into it, so that readers, who need no lock, find it whole or not at all.
Whatever is read has a checksum, no link is followed, and nothing is unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import structlog

from helios_core.clock import Clock, SystemClock, rfc3339
from helios_core.errors import DataDirError
from helios_core.features import FEATURE_SETS, FeatureSet
from helios_detector.errors import CalibrationError, ModelError, ModelMismatch, ModelUnreadable
from helios_detector.forest.calibration import Calibration
from helios_detector.forest.scorer import ForestScorer
from helios_detector.training import Forest

_SCHEMA: Final = 1  # of model.json; a field that is added leaves it as it is
_MODEL, _ABOUT, _PROMOTED, _TEMPORARY = "model.onnx", "model.json", ".promoted", ".writing-"
# A forest of 100 trees has 0.3 MB, its model.json 15 kB.
_MAX_BYTES: Final = {_MODEL: 64 * 1024 * 1024, _ABOUT: 1024 * 1024, _PROMOTED: 64}
_VERSION_DIGITS: Final = 12  # of the hash, as in training
_LOCK_S: Final = 10  # a save takes milliseconds
_REMEDY: Final = "remove this version and train again"
_LIBRARIES: Final = ("scikit-learn", "onnxruntime")
_F32_MAX: Final = float(np.finfo(np.float32).max)
_SETS: Final = {made.name: made for full in FEATURE_SETS.values() for made in (full, full.without_latency())}
_log = structlog.get_logger(__name__)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What model.json says of a version. Fields are only added, with a default."""

    service: str
    version: str
    feature_set: str
    feature_hash: str
    features: dict[str, str]  # name -> unit, in order
    trained_until: str  # RFC 3339, for people; `trained_us` is what counts
    trained_us: int
    rows: int
    onnx_sha256: str
    calibration: dict[str, Any]
    typical: list[Annotated[float, msgspec.Meta(ge=-_F32_MAX, le=_F32_MAX)] | None]  # None for NaN
    libraries: dict[str, str]  # their versions at training time
    created: str  # RFC 3339


class _Sealed(msgspec.Struct):
    """model.json as it is on disk: what it says, and a hash of exactly those bytes."""

    schema: int
    sha256: str
    model: msgspec.Raw


class ModelInfo(msgspec.Struct, frozen=True):
    """What is known of a version without starting it."""

    service: str  # its true name; that of its folder when the damage hides it
    version: str  # the name of its folder; empty when the folder around it, `path`, is damaged
    path: Path
    about: About | None = None  # None when the damage hides it
    promoted: bool = False  # a person chose it: it is never pruned
    damaged: str | None = None  # why it cannot be loaded, and what to do

    @property
    def age(self) -> tuple[int, str]:
        """The greatest was trained last, or made last."""
        return (self.about.trained_us, self.about.created) if self.about else (-1, "")


class Registry:
    """Models on disk, by service: each version in a folder of its own, with the file that says what it is.

    Threads and processes may share the folder, which the first save makes. What writes raises DataDirError
    when the disk refuses, or when another writer holds the lock for ten seconds. Of a service, the newest
    `keep` versions stay, and beside them the promoted one and the one just saved.
    """

    def __init__(self, folder: Path, *, keep: int = 5, clock: Clock | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least one version of a service has to stay")
        self._folder = folder
        self._keep = keep
        self._clock = clock or SystemClock()

    def save(self, service: str, forest: Forest) -> Path:
        """The version's folder, once it is safe: files, their folder, rename, then the folders around it.

        A version that is there stays as it is; a damaged one is replaced. Raises ModelError for what could
        not be loaded again.
        """
        sealed = _sealed(service, forest, self._clock.now_us())
        path = self._slot(service) / forest.version
        with self._writing() as temporary:
            path.parent.mkdir(exist_ok=True)
            if path.name in self._names(path.parent):
                with suppress(ModelUnreadable):
                    with suppress(ModelMismatch):
                        self._parts(self._about(path), path)
                    return path
            new = temporary / "new"
            new.mkdir()
            (new / _MODEL).write_bytes(forest.onnx)
            (new / _ABOUT).write_bytes(sealed)
            _sync(new / _MODEL, new / _ABOUT, new)
            if os.path.lexists(path):
                path.rename(temporary / path.name)
            new.rename(path)
            _sync(path.parent, self._folder)
            self._prune(path, temporary)
        return path

    def find(self, service: str, *, trained_us: int) -> Forest | None:
        """The model of that service which was trained until exactly this event time; of several the last made.

        A damaged one that is it, or may be, is passed over with a warning.
        """
        for info in self.versions(service):
            if info.about is not None and info.about.trained_us != trained_us:
                continue
            reason = info.damaged
            if reason is None:
                try:
                    return self.load(service, info.version)
                except ModelError as error:
                    reason = str(error)
            _log.warning("model_unusable", service=service, path=str(info.path), error=reason)
        return None

    def load(self, service: str, version: str) -> Forest:
        """The forest as it was saved: its scores are the same to the bit.

        Raises ModelUnreadable when it is not there or damaged, ModelMismatch when the code has other
        features under that name, MissingExtra without onnxruntime.
        """
        path = self._known(service, version)
        about = self._about(path)
        onnx, calibration, feature_set = self._parts(about, path)
        try:
            scorer = ForestScorer(onnx, feature_set=feature_set.name, feature_hash=feature_set.hash)
        except (ModelUnreadable, ModelMismatch) as error:
            raise type(error)(f"{path}: {error}; {_REMEDY}") from error
        typical = np.array([np.nan if value is None else value for value in about.typical], dtype=np.float32)
        return Forest(version, feature_set, onnx, calibration, typical, about.trained_us, about.rows, scorer)

    def versions(self, service: str | None = None) -> list[ModelInfo]:
        """What is there, of one service or of all, the last trained first; no damage makes it raise.

        Everything is read and checked, except that no model is started.
        """
        if service is not None:
            return self._infos(self._slot(service), service)
        try:
            slots = self._names(self._folder)
        except ModelUnreadable as error:
            return [ModelInfo("", "", self._folder, damaged=str(error))]
        infos = [info for slot in slots for info in self._infos(self._folder / slot)]
        return sorted(infos, key=lambda info: info.age, reverse=True)

    def promote(self, service: str, version: str) -> None:
        """Marks the version that a person chose, instead of the one before; raises what `load` raises."""
        with self._writing() as temporary:
            self.load(service, version)
            new = temporary / "new"
            new.write_text(version)
            _sync(new)
            new.replace(self._slot(service) / _PROMOTED)
            _sync(self._slot(service))

    def remove(self, service: str, version: str) -> None:
        """Deletes a version, damaged or promoted as it may be; ModelUnreadable if there is none."""
        with self._writing() as temporary:
            path = self._known(service, version)
            path.rename(temporary / path.name)
            _sync(path.parent)

    # ---- reading

    def _slot(self, service: str) -> Path:
        """The folder of a service of any name: what is plain of it, to be read, and a hash, to be unique."""
        plain = re.sub("[^A-Za-z0-9_]+", "-", service)[:40].strip("-") or "service"
        return self._folder / f"{plain}-{hashlib.sha256(service.encode()).hexdigest()[:16]}"

    def _known(self, service: str, version: str) -> Path:
        """The folder of a version that is there; a name from outside is compared, never opened."""
        slot = self._slot(service)
        if version not in (names := self._names(slot)):
            raise ModelUnreadable(f"service {service!r} has no model {version!r}, only {names}: choose one, or train")
        return slot / version

    def _infos(self, slot: Path, service: str | None = None) -> list[ModelInfo]:
        try:
            paths = [slot / name for name in self._names(slot)]
        except ModelUnreadable as error:
            return [ModelInfo(service or slot.name, "", slot, damaged=str(error))]
        infos, promoted = [], b""
        with suppress(ModelUnreadable):
            promoted = self._read(slot / _PROMOTED)
        for path in paths:
            about = damaged = None
            try:
                about = self._about(path)
                self._parts(about, path)
            except ModelError as error:
                damaged = str(error)
            name = about.service if about else service or slot.name
            if os.path.lexists(path):  # not pruned in this moment
                infos.append(ModelInfo(name, path.name, path, about, os.fsencode(path.name) == promoted, damaged))
        return sorted(infos, key=lambda info: info.age, reverse=True)

    def _about(self, path: Path) -> About:
        try:
            sealed = msgspec.json.decode(self._read(path / _ABOUT), type=_Sealed)
            if sealed.schema != _SCHEMA:
                raise ModelUnreadable(f"{path}: schema {sealed.schema}, this Helios reads {_SCHEMA}; train again")
            if hashlib.sha256(sealed.model).hexdigest() != sealed.sha256:
                raise ModelUnreadable(f"{path}: {_ABOUT} was changed after it was written; {_REMEDY}")
            about = msgspec.json.decode(sealed.model, type=About)
        except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
            raise ModelUnreadable(f"{path}: {_ABOUT} cannot be understood: {error}; {_REMEDY}") from error
        if (self._slot(about.service), about.version) != (path.parent, path.name):
            raise ModelUnreadable(f"{path}: it is {about.version} of {about.service!r}, out of place; {_REMEDY}")
        return about

    def _parts(self, about: About, path: Path) -> tuple[bytes, Calibration, FeatureSet]:
        onnx = self._read(path / _MODEL)
        digest = hashlib.sha256(onnx).hexdigest()
        if digest != about.onnx_sha256 or digest[:_VERSION_DIGITS] != about.version:
            raise ModelUnreadable(f"{path}: {_MODEL} hashes to {digest}, not to {about.onnx_sha256}; {_REMEDY}")
        try:
            calibration = Calibration.from_dict(about.calibration)
        except (CalibrationError, OverflowError) as error:
            raise ModelUnreadable(f"{path}: {error}; {_REMEDY}") from error
        known = _SETS.get(about.feature_set)
        if known is None or known.hash != about.feature_hash:
            ours = f"{known.name} is ({known.hash}) here" if known else "which this Helios does not have"
            raise ModelMismatch(f"{path}: trained for {about.feature_set} ({about.feature_hash}), {ours}; train again")
        if len(about.typical) != len(known.features):
            raise ModelUnreadable(f"{path}: {len(about.typical)} typical values of {len(known.features)}; {_REMEDY}")
        return onnx, calibration, known

    def _names(self, folder: Path) -> list[str]:
        with self._reading(folder), suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(folder) if not name.startswith("."))
        return []

    def _read(self, path: Path) -> bytes:
        limit = _MAX_BYTES[path.name]
        with self._reading(path):
            if not path.is_file() or path.stat().st_size > limit:  # a pipe would wait for its writer
                raise ModelUnreadable(f"{path}: no file of at most {limit} bytes; {_REMEDY}")
            return path.read_bytes()

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Translates the system's errors, and refuses what is behind a link below the folder."""
        inside = path.relative_to(self._folder).parts
        if os.path.realpath(path) != os.path.join(os.path.realpath(self._folder), *inside):
            raise ModelUnreadable(f"{path}: it is behind a symbolic link, which is not followed; remove that")
        try:
            yield
        except OSError as error:
            raise ModelUnreadable(f"{path}: {error.strerror}; mend that, or {_REMEDY}") from error

    # ---- writing

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Gives the only writer a temporary folder, after those that dead ones left are cleared away."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _descriptor(self._folder) as lock:
                _take(lock)
                for left in self._folder.glob(f"{_TEMPORARY}*"):
                    shutil.rmtree(left, ignore_errors=True)
                with TemporaryDirectory(prefix=_TEMPORARY, dir=self._folder, ignore_cleanup_errors=True) as temporary:
                    yield Path(temporary)
        except OSError as error:
            raise DataDirError(f"{self._folder} cannot be written: {error.strerror or error}") from error

    def _prune(self, saved: Path, temporary: Path) -> None:
        infos = sorted(self._infos(saved.parent), key=lambda info: info.damaged is not None)  # those go first
        for info in infos[self._keep :]:
            if info.path != saved and not info.promoted:
                try:
                    info.path.rename(temporary / f"pruned-{info.version}")
                except OSError as error:
                    _log.warning("model_not_pruned", path=str(info.path), error=str(error))


def _sealed(service: str, forest: Forest, now_us: int) -> bytes:
    """The bytes of model.json."""
    digest = hashlib.sha256(forest.onnx).hexdigest()
    if digest[:_VERSION_DIGITS] != forest.version or len(forest.onnx) > _MAX_BYTES[_MODEL]:
        raise ModelError(f"{len(forest.onnx)} bytes with the hash {digest} are no model {forest.version}: train again")
    about = About(
        service=service,
        version=forest.version,
        feature_set=forest.feature_set.name,
        feature_hash=forest.feature_set.hash,
        features={feature.name: feature.unit for feature in forest.feature_set.features},
        trained_until=rfc3339(forest.trained_us, digits=6),
        trained_us=forest.trained_us,
        rows=forest.rows,
        onnx_sha256=digest,
        calibration=forest.calibration.to_dict(),
        typical=forest.typical.tolist(),  # NaN becomes null
        libraries={name: found.version for name in _LIBRARIES for found in distributions(name=name)},
        created=rfc3339(now_us, digits=6),
    )
    model = msgspec.json.format(msgspec.json.encode(about), indent=2)
    return msgspec.json.encode(_Sealed(_SCHEMA, hashlib.sha256(model).hexdigest(), msgspec.Raw(model)))


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(*paths: Path) -> None:
    for path in paths:
        with _descriptor(path) as descriptor:
            os.fsync(descriptor)


def _take(lock: int) -> None:
    """Waits for the lock of a folder, which goes with its process if that dies."""
    deadline = time.monotonic() + _LOCK_S
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    raise TimeoutError(f"another writer has held its lock for {_LOCK_S} s")
