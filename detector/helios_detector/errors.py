"""The detector's error tree; every message says what happened, the offending value, and what to do.

DetectorError
├── MissingExtra        a library that an optional extra brings is not installed
├── ModelError          something is wrong with a model
│   ├── ModelExportError    a fitted estimator that cannot become a model file
│   ├── ModelUnreadable     bytes that are not a model this detector can run
│   └── ModelMismatch       a sound model, made for other features than asked for
├── VectorError         rows that do not have the columns of the model
└── CalibrationError    a history, or a stored calibration, that cannot be used
"""

from __future__ import annotations

from helios_core.errors import HeliosError


class DetectorError(HeliosError):
    """Whatever the detector raises on purpose."""


class MissingExtra(DetectorError):
    """A library is not installed; the message is the command that installs it."""


class ModelError(DetectorError):
    """Something is wrong with a model; the message names which part."""


class ModelExportError(ModelError):
    """A fitted estimator that cannot be written as a model."""


class ModelUnreadable(ModelError):
    """Bytes that are no model, or none with the inputs and outputs that are expected."""


class ModelMismatch(ModelError):
    """A readable model that was trained for another feature set than the one asked for."""


class VectorError(DetectorError):
    """Rows whose shape is not that of the model's input."""


class CalibrationError(DetectorError):
    """A history of scores, or a stored calibration, that cannot be used."""
