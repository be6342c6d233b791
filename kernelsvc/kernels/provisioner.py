"""Where jupyter_client's kernel manager and a kernel host meet: a kernel provisioner.

Registered as `kernelsvc-host-provisioner` under `jupyter_client.kernel_provisioners`; our
kernelspec names it. The host is given to the manager: `launch(host=..., enclosure=...,
env=..., memory=...)`; with the last, the kernel has the memory of another (`hosted.Memory`).
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.hosted import Copy, HostedKernel, Memory
from kernelsvc.kernels.specs import adapter_of
from kernelsvc.sandbox.isolation import Enclosure


class HostProvisioner(KernelProvisionerBase):
    """A kernel that a kernel host forks, signals and cleans up behind."""

    kernel: HostedKernel | None = None

    @property
    def _manager(self) -> KernelManager:
        assert isinstance(self.parent, KernelManager)
        return self.parent

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched."""
        return self.kernel is not None

    async def poll(self) -> int | None:
        """None while the kernel runs, else its return code."""
        if self.kernel is None or not self.kernel.exited.done():
            return 0 if self.kernel is None else None
        return self.kernel.exited.result()

    async def wait(self) -> int | None:
        """The return code, when the kernel has ended."""
        return None if self.kernel is None else await asyncio.shield(self.kernel.exited)

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group."""
        if self.kernel is not None:
            self.kernel.signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """SIGKILL the kernel and all that it started."""
        if self.kernel is not None:
            self.kernel.kill()

    async def terminate(self, restart: bool = False) -> None:
        """SIGTERM the kernel's process group."""
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Nothing: the host has cleaned up, and who made the host closes it."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing to write here; jupyter_client hands the result to `launch_kernel`."""
        return {**kwargs, "cmd": []}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Have the host fork the kernel; returns the connection info."""
        host: KernelHost = kwargs["host"]
        enclosure: Enclosure = kwargs["enclosure"]
        manager = self._manager
        connection: dict[str, Any] = dict(manager.get_connection_info())
        # The kernel sees the directory of its sockets at another path than the service does.
        inside = {
            **connection,
            "key": connection["key"].decode(),
            "ip": str(enclosure.runtime / Path(manager.ip).name),
        }
        file = enclosure.runtime / Path(manager.connection_file).name
        memory: Memory | Copy | None = kwargs.get("memory")
        if isinstance(memory, Copy):
            self.kernel = memory.process
            host.move(memory, json.dumps(inside), file)
        elif memory is not None:
            self.kernel = host.promote(memory, json.dumps(inside), file)
        else:
            self.kernel = host.start_kernel(
                json.dumps(inside),
                file,
                cwd=enclosure.workspace,
                env={**self.kernel_spec.env, **kwargs["env"]},
                limits=enclosure.rlimits,
                adapter=adapter_of(self.kernel_spec),
            )
        return connection
