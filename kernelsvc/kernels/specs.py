"""The kernelspecs of sessions: those that come with kernelsvc, and others that are installed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

_OWN = Path(__file__).with_name("kernelspecs")
_METADATA = "kernelsvc"
PYTHON = "kernelsvc-python"


class KernelSpecs(KernelSpecManager):
    """Finds kernelspecs by their name. All are started by a kernel host, whoever they come from."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernelspec of that name; raises NoSuchKernel."""
        own = _OWN / kernel_name
        if own.parent == _OWN and own.is_dir():
            return KernelSpec.from_resource_dir(str(own))
        spec = super().get_kernel_spec(kernel_name)
        host = KernelSpec.from_resource_dir(str(_OWN / PYTHON))
        interrupt_mode = "message" if spec.interrupt_mode == "message" else "signal"
        adapter = ["jupyter", interrupt_mode, *_command(spec)]
        spec.argv = host.argv
        spec.metadata = host.metadata | {_METADATA: {"adapter": adapter, "no_op": ""}}
        return spec

    def installed(self) -> dict[str, str]:
        """The display names of those that do not come with kernelsvc, by their names; blocks."""
        found = {}
        for name in self.find_kernel_specs():
            try:
                found[name] = super().get_kernel_spec(name).display_name
            except (NoSuchKernel, ValueError):
                continue
        return found


def adapter_of(spec: KernelSpec) -> list[str]:
    """What a kernel host is told of it; empty for Python."""
    return list(_ours(spec)["adapter"])


def no_op_of(spec: KernelSpec) -> str | None:
    """Code of its language that does nothing; None where code always does something."""
    code = _ours(spec)["no_op"]
    return None if code is None else str(code)


def reads_at_start(spec: KernelSpec) -> list[str]:
    """The files of the working directory that it looks into as it starts, and never again."""
    return list(_ours(spec).get("reads_at_start", ()))


def _ours(spec: KernelSpec) -> Mapping[str, Any]:
    metadata: Mapping[str, Any] = spec.metadata[_METADATA]
    return metadata


def _command(spec: KernelSpec) -> list[str]:
    """Its command; only the path of the connection file is not known yet."""
    known = {"{prefix}": sys.prefix, "{resource_dir}": spec.resource_dir}
    program, *arguments = spec.argv
    if program in ("python", f"python{sys.version_info[0]}"):
        program = sys.executable
    for name, value in known.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    return [program, *arguments]
