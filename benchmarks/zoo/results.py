"""What the contract found, in a file: benchmarks/contract.json."""

import functools
import hashlib
import importlib.metadata
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaiutils.files import write_text
from zoo.checks import PACKAGE, Cell

RESULTS = Path(__file__).resolve().parent.parent / "contract.json"
OUTCOMES = ("passed", "refused", "failed", "not run")


@functools.cache
def code_digest() -> str:
    """Of the code that decides what a cell holds: the graph, the methods and the zoo."""
    folders = (PACKAGE / "graph", PACKAGE / "attribution", Path(__file__).resolve().parent)
    files = sorted(path for folder in folders for path in folder.rglob("*.py") if path.stem not in ("page", "results"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


@dataclass
class Results:
    """Cells by network, precision and method: ``outcome``, the number of its ``note`` (None where it passed), the
    ``errors`` of checks, ``seconds``, the digest of the ``code``, and ``compiled`` where passes were."""

    path: Path
    notes: list[str] = field(default_factory=list)
    cells: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # by "network | precision", by method
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Those of a file; none where there is no file."""
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return cls(path, found.get("notes", []), found.get("cells", {}), found.get("versions", {}))

    def cell(self, network: str, precision: str, method: str) -> dict[str, Any] | None:
        return self.cells.get(f"{network} | {precision}", {}).get(method)

    def add(
        self, network: str, precision: str, method: str, cell: Cell, seconds: float, code: str, compiled: bool
    ) -> None:
        """Keep a cell, and write the file."""
        note = None
        if cell.reason:
            text = in_general(cell.reason) if cell.outcome == "refused" else cell.reason
            if text not in self.notes:
                self.notes.append(text)
            note = self.notes.index(text)
        errors = {name: float(f"{e:.1e}") for name, e in cell.errors.items() if name != "finite"}
        row: dict[str, Any] = {
            "outcome": cell.outcome,
            "note": note,
            "errors": errors,
            "seconds": round(seconds, 1),
            "code": code,
        }
        if compiled:
            row["compiled"] = True
        self.cells.setdefault(f"{network} | {precision}", {})[method] = row
        self.write()

    def write(self) -> None:
        """Write the file, a line for each cell; notes that no cell has any more are left out."""
        cells = [cell for of_method in self.cells.values() for cell in of_method.values() if cell["note"] is not None]
        used = sorted({cell["note"] for cell in cells})
        for cell in cells:
            cell["note"] = used.index(cell["note"])
        self.notes = [self.notes[note] for note in used]
        names = ("tensorflow", "keras", "numpy", "zeromodels", "xaiutils")
        self.versions = {name: importlib.metadata.version(name) for name in names if _is_installed(name)}
        networks = []
        for name, of_method in self.cells.items():
            lines = [f"   {json.dumps(method)}: {json.dumps(cell)}" for method, cell in of_method.items()]
            networks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
        notes = ",\n".join(f"  {json.dumps(note, ensure_ascii=False)}" for note in self.notes)
        body = ",\n".join(networks)
        versions = json.dumps(self.versions)
        write_text(
            self.path, f'{{\n "versions": {versions},\n "notes": [\n{notes}\n ],\n "cells": {{\n{body}\n }}\n}}\n'
        )

    def counts(self, network: str, precision: str) -> str:
        """Of a network's cells, in words."""
        found = Counter(cell["outcome"] for cell in self.cells.get(f"{network} | {precision}", {}).values())
        return ", ".join(f"{found[outcome]} {outcome}" for outcome in OUTCOMES if found[outcome])


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def in_general(reason: str) -> str:
    """A refusal without the names of one network's layers, so that those of all networks can be counted together."""
    text = re.sub(r"\bone of [\w/#.,' ]+", "one of ... ", reason).replace(" ... .", " ...")
    text = re.sub(r"(?<![\w=])'[^']*'(, '[^']*')*", "'...'", text)  # neither head='ordinal' nor a model's part
    return re.sub(r"\((None|\d+)(, (None|\d+))+\)", "(...)", text)
