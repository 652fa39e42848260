"""pydantic's complaints about one entry as problems with places."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import ValidationError

from runner.errors import Problem
from runner.spec.complaints import Complaint, complaints
from runner.spec.entries import Entry, Surroundings
from runner.spec.explain import LIST, Explained
from runner.spec.fill import MARK, Filled
from runner.spec.locate import KEY_LABEL
from runner.spec.names import listed, nearest
from runner.spec.source import Path, Span
from runner.spec.words import ModelWords, StepWords, dotted


def _near_file(base: FilePath, name: str) -> str | None:
    """The file beside a missing one whose name is nearest."""
    missing = FilePath(name)
    try:
        near = nearest(missing.name, sorted(p.name for p in itertools.islice((base / missing.parent).iterdir(), 1000)))
    except (OSError, ValueError):
        return None
    return str(missing.with_name(near)) if near else None


@dataclass
class Reporter:
    """Turns one ValidationError into problems with places."""

    entry: Entry
    filled: Filled
    around: Surroundings
    words: StepWords | ModelWords

    def problems(self, error: ValidationError, known: list[Problem]) -> list[Problem]:
        """All problems of ``error`` but those at places that ``known`` already speaks of."""
        spoken = [p.path[len(self.entry.path) :] for p in known]
        found = complaints(error, self.filled.body)
        made = [self._problem(c) for c in found if not any(c.path[: len(path)] == path for path in spoken)]
        meant = {(*p.path[:-1], p.suggestion) for p in made if p.code == "unknown-field"}
        return [p for p in made if p.code != "missing-field" or p.path not in meant]

    @property
    def _owner(self) -> str:
        return f'{self.entry.section[:-1]} "{self.entry.name}" ({self.words.label})'

    def _problem(self, complaint: Complaint) -> Problem:
        special: dict[str, Callable[[Complaint], Problem]] = {
            "missing": self._missing,
            "extra_forbidden": self._unknown,
            "union_tag_not_found": self._missing,
        }
        return special.get(complaint.kind, self._wrong)(complaint)

    def _missing(self, complaint: Complaint) -> Problem:
        *above, name = complaint.path
        owner = f"{dotted(tuple(above))} of {self._owner}" if above else self._owner
        kind = f": {self.words.expects(str(name))}" if not above else ""
        message = f'{owner} needs a field "{name}"{kind}'
        return self._at("missing-field", message, complaint.path, self._key_span(tuple(above)))

    def _unknown(self, complaint: Complaint) -> Problem:
        names = self.words.fields(complaint.loc[:-1])
        near = nearest(str(complaint.path[-1]), names)
        message = f'unknown field "{dotted(complaint.path)}" in {self._owner}'
        span = self._key_span(complaint.path)
        return self._at("unknown-field", message, complaint.path, span, near, listed(names) or None)

    def _wrong(self, complaint: Complaint) -> Problem:
        explained = self._fitted(complaint)
        is_key = complaint.loc[-1:] == (KEY_LABEL,)
        said = explained.message(complaint.path[-1] if is_key else complaint.found)
        field_ = f'field "{dotted(complaint.path)}" of {self._owner}' if complaint.path else self._owner
        param = self.filled.origin(complaint.path)
        message = f"{field_}: {said}" + (f" (from $params.{param})" if param else "")
        span = self._key_span(complaint.path) if is_key else self._value_span(complaint.path)
        return self._at(explained.code, message, complaint.path, span, explained.suggestion, explained.allowed)

    def _fitted(self, complaint: Complaint) -> Explained:
        """The explanation, made aware of references: what could stand here, and a forgotten dollar."""
        explained, link = complaint.explained, self.words.link(complaint.path)
        if link and explained.expected:
            explained = Explained("needs-reference", link)
        if complaint.kind == "needs_reference":
            explained = explained._replace(code="needs-reference")
        if complaint.kind == "missing_path":
            return explained._replace(suggestion=_near_file(self.around.base, str(complaint.found)))
        if isinstance(complaint.found, str) and complaint.found.startswith(MARK) and explained.expected == LIST:
            return explained._replace(suggestion=f"[{complaint.found[1:]}]")
        if explained.code == "needs-reference" and str(complaint.found).partition(".")[0] in self.around.names:
            return explained._replace(suggestion=f"${complaint.found}")
        other = self.words.alternative(complaint.path)
        return (
            explained._replace(expected=f"{explained.expected} or {other}")
            if other and explained.expected
            else explained
        )

    def _value_span(self, path: Path) -> Span:
        for length in range(len(path), 0, -1):
            node = self.entry.node.at(path[:length])
            if node is not None:
                return node.span
        return self.entry.span

    def _key_span(self, path: Path) -> Span:
        return (self.entry.node.key_span(path) if path else None) or self._value_span(path)

    def _at(
        self,
        code: str,
        message: str,
        path: Path,
        span: Span,
        suggestion: str | None = None,
        allowed: str | None = None,
    ) -> Problem:
        place = (*self.entry.path, *path)
        return self.around.source.problem(code, message, span, path=place, suggestion=suggestion, allowed=allowed)
