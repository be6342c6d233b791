"""What a new session is, from what is asked for."""

from kernelsvc import clock
from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.kernels.languages import Languages
from kernelsvc.models.caller import Caller
from kernelsvc.models.session import CreateSession, SessionRecord
from kernelsvc.sessions.newcomers import new_session_id
from kernelsvc.sessions.policy import SessionPolicy
from kernelsvc.setup.plan import impossible
from kernelsvc.setup.sandboxes import SetupPolicy


def new_record(
    caller: Caller,
    request: CreateSession,
    policy: SessionPolicy,
    languages: Languages,
    setups: SetupPolicy,
) -> SessionRecord:
    """The record; raises InvalidRequest for a language or a setup that cannot be."""
    language = languages.asked(request.language, request.env)
    languages.check_snapshots(language.name, request.snapshots)
    _check_setup(request, setups)
    internet = request.allowInternetAccess
    return SessionRecord(
        id=request.session_id or new_session_id(),
        language=language.name,
        persistent=request.persistent,
        created_at=clock.now(),
        default_timeout=request.default_timeout,
        sleep_after=request.sleep_after,
        on_timeout=request.on_timeout,
        snapshots=request.snapshots,
        env=request.env,
        limits=request.limits,
        data=request.data,
        metadata=request.metadata,
        allow_internet_access=policy.internet_by_default if internet is None else internet,
        allow_public_access=request.allowPublicAccess,
        owner=caller.owner,
        setup=request.setup,
        setup_status=None if request.setup is None else "pending",
    )


def _check_setup(request: CreateSession, setups: SetupPolicy) -> None:
    if request.setup is None:
        return
    problems = impossible(request.setup, internet=setups.internet)
    if not request.persistent:
        why = "needs a persistent session: every run of others begins with an empty workspace"
        problems.append(FieldProblem("setup", why))
    if problems:
        raise InvalidRequest(problems)
