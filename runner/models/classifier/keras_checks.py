"""What a Keras file may say: layers and functions of Keras itself, and data that lies in the file.

Keras builds a model by looking up the modules and classes that its config names; versions before 3.11.3 could be led to
any function (CVE-2025-1550, -8747, -9905). So the config is judged first, by a list of what is allowed.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from runner.errors import ModelRefused

MAX_CONFIG = 16 << 20
_MAX_RATIO = 200
"""Largest ratio of unpacked to packed size: weights are hardly compressible, a bomb is nothing else."""
_MODULES = re.compile(
    r"keras(\.(src\.)?(layers|models|initializers|regularizers|constraints|activations|dtype_policies|optimizers|losses"
    r"|metrics|applications|ops)(\.\w+)*)?"
)
_NAME = re.compile(r"[A-Za-z]\w*")
_REFUSED_CLASSES = {
    "function": "a function by name", "TorchModuleWrapper": "a pickled network", "TFSMLayer": "another model's folder",
    "JaxLayer": "a function", "FlaxLayer": "a function", "CustomObjectScope": "custom objects",
}  # fmt: skip
_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}


class KerasProblem(ValueError):
    """The reason why a file is not loaded."""


def check_archive(path: Path) -> None:
    """Judge a ``.keras`` archive without Keras. Raises ``ModelRefused``."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if sorted(names) != sorted(_MEMBERS):
                raise KerasProblem(f"expected {', '.join(sorted(_MEMBERS))}, found {', '.join(names)[:200]}")
            if any(member.file_size > _MAX_RATIO * max(1024, member.compress_size) for member in members):
                raise KerasProblem("it unpacks to more than 200 times its size")
            if archive.getinfo("config.json").file_size > MAX_CONFIG:
                raise KerasProblem("its config is longer than 16 MiB")
            check_config(json.loads(archive.read("config.json")))
    except (KerasProblem, ValueError, OSError, RecursionError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:  # fmt: skip
        raise ModelRefused(
            f"{path}: refused: this is a Keras archive, and {error}",
            hint="Rebuild the model of Keras' own layers, or export it to ONNX.",
        ) from error


def check_config(value: Any) -> None:
    """Raise ``KerasProblem`` where a config names anything that is not Keras' own, or holds code."""
    if isinstance(value, list):
        for inner in value:
            check_config(inner)
    if not isinstance(value, dict):
        return
    if "class_name" in value:
        _check_class(value)
    for inner in value.values():
        check_config(inner)


def _check_class(entry: dict[str, Any]) -> None:
    name, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KerasProblem(f"its config names the class {str(name)[:60]!r}")
    if "Lambda" in name:
        raise KerasProblem("it has a Lambda layer, which holds a program")
    if name in _REFUSED_CLASSES:
        raise KerasProblem(f"its config refers to {_REFUSED_CLASSES[name]} ({name})")
    if module is not None and not (isinstance(module, str) and _MODULES.fullmatch(module)):
        raise KerasProblem(f"its config names the module {str(module)[:60]!r}, which is not Keras' own")
    if registered is not None and registered != name:
        raise KerasProblem(f"its config names the registered object {str(registered)[:60]!r}")


def check_hdf5(file: Any) -> None:
    """Walk an open ``h5py.File``: only groups and plain datasets, no links, nothing stored elsewhere.

    Raises ``KerasProblem``.
    """
    import h5py

    groups, seen = [file], {h5py.h5o.get_info(file.id).addr}
    while groups:
        group = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise KerasProblem(f"{group.name}/{name[:60]} is a link ({type(link).__name__})")
            item = group[name]
            if h5py.h5o.get_info(item.id).addr in seen:
                raise KerasProblem(f"{group.name}/{name[:60]} is there under two names")
            seen.add(h5py.h5o.get_info(item.id).addr)
            if isinstance(item, h5py.Group):
                groups.append(item)
            else:
                _check_dataset(item, f"{group.name}/{name[:60]}")


_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
"""Filters that HDF5 and h5py bring along (deflate to scaleoffset, LZF); others would load a library."""


def _check_dataset(item: Any, where: str) -> None:
    import h5py

    if not isinstance(item, h5py.Dataset):
        raise KerasProblem(f"{where} is no dataset")
    plan = item.id.get_create_plist()
    if plan.get_external_count() or item.is_virtual:
        raise KerasProblem(f"{where} is stored in another file")
    if any(plan.get_filter(i)[0] not in _FILTERS for i in range(plan.get_nfilters())):
        raise KerasProblem(f"{where} needs a filter library")
