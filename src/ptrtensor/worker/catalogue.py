"""What a client may know of what is here: the owner's publications, and its own objects."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor

from ptrtensor.wire.control import Publication
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.messages import Entry, Extent, Found, Search
from ptrtensor.worker.publications import mapped
from ptrtensor.worker.store import PUBLIC, Note, Store, extent_of


class Catalogue:
    """Private results are not listed: whether they are there says whether they failed, and their shape may say more."""

    def __init__(self, store: Store, device: torch.device, publications: Sequence[Publication]) -> None:
        self._store = store
        self._device = device
        self._publications: dict[str, Publication] = {}
        self._sources: dict[str, Callable[[], Tensor]] = {}
        self._kept: dict[str, int] = {}
        """The names under which published tensors stay here, all below zero: no client can drop them."""
        self._numbers = count(-1, -1)
        for publication in publications:
            self.publish(publication, partial(mapped, publication))

    def publish(self, publication: Publication, source: Callable[[], Tensor]) -> None:
        """Offer what `source` makes; what had that name before is offered no more."""
        self._publications[publication.name] = publication
        self._sources[publication.name] = source
        kept = self._kept.pop(publication.name, None)
        if kept is not None:
            self._store.drop(kept)

    def entries(self) -> list[Entry]:
        return [self._entry(name, tensor) for name, tensor in self._public().items()]

    def search(self, search: Search) -> Found:
        entries: list[Entry] = []
        # The client reserved names for so many.
        found = islice(self._tagged(set(search.tags)), MAX_RESULTS)
        for name, (tensor, note, kept, extent) in enumerate(found, search.name):
            labels = PUBLIC if kept is None else self._store.labels.get(kept, PUBLIC)
            self._store.drop(name)  # what a client gave this name before shares nothing with it
            self._store.objects[name] = tensor
            self._store.hidden.add(name)
            self._store.notes[name] = note
            if kept is not None:
                self._store.unite((name, kept))
                self._store.label(name, labels)
            entries.append(Entry(name, extent, note.tags, note.description))
        return Found(search.request, entries)

    def _tagged(self, wanted: set[str]) -> Iterator[tuple[Tensor, Note, int | None, Extent]]:
        """What has all of these tags: the owner's first, with the names they are kept by, then the client's own."""
        for publication in self._publications.values():
            if wanted <= set(publication.tags):
                name = self._kept.get(publication.name)
                tensor = None if name is None else self._store.objects.get(name)
                # Not asked for yet, or poisoned by a write that failed.
                if name is None or not isinstance(tensor, Tensor):
                    name, tensor = self._keep(publication)
                # Of private data a write may change the shape.
                is_private = name in self._store.labels
                extent = Extent(publication.meta, 0) if is_private else extent_of(tensor)
                yield tensor, Note(publication.tags, publication.description), name, extent
        for name, tensor in self._public().items():
            note = self._store.notes.get(name, Note())
            if note.tags and wanted <= set(note.tags):
                yield tensor, note, None, extent_of(tensor)

    def _keep(self, publication: Publication) -> tuple[int, Tensor]:
        """All pointers to it share this memory. Nobody sees that another one takes the place of what was poisoned."""
        tensor = self._sources[publication.name]().to(self._device)
        name, before = next(self._numbers), self._kept.get(publication.name)
        if publication.private:
            self._store.label(name, frozenset({publication.name}))
        if before is not None:
            self._store.label(name, self._store.labels.get(before, PUBLIC))
            self._store.unite((name, before))
            self._store.drop(before)
        self._kept[publication.name] = name
        self._store.objects[name] = tensor
        self._store.hidden.add(name)
        return name, tensor

    def _public(self) -> dict[int, Tensor]:
        labels = self._store.labels
        return {name: tensor for name, tensor in self._store.listed().items() if name not in labels}

    def _entry(self, name: int, tensor: Tensor) -> Entry:
        note = self._store.notes.get(name, Note())
        return Entry(name, extent_of(tensor), note.tags, note.description)
