"""Values of a spec that stand for something outside it: files and packaged assets.

A field annotated ``InputPath`` takes a path relative to the spec's folder, or ``asset:NAME`` for an entry of the asset
registry. After validation it holds a ``ResolvedPath`` or an ``AssetRef``; both are ``str``. The planner finds them by
walking the validated values: assets are fetched before anything is keyed, and what a path *contains*, not how it is
spelled, enters the content key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

ASSET_SCHEME = "asset:"


class ResolvedPath(str):
    """An absolute path of an existing file or folder (``str``, so that JSON and YAML can carry it)."""

    @property
    def path(self) -> Path:
        """As ``pathlib.Path``."""
        return Path(str(self))


class AssetRef(str):
    """``asset:NAME``: a packaged model or image set, resolved by ``runner.assets``."""

    @property
    def name(self) -> str:
        """The name behind the scheme."""
        return str(self).removeprefix(ASSET_SCHEME)


def asset_ref(value: str) -> AssetRef:
    """A reference to an entry of the asset registry, by its name or ``asset:NAME``; for pydantic, which reports the error."""
    from runner.assets.registry import entry
    from runner.errors import AssetError

    reference = AssetRef(ASSET_SCHEME + value.removeprefix(ASSET_SCHEME))
    try:
        entry(reference.name)
    except AssetError as error:
        advice = f" ({error.hint})" if error.hint else ""
        raise PydanticCustomError("unknown_asset", "{text}", {"text": f"{error.message}{advice}"}) from None
    return reference


class _PathMark:
    """pydantic glue: resolve against ``context["base"]`` (a ``Path``), check existence unless ``must_exist=False``."""

    def __init__(self, *, must_exist: bool = True) -> None:
        self.must_exist = must_exist

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._resolve, core_schema.str_schema(min_length=1))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}

    def _resolve(self, value: str, info: ValidationInfo) -> str:
        if value.startswith(ASSET_SCHEME):
            return asset_ref(value)
        base = (info.context or {}).get("base", Path.cwd())
        try:
            path = Path(base, Path(value).expanduser()).absolute()
            wildcard = any(c in path.name for c in "*?[")
            found = not self.must_exist or wildcard or path.exists()
        except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user after "~"
            path, found = Path(value), False
        if not found:
            raise PydanticCustomError("missing_path", "no such file or folder: {path}", {"path": str(path)})
        return ResolvedPath(path)


InputPath = Annotated[str, _PathMark()]
"""A file or folder that must exist, a glob pattern of files, or ``asset:NAME``."""

OutputPath = Annotated[str, _PathMark(must_exist=False)]
"""A path that a step may create."""
