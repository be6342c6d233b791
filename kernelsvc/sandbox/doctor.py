"""What this machine can and cannot do for a sandbox, found out by trying, each with its mend.

The service builds its isolation from the same findings that `kernelsvc doctor` prints.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kernelsvc.models.limits import DEFAULT_LIMITS
from kernelsvc.sandbox import cgroups
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.isolation import Isolation
from kernelsvc.sandbox.policy import SandboxPolicy, python_environment
from kernelsvc.sandbox.seccomp import SeccompUnusable, compile_filter

_TRY_SECONDS = 30
_STDERR_CHARACTERS = 400


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
    """Start a sandbox and have the kernel host imported in it."""
    with tempfile.TemporaryDirectory(prefix="kernelsvc-doctor-") as directory:
        place = Place(Path(directory, "workspace"), Path(directory, "runtime"))
        for path in (place.workspace, place.runtime):
            path.mkdir()
        # As root, what is tried as another user lies below a directory of root's.
        enclosure = isolation.enclose(place, DEFAULT_LIMITS)
        program = [sys.executable, "-s", "-P", "-c", "import kernelsvc.kernel_host.wire"]
        try:
            tried = subprocess.run(
                [*enclosure.command, *program],
                pass_fds=enclosure.fds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TRY_SECONDS,
                env={},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("sandbox", Verdict.MISSING, str(error), _mend(""))
        finally:
            enclosure.started()
            enclosure.close()
    if tried.returncode == 0:
        detail = "bubblewrap starts Python in namespaces of its own"
        if isolation.owner is not None:
            detail += f", as user {isolation.owner[0]} of this machine"
        return Finding("sandbox", Verdict.OK, detail)
    said = tried.stderr.strip()[-_STDERR_CHARACTERS:] or f"it ended with {tried.returncode}"
    return Finding("sandbox", Verdict.MISSING, said, _mend(said))


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
    if "mount proc" in said or "/proc" in said:
        return "in a container, allow a /proc of its own: --security-opt systempaths=unconfined"
    return (
        "in a container, allow user namespaces: --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
    )


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
