"""New error patterns: a template of an error that the service has never shown, and that keeps coming."""

from __future__ import annotations

from typing import Final

from helios_core.alerts import Contribution, Family, Finding, Severity
from helios_core.model import Level
from helios_detector.detectors.base import Evaluation

MIN_COUNT: Final = 5


class NewPattern:
    """Fires when a new template of level ERROR or above has come at least MIN_COUNT times."""

    name = "patterns"

    def find(self, evaluation: Evaluation) -> list[Finding]:
        if not evaluation.learned:
            return []
        fresh = [t for t in evaluation.new_templates if t.level >= Level.ERROR and t.count >= MIN_COUNT]
        if not fresh:
            return []
        fresh.sort(key=lambda template: (-template.count, template.id))
        worst = fresh[0]
        return [
            Finding(
                detector=self.name,
                family=Family.PATTERN,
                severity=Severity.HIGH if worst.level >= Level.CRITICAL else Severity.MEDIUM,
                minutes=evaluation.view.minutes,
                contributions=tuple(
                    Contribution(
                        feature="new_template",
                        unit="events",
                        actual=float(template.count),
                        typical=0.0,
                        limit=float(MIN_COUNT),
                        share=template.count / sum(t.count for t in fresh),
                    )
                    for template in fresh
                ),
                detail=worst.text,
            )
        ]
