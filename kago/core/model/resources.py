"""CPU and memory: what a pod is promised and what a node has."""

from msgspec import Struct


class Resources(Struct, gc=False, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An amount of CPU (thousandths of a core) and memory (MiB). What the first Kago calls MB is a MiB here too."""

    cpu_millis: int = 100
    memory_mb: int = 128

    def plus(self, other: "Resources") -> "Resources":
        return Resources(cpu_millis=self.cpu_millis + other.cpu_millis, memory_mb=self.memory_mb + other.memory_mb)

    def minus(self, other: "Resources") -> "Resources":
        return Resources(cpu_millis=self.cpu_millis - other.cpu_millis, memory_mb=self.memory_mb - other.memory_mb)


NOTHING = Resources(cpu_millis=0, memory_mb=0)
