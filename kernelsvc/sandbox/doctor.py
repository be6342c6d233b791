"""What this machine can and cannot do for a sandbox, found out by trying, each with its mend.

The service builds its isolation from the same findings that `kernelsvc doctor` prints.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kernelsvc.models.limits import DEFAULT_LIMITS
from kernelsvc.sandbox import cgroups
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.isolation import Enclosure, Isolation
from kernelsvc.sandbox.policy import SandboxPolicy, python_environment
from kernelsvc.sandbox.seccomp import SeccompUnusable, compile_filter
from kernelsvc.sandbox.standing import StandingSandbox

_TRY_SECONDS = 30
_STDERR_CHARACTERS = 400
_LINUX_NEEDED = (5, 8)
"""The first that lets a process join all namespaces of another by its descriptor."""


class Verdict(StrEnum):
    """`weak`: it works, with less than there could be. `missing`: the sandbox does not hold."""

    OK = "ok"
    WEAK = "weak"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` says what to do where it is not as it should be."""

    name: str
    verdict: Verdict
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class SandboxOptions:
    """What the configuration says of sandboxes; sizes in bytes.

    `host_id` is taken on where the service runs as root.
    """

    enabled: bool
    tmp_bytes: int
    shm_bytes: int
    host_id: int


@dataclass(frozen=True)
class Examination:
    """The isolation that this machine allows, and why."""

    isolation: Isolation
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether kernels are sandboxed."""
        return self.isolation.policy is not None


def examine(options: SandboxOptions) -> Examination:
    """Find out what there is, by trying it. Blocks for a second or so.

    The examination's isolation is to be closed.
    """
    findings: list[Finding] = []
    seccomp = b""
    try:
        seccomp = compile_filter()
        findings.append(Finding("seccomp", Verdict.OK, "libseccomp compiles the filter"))
    except SeccompUnusable as error:
        mend = "apt-get install libseccomp2"
        findings.append(Finding("seccomp", Verdict.MISSING, str(error), mend))
    findings += _programs()
    policy = None
    if not options.enabled:
        finding = Finding("sandbox", Verdict.MISSING, "switched off", 'set sandbox = "auto"')
        findings.append(finding)
    elif not _is_missing(findings):
        policy = _policy(options)
        finding = _try_sandbox(Isolation(policy, seccomp))
        findings.append(finding)
        if finding.verdict is Verdict.MISSING:
            policy = None
    hierarchy, finding = _limits()
    findings.append(finding)
    return Examination(Isolation(policy, seccomp, hierarchy), findings)


def _is_missing(findings: Iterable[Finding]) -> bool:
    return any(finding.verdict is Verdict.MISSING for finding in findings)


def _policy(options: SandboxOptions) -> SandboxPolicy:
    return SandboxPolicy(
        readable=python_environment(),
        tmp_bytes=options.tmp_bytes,
        shm_bytes=options.shm_bytes,
        host_id=options.host_id if os.getuid() == 0 else None,
    )


def _programs() -> list[Finding]:
    needed = {"bwrap": "bubblewrap"}
    if os.getuid() == 0:
        needed["setpriv"] = "util-linux"
    findings = []
    for program, package in needed.items():
        path = shutil.which(program)
        if path is None:
            mend = f"apt-get install {package}"
            findings.append(Finding(program, Verdict.MISSING, "not installed", mend))
        else:
            findings.append(Finding(program, Verdict.OK, _version(path)))
    return findings


def _version(path: str) -> str:
    tried = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=_TRY_SECONDS, check=False
    )
    return tried.stdout.strip() or path


def _try_sandbox(isolation: Isolation) -> Finding:
    """Put up a sandbox, go into it as hosts do, and have the kernel host imported there."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelsvc-doctor-"))
        said = stack.enter_context(tempfile.TemporaryFile())
        place = Place(Path(directory, "workspace"), Path(directory, "runtime"))
        for path in (place.workspace, place.runtime):
            path.mkdir()
        # As root, what is tried as another user lies below a directory of root's.
        enclosure = isolation.enclose(place, DEFAULT_LIMITS)
        stack.callback(enclosure.close)
        stack.callback(enclosure.started)
        try:
            sandbox = StandingSandbox.make(enclosure, said.fileno())
            stack.callback(sandbox.close)
            status = _join(sandbox, enclosure, said.fileno())
            why = f"a process that goes in ends with {status}" if status else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        if why:
            said.seek(0)
            why = said.read().decode(errors="replace").strip()[-_STDERR_CHARACTERS:] or why
            return Finding("sandbox", Verdict.MISSING, why, _mend(why))
    detail = "bubblewrap makes namespaces, and Python starts in them"
    if isolation.owner is not None:
        detail += f", as user {isolation.owner[0]} of this machine"
    return Finding("sandbox", Verdict.OK, detail)


def _join(sandbox: StandingSandbox, enclosure: Enclosure, stderr: int) -> int:
    """Start Python in the sandbox; the status that it ends with."""
    python = [sys.executable, "-s", "-P"]
    fds = [sandbox.first, *enclosure.fds]
    owner = -1 if enclosure.owner is None else enclosure.owner
    program = [*python, "-c", "import kernelsvc.kernel_host.wire"]
    return subprocess.run(
        [*python, "-m", "kernelsvc.kernel_host.join", str(owner), *map(str, fds), *program],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        timeout=_TRY_SECONDS,
        env={},
        check=False,
    ).returncode


def _mend(said: str) -> str:
    """What usually helps against what bubblewrap said."""
    if _setting("/proc/sys/user/max_user_namespaces") == "0":
        return "sysctl user.max_user_namespaces=15000"
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "sysctl kernel.unprivileged_userns_clone=1"
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "an AppArmor profile that lets bwrap make user namespaces, or "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if "setns" in said and _linux() < _LINUX_NEEDED:
        return "Linux {}.{} or later".format(*_LINUX_NEEDED)
    if "mount proc" in said or "/proc" in said:
        return "in a container, allow a /proc of its own: --security-opt systempaths=unconfined"
    return (
        "in a container, allow user namespaces: --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
    )


def _linux() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def _setting(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _limits() -> tuple[cgroups.Hierarchy | None, Finding]:
    try:
        hierarchy = cgroups.find()
    except cgroups.NoCgroups as error:
        detail = f"no control groups ({error}): memory and processors are limited per process only"
        mend = "run as root, or under systemd with Delegate=yes"
        return None, Finding("limits", Verdict.WEAK, detail, mend)
    return hierarchy, Finding("limits", Verdict.OK, hierarchy.description)


def machine() -> str:
    """One line on what was examined."""
    user = "root" if os.getuid() == 0 else f"user {os.getuid()}"
    return f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {user}"
