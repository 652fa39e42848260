"""The real generator and parser, and a few generated people, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import assets
from runner.context import StepContext, local_context
from runner.nodes.faces.steps import FaceParts, Faces, generate, parts

PEOPLE = 10


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    return local_context(tmp_path_factory.mktemp("faces"), step="faces")


@pytest.fixture(scope="session")
def people(context: StepContext) -> Faces:
    pytest.importorskip("openvino")
    return generate(context, faces=PEOPLE)


@pytest.fixture(scope="session")
def measured(context: StepContext, people: Faces) -> FaceParts:
    return parts(context, pictures=people.pictures)


@pytest.fixture(scope="session")
def parser_path() -> Path:
    return assets.ensure("face-parser").path
