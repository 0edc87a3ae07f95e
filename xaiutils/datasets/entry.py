"""What the declaration of a data set says: each loader exports its `DatasetEntry`, `catalogue` lists them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xaiutils.datasets.listing import Listing
from xaiutils.datasets.reading.picture_file import DEFAULT, FILE_OPTIONS, Preparation
from xaiutils.registry import suggest


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name.

    ``load`` takes those of data_dir, preparation, split, seed and limit that it names, and as keyword-only arguments
    the options of its own; it returns a `Listing`. ``access`` says how to get the data, ``evidence`` what the masks
    mark. ``preparation`` is how pictures are laid out, and ``preparation_options`` are the fields of it that are
    options too. ``reads_files``: it takes ``data_dir``. ``generated``: made from seeds, without an end.
    """

    name: str
    title: str
    load: Callable[..., Listing]
    licence: str
    citation: str
    access: str
    evidence: str
    caution: str
    preparation: Preparation = DEFAULT
    preparation_options: tuple[str, ...] = ()
    reads_files: bool = True
    generated: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Options and their defaults."""
        own = {p.name: p.default for p in self._parameters.values() if p.kind is p.KEYWORD_ONLY}
        return own | {name: getattr(self.preparation, name) for name in self.preparation_options}

    @property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.load).parameters)

    def list_images(
        self, data_dir: str | Path, split: str = "train", seed: int = 0, limit: int | None = None, **options: Any
    ) -> Listing:
        """What there is, before any picture is read. Raises TypeError or ValueError on a wrong option, and what
        ``load`` raises."""
        takes = self._parameters
        for name, value in options.items():
            self._check_option(name, value, takes)
        laid_out = {name: value for name, value in options.items() if name in self.preparation_options}
        given = {
            "data_dir": Path(data_dir),
            "preparation": replace(self.preparation, **laid_out),
            "split": split,
            "seed": seed,
            "limit": limit,
        }
        own = {name: value for name, value in options.items() if name not in laid_out}
        return self.load(**{name: value for name, value in given.items() if name in takes}, **own)

    def _check_option(self, name: str, value: Any, takes: dict[str, inspect.Parameter]) -> None:
        if name not in self.options:
            raise TypeError(f"Data set {self.name!r} has no option {name!r}; {suggest(name, list(self.options))}")
        default = self.options[name]
        kinds = str | int if name in takes and "int" in str(takes[name].annotation) else str
        if isinstance(default, str) and not isinstance(value, kinds):
            raise TypeError(f"{name}={value!r}; expected a text.")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}; expected true or false.")


def entry_of_own_images(name: str, title: str, load: Callable[..., Listing]) -> DatasetEntry:
    """The declaration of a way to read the user's own images."""
    return DatasetEntry(
        name,
        title,
        load,
        licence="yours",
        citation="yours",
        access="give its folder as data_dir",
        evidence="your masks, boxes or outlines, where there are any",
        caution="State patients and splits where you know them.",
        preparation_options=FILE_OPTIONS,
    )
