"""A view: a stretch of another value, which has no name at the worker until somebody asks for one."""

from typing import Final

from ptrtensor.client.reference import Reference
from ptrtensor.tensor.cache import Template
from ptrtensor.tensor.worker import Worker, call_sites
from ptrtensor.wire.instruction import Instruction, ViewSlot, layout
from ptrtensor.wire.metadata import TensorMeta

ALIAS: Final = "aten::alias"


class View:
    """Stands in a pointer where a `Reference` stands in others.

    Half of the operations of a transformer's training step are views. Their geometry is known here, so it travels with
    the commands that read or write them, instead of a command and a name for each.
    """

    __slots__ = ("_named", "base", "is_settled", "is_whole", "meta", "offset", "origin", "spent", "worker")

    def __init__(self, worker: Worker, base: Reference, offset: int, meta: TensorMeta, origin: TensorMeta) -> None:
        self.worker = worker
        self.base = base
        self.offset = offset
        """How many elements behind the base's beginning it begins."""
        self.meta = meta
        self.origin = origin
        """The base's metadata under that name."""
        self.is_whole = meta is origin and not offset
        """Whether it is laid out as its base is: a matrix transposed twice."""
        self.is_settled = False
        """Always false: it shares its memory."""
        self.spent: str | None = None
        self._named: Reference | None = None

    @property
    def name(self) -> int:
        """Its name at the worker, where it gets one when this is first asked: to tag it, to find it."""
        with self.worker.naming:
            if self._named is None:
                self._named = self.alias()
            return self._named.name

    @property
    def known_name(self) -> int | None:
        """Its name, if it was given one."""
        return None if self._named is None else self._named.name

    def alias(self) -> Reference:
        """Another name for the same values."""
        worker, meta = self.worker, self.meta
        dimensions = len(meta.shape)
        template = worker.cache.shared((ALIAS, dimensions))
        if template is None:
            number = worker.cache.number()
            instruction = Instruction(number, ALIAS, (ViewSlot(dimensions),), {}, False, (None,))
            template = Template(instruction, layout(instruction), is_shared=True)
            worker.cache.share((ALIAS, dimensions), template)
        reference = Reference(worker.client, worker.client.reserve())
        fields = (self.base.name, self.offset, *meta.shape, *meta.stride)
        command = template.layout.pack(template.instruction.number, *fields, reference.name)
        worker.client.post(template.instruction, command, call_sites.current())
        return reference

    def __str__(self) -> str:
        return str(self._named) if self._named is not None else f"{self.base}+{self.offset}"
