"""Operation after operation, the end of the service now and then, and checks after each."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.torture import world
from tests.torture.checking import Checker
from tests.torture.choices import (
    BE_DEAF,
    HOLD,
    HOLD_AND_BE_DEAF,
    KILL_KERNEL,
    TOGETHER,
    Choices,
)
from tests.torture.expectations import Fate
from tests.torture.journal import Journal
from tests.torture.model import Model
from tests.torture.requests import Delete, Request
from tests.torture.sending import Sender
from tests.torture.service import LONG_GRACE, SHORT_GRACE, Service
from tests.torture.session import FINAL, Session
from tests.torture.violation import hold

KILL_SERVICE: Final = "kill the service"
ORPHAN_KERNELS: Final = "kill the service and start it when all has ended"
STOP_SERVICE: Final = "stop the service"
_IN_A_KILL: Final = 0.8
"""How many of the kills come in the midst of requests."""
_FORKS_IN_A_KILL: Final = 0.5
"""In how many of those one of them is a fork."""
_BETWEEN_THOROUGH_CHECKS: Final = 25
_WAIT_SECONDS: Final = 60
_AT_ONCE: Final = 0.3
"""How many of the kernels that are killed are killed as soon as their run was answered."""
_FORK: Final = "/api/sessions/{session_id}/fork"


@dataclass(frozen=True)
class Plan:
    """So many operations, with so many ends of the service among them, by this seed.

    Behind one in three `kills` no service comes before everything has ended.
    """

    seed: int
    operations: int
    kills: int
    stops: int


class Torture:
    """One service, tortured by a plan; raises Violation."""

    def __init__(self, plan: Plan, service: Service, journal: Journal) -> None:
        self._plan = plan
        self._service = service
        self._journal = journal
        self._random = Random(plan.seed)
        self._model = Model()
        self._sender = Sender(service, self._model, journal)
        self._checker = Checker(service, self._model, self._sender, journal, self._random)
        self._ends = self._when_it_ends()
        self._start_service()
        can_fork = _FORK in self._sender.json("/openapi.json")["paths"]
        self._choices = Choices(self._random, self._model, can_fork)

    def run(self, progress: Callable[[int], None]) -> None:
        """Do it all; `progress` is told how many operations have been done."""
        ends = self._ends
        done = 0
        while (done := self._journal.operations.total()) < self._plan.operations or ends:
            progress(done)
            if ends and done >= ends[0][0]:
                self._end_service(ends.pop(0)[1])
            else:
                self._operation()
            if self._journal.operations.total() // _BETWEEN_THOROUGH_CHECKS > (
                done // _BETWEEN_THOROUGH_CHECKS
            ):
                self._checker.thoroughly()
        self._finish()

    def _when_it_ends(self) -> list[tuple[int, str]]:
        orphaning = (self._plan.kills + 1) // 3
        kinds = [KILL_SERVICE] * (self._plan.kills - orphaning)
        kinds += [ORPHAN_KERNELS] * orphaning + [STOP_SERVICE] * self._plan.stops
        self._random.shuffle(kinds)
        apart = self._plan.operations / (len(kinds) + 1)
        moments = (apart * (n + 0.5 + self._random.random()) for n in range(len(kinds)))
        return list(zip(map(int, moments), kinds, strict=True))

    # ---- one operation

    def _operation(self) -> None:
        operation = self._choices.operation()
        if operation == "create":
            touched = self._alone(self._choices.request(operation, None))
        elif operation == TOGETHER:
            requests = self._several()
            self._journal.note("---- together")
            self._sender.together(requests)
            touched = [name for request in requests for name in request.touches]
        else:
            session = self._choices.session()
            touched = [session.id]
            if session.begun and operation not in ("background", "delete"):
                self._settle(session)
            if operation == KILL_KERNEL:
                self._kill_kernel(session)
            elif operation == HOLD_AND_BE_DEAF:
                for each in (HOLD, BE_DEAF):
                    self._alone(self._choices.request(each, session))
            else:
                touched = self._alone(self._choices.request(operation, session))
        self._checker.quickly(touched)

    def _alone(self, request: Request) -> list[str]:
        self._sender.alone(request)
        return request.touches

    def _several(self, *first: str) -> list[Request]:
        requests: list[Request] = []
        for number in range(self._random.randint(2, 5)):
            operation = self._choices.operation(together=True)
            if number < len(first):
                operation = first[number]
            same = self._random.random() < 0.5 and requests
            session = (
                self._model.sessions[requests[-1].session_id] if same else self._choices.session()
            )
            if session.begun:
                self._settle(session)
            if operation == "delete" and any(
                isinstance(one, Delete) and one.session_id == session.id for one in requests
            ):
                continue
            requests.append(self._choices.request(operation, session, alone=False))
        return requests

    def _kill_kernel(self, session: Session) -> None:
        self._journal.operations[KILL_KERNEL] += 1
        if session.kernel is None or session.dozes:
            self._sender.alone(self._choices.request("run", session))
        if session.kernel is None or session.dozes:
            return
        if self._random.random() < _AT_ONCE:
            # It may be too soon for a snapshot of what its last run has left.
            session.has_snapshot = session.has_snapshot and None
        else:
            world.await_snapshot(*session.kernel, since=session.ran_at)
        self._kill(session)
        session.befell(Fate.KILLED)
        # The service may not know it yet when the next run comes.
        session.meanwhile = frozenset({Fate.KILLED})

    def _kill(self, session: Session) -> None:
        assert session.kernel is not None
        if (process := world.find(*session.kernel)) is not None:
            self._journal.note("SIGKILL for the kernel of", session.id, process.pid)
            process.kill()
            process.wait(world.PATIENCE)

    # ---- runs in the background

    def _settle(self, session: Session) -> None:
        """Have the runs of a session that wait or go on come to an end."""
        self._journal.note("---- settle", session.id)
        for run_id, script in list(session.begun.items()):
            path = f"/api/sessions/{session.id}/runs/{run_id}"
            if script.waits and self._sender.json(path)["status"] not in FINAL:
                how = self._random.choice(["go", "go", "cancel", "interrupt", "restart", "kill"])
                self._end_run(session, path, script.go, how)
            answer = self._sender.json(f"{path}?wait={_WAIT_SECONDS}")
            self._journal.note("settled", run_id, answer["status"], answer["memory"])
            self._journal.words[answer["memory"]] += 1
            hold(answer["status"] in FINAL, "a run in the background is stuck", answer)
            session.ran(script, answer)

    def _end_run(self, session: Session, path: str, go: str, how: str) -> None:
        self._journal.note("end the run of", session.id, "by", how)
        self._journal.operations[f"end a run: {how}"] += 1
        file = f"/api/sessions/{session.id}/files/{go}"
        if how == "go":
            hold(self._sender.ask("PUT", file, content=b"").is_success, "no file can be put")
            return

        def does_not_run() -> str | None:
            status = self._sender.json(path)["status"]
            return None if status == "running" else f"{path} is {status}"

        world.until(does_not_run)
        if how == "cancel":
            session.meanwhile |= {Fate.INTERRUPTED}
            self._sender.ask("DELETE", path)
        elif how == "interrupt":
            session.meanwhile |= {Fate.INTERRUPTED}
            self._sender.ask("POST", f"/api/sessions/{session.id}/interrupt")
        elif how == "restart":
            session.meanwhile |= {Fate.RESTARTED}
            self._sender.ask("POST", f"/api/sessions/{session.id}/restart")
        elif session.kernel is not None and world.find(*session.kernel) is not None:
            session.meanwhile |= {Fate.KILLED}
            self._kill(session)
        else:
            self._sender.ask("PUT", file, content=b"")

    # ---- ends of the service

    def _end_service(self, how: str) -> None:
        self._journal.note(f"==== {how}")
        self._journal.operations[how] += 1
        if how == STOP_SERVICE:
            self._stop()
        else:
            self._kill_service(is_over=how == ORPHAN_KERNELS)
        self._start_service()
        self._resolve()
        for session in list(self._model.sessions.values()):
            if session.begun:
                self._settle(session)
        self._checker.thoroughly()

    def _start_service(self) -> None:
        self._journal.note("==== start the service")
        is_short = self._ends and self._ends[0][1] == ORPHAN_KERNELS
        self._service.start(SHORT_GRACE if is_short else LONG_GRACE)

    def _stop(self) -> None:
        for session in self._model.sessions.values():
            if session.begun:
                self._settle(session)
        self._service.stop()
        self._model.befell_all(Fate.STOPPED)
        world.check_nothing_is_left(self._service)
        self._checker.ended("nothing is left of a service that was stopped")

    def _kill_service(self, *, is_over: bool) -> None:
        """Kill it, live copies and all; where that `is_over`, see everything end."""
        fate = Fate.ORPHANED if is_over else Fate.CRASHED
        can_fork = self._choices.can_fork and self._model.sessions
        if can_fork:
            self._have_live_copies()
        if self._model.sessions and self._random.random() < _IN_A_KILL:
            first = ["fork"] if can_fork and self._random.random() < _FORKS_IN_A_KILL else []
            self._sender.together(self._several(*first), self._service.kill)
        else:
            self._service.kill()
        if is_over:
            world.check_all_has_ended(self._service)
            self._checker.ended("nothing is left of a service that was killed, and its kernels")
        elif any(session.is_live_copy for session in self._model.sessions.values()):
            self._checker.ended("live copies outlived a service")
        for session in self._model.sessions.values():
            for script in session.begun.values():
                session.may_run(script)
                session.meanwhile |= {fate}
        self._model.befell_all(fate)

    def _have_live_copies(self) -> None:
        session = self._choices.session()
        if session.begun:
            self._settle(session)
        for operation in ("run", "fork"):
            self._alone(self._choices.request(operation, session))

    def _resolve(self) -> None:
        """Ask for the sessions of which nobody knows whether they are there."""
        for session_id, session in list(self._model.may_be.items()):
            path = f"/api/sessions/{session_id}"
            if session.is_doomed:
                self._sender.ask("DELETE", path)
            status = self._sender.ask("GET", path).status_code
            hold(status in (200, 404), f"{path} is answered with", status)
            hold(status == 404 or not session.is_doomed, "a deleted session is there", session_id)
            self._journal.note(session_id, "is there" if status == 200 else "is not there")
            del self._model.may_be[session_id]
            if status == 200:
                self._model.sessions[session_id] = session

    def _finish(self) -> None:
        self._journal.note("==== the end")
        for session in self._model.sessions.values():
            if session.begun:
                self._settle(session)
            self._sender.alone(self._choices.request("run", session))
        self._checker.thoroughly()
        self._service.stop()
        world.check_nothing_is_left(self._service)
        self._checker.ended("nothing is left of a service that was stopped")
