"""What must be true of one session, as far as the answers tell. Pure.

Where two things may be true (a request has had no answer, requests were sent at the same time), the
model has both: a set of memories, of contents, of words. What is seen later must be one of them,
and is the only one from then on. What a run says of the memory is never believed: it has to be one
of the words that are allowed (`expectations`), and what the run found there must be what it means.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.torture.expectations import MOST_OOMS, REPLACING, WORDS, Fate
from tests.torture.scripts import Script, Seen, canonical, is_a_tool
from tests.torture.violation import hold

FINAL = frozenset({"completed", "failed", "timed_out", "interrupted"})
KEPT, RESTORED, LOST = (frozenset({word}) for word in ("kept", "restored", "lost"))
_TIMED_OUT, _INTERRUPTED, _KILLED = 124, 130, 137
_INTERRUPTING = frozenset(
    {Fate.INTERRUPTED, Fate.RESTARTED, Fate.STOPPED, Fate.CRASHED, Fate.ORPHANED}
)
_KILLING = frozenset({Fate.KILLED, Fate.CRASHED})
_HELD = "there is no snapshot of the memory: the session held"


class Memory(NamedTuple):
    """A session's variables: a text that no other session has, and how often it was changed."""

    token: str | None = None
    counter: int = 0

    def changed_by(self, script: Script) -> "Memory":
        """The memory once the script has made its change."""
        return Memory(self.token or script.token, self.counter + 1)


EMPTY = Memory()


@dataclass
class Session:
    """One session.

    `live` is what its kernel may hold, `completed` what it may have held after the last run that
    ended by itself, `words` are what the next answer may say. `has_memory` tells that it has run,
    or is a copy of one that has, `is_saved` that its memory is kept for when it wakes,
    `has_snapshot` that its kernel, or the one that wakes it, could be replaced by a snapshot; None
    is perhaps. `holds_much`: its kernel holds more than is copied behind a run; `has_lent`: live
    copies may hold the same, which counts as its own. `is_live_copy`: its kernel may be in the
    sandbox of another session. `ooms` is how often in a row memory may have run out. `files` and
    `data` have every content that may be there (None: no file).

    `runs` are the answers that were given, `codes` what was run there, `begun` the runs that were
    taken and have had no answer, `sent` the code of those that still may have one, `unanswered`
    that of those of which nobody knows. `inherited` are the answers to runs that a fork has in its
    history, under other ids, by their code. `marks` are those of processes that its code may have
    running, `kernel` is where its last run was, begun at `ran_at`. `meanwhile` is what may have
    happened to its kernel since the first of `begun` was sent. `is_alone`: requests come one at a
    time. `is_doomed`: it is being deleted, and need not be whole.
    """

    id: str
    on_timeout: str = "restart"
    dozes: bool = False
    live: frozenset[Memory] = frozenset({EMPTY})
    completed: frozenset[Memory] = frozenset({EMPTY})
    words: frozenset[str] = KEPT
    has_memory: bool | None = False
    is_saved: bool | None = False
    has_snapshot: bool | None = False
    holds_much: bool | None = False
    has_lent: bool = False
    is_live_copy: bool = False
    ooms: frozenset[int] = frozenset({0})
    files: dict[str, frozenset[str | None]] = field(default_factory=dict)
    data: frozenset[str] = frozenset({"{}"})
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, Script] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    inherited: dict[str, dict[str, Any]] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    kernel: tuple[int, int] | None = None
    ran_at: float = 0.0
    meanwhile: frozenset[Fate] = frozenset()
    is_alone: bool = True
    is_doomed: bool = False

    # ---- what happens to its kernel

    def words_of(self, fate: Fate) -> frozenset[str]:
        """What may be said after that, as things are now."""
        match fate:
            case Fate.SLEPT | Fate.STOPPED:
                # What was lost before has yet to be told.
                return (self._saved if self.words - LOST else frozenset()) | (self.words & LOST)
            case Fate.CRASHED:
                return self._words_of_a_crash()
            case Fate.ORPHANED:
                return self._words_without_a_kernel()
            case Fate.RAN_OUT:
                ooms = self.ooms | ({0} if self.dozes else set())
                outcomes = {self._is_replaceable and number + 1 < MOST_OOMS for number in ooms}
            case _ if fate in REPLACING:
                outcomes = {self._is_replaceable}
            case _:
                return WORDS[fate]
        told = WORDS[fate] if outcomes != {False} else frozenset[str]()
        return told if outcomes == {True} else told | LOST

    @property
    def _is_replaceable(self) -> bool | None:
        """Whether there is a snapshot; of what a session woke with, there is one, too."""
        may_have_slept = self.dozes and self.has_memory is not False
        return self.has_snapshot or (None if may_have_slept else self.has_snapshot)

    @property
    def _saved(self) -> frozenset[str]:
        """What is said of what sleep has kept: of a session that has never run, that is nothing."""
        saved = frozenset[str]() if self.has_memory is False else WORDS[Fate.SLEPT]
        return saved if self.has_memory else saved | KEPT

    def _words_of_a_crash(self) -> frozenset[str]:
        """The kernel goes on, and with it what is to be told; else there is what was saved."""
        saved = self._saved if self.is_saved is not False or self.dozes else frozenset[str]()
        gone = saved if self.dozes and self.words - LOST else frozenset[str]()
        # One that is being started in place of one that was lost does not outlive it.
        return self.words | gone | (LOST if EMPTY in self.live else frozenset())

    def _words_without_a_kernel(self) -> frozenset[str]:
        """There is what was saved, if anything; what was lost before has yet to be told."""
        may_be_saved = self.is_saved is not False or self.dozes
        words = self.words_of(Fate.SLEPT) if may_be_saved else frozenset[str]()
        if not self.is_saved:
            words |= frozenset[str]() if self.has_memory is False else LOST
            words |= frozenset[str]() if self.has_memory else KEPT
        return words

    def befell(self, fate: Fate) -> None:
        """Its kernel has come to an end between two runs, or to sleep."""
        told = self.words_of(fate)
        if self.begun:
            # Those that had ended by then tell of what was before.
            told |= self.words
        is_gone = not told & KEPT
        self.words = told
        if fate in (Fate.SLEPT, Fate.STOPPED):
            self.is_saved = True
            self.has_snapshot = self.has_memory and (None if told & LOST else True)
        elif fate is Fate.KILLED:
            # One that was woken and has not run comes back as it was saved.
            self.is_saved = self.is_saved and None
        elif fate not in (Fate.CRASHED, Fate.ORPHANED):
            self.is_saved = False
        self._is_replaced(told)
        if fate is not Fate.CRASHED:
            # A snapshot may be of one that did. What sleep keeps is without it.
            is_snapshot = fate in REPLACING and told != LOST
            self.holds_much = (self.holds_much and None) if is_snapshot else False
        if fate not in REPLACING | {Fate.CRASHED}:
            self.is_live_copy = False
        if is_gone or fate is Fate.ORPHANED:
            self.marks.clear()
        self.kernel = None

    def _is_replaced(self, told: frozenset[str]) -> None:
        """Its kernel is, or comes to be, another, of which that is told."""
        if told == LOST:
            self.has_snapshot = False
        elif told == RESTORED:
            self.has_snapshot = True
        elif not told <= KEPT:
            self.has_snapshot = None

    def may_have(self, fate: Fate) -> None:
        """That may have happened: nobody knows."""
        self.words |= self.words_of(fate)
        self.is_saved = None
        self.has_snapshot = None
        self.holds_much = self.holds_much and None

    def copy(self, session_id: str, fate: Fate) -> "Session":
        """A new session that has what this one has."""
        lost = self.words & LOST
        is_fork = fate is Fate.FORKED
        self.has_lent |= is_fork and self.holds_much is not False
        kept = self._saved | WORDS[fate] if is_fork else self._saved
        # A run that has been sent may tell of what was lost, and the copy come behind it.
        may_be_whole = self.sent or self.words - LOST
        words = (kept if may_be_whole else frozenset()) | lost
        copy = Session(
            session_id,
            self.on_timeout,
            self.dozes,
            live=self.live | self.completed,
            completed=self.live | self.completed,
            words=words,
            has_memory=self.has_memory,
            is_saved=None if is_fork else True,
            has_snapshot=True if self.has_memory and not lost and not self.holds_much else None,
            holds_much=(self.holds_much and None) if is_fork else False,
            has_lent=is_fork and self.has_lent,
            is_live_copy=is_fork,
            files=dict(self.files),
            data=self.data,
        )
        if is_fork:
            own = {self.codes[run_id]: run for run_id, run in self.runs.items()}
            copy.inherited = self.inherited | own
            copy.unanswered = [*self.unanswered, *self.sent]
        return copy

    def was_copied(self, fate: Fate) -> None:
        """There is a copy of it."""
        if fate is Fate.FORKED:
            # A snapshot of the kernel as it is, if there is one.
            self.has_snapshot = self.has_snapshot or (True if self.kernel else None)
        else:
            # What is saved for the copy is saved for the source as well.
            self.is_saved = None

    # ---- what its code does

    def may_run(self, script: Script) -> None:
        """A run has been sent of which there is no answer (yet): it may have done anything."""
        every = self.live | self.completed | {EMPTY}
        self.live |= {memory.changed_by(script) for memory in every}
        # It may be the first, and those that were sent before it come behind it.
        self.live |= {Memory(script.token, 1 + behind) for behind in range(1 + len(self.sent))}
        self.completed |= self.live
        for path, content in script.files.items():
            self.may_write(path, content)
        if script.data is not None:
            self.data |= {script.data}
        if script.mark is not None:
            self.marks.add(script.mark)
        self.has_snapshot = self.has_snapshot or None
        if script.fate is not None:
            self.words |= self.words_of(script.fate)
            self.has_snapshot = None
        if script.holds_much or script.fate is not None:
            self.holds_much = None if script.holds_much or self.holds_much else self.holds_much
            self.has_snapshot = None
        self.ooms |= {0} | {number + 1 for number in self.ooms if script.fate is Fate.RAN_OUT}
        self.has_memory = self.has_memory or None
        self.is_saved = None if self.is_saved else self.is_saved
        self.sent.append(script.code)

    def never_heard(self, script: Script) -> None:
        """A run will never be answered: what it was to tell, it may have told in the history."""
        if script.fate in REPLACING:
            # A service that ends while it replaces a kernel leaves none.
            self.words |= LOST
        if self.words & LOST:
            self.live |= {EMPTY}
            self.completed |= {EMPTY}
        self.words |= KEPT

    def ran(
        self, script: Script, answer: dict[str, Any], meanwhile: frozenset[Fate] = frozenset()
    ) -> None:
        """A run has been answered; `meanwhile` may have happened at any time since it was sent."""
        meanwhile |= self.meanwhile
        hold(answer["session_id"] == self.id, "the answer is another session's", answer)
        self.runs[answer["run_id"]] = answer
        self.codes[answer["run_id"]] = script.code
        self.sent = [code for code in self.sent if code != script.code]
        self.begun.pop(answer["run_id"], None)
        if not self.begun:
            self.meanwhile = frozenset()
        told, words = answer["memory"], self._words_now(meanwhile)
        lives = self._check_ending(script, answer, meanwhile)
        if answer["exit_code"] is None or answer["started_at"] is None:
            # It never began, or the service's end came between: the next one tells the same.
            hold(told in words | KEPT, "memory is", told, sorted(words), answer)
            self.may_run(script)
            self.sent.remove(script.code)
            if told not in KEPT:
                self.words |= KEPT
            return
        hold(answer["missing"] is None or Fate.CRASHED in meanwhile, "output is missing", answer)
        seen = script.seen(answer["stdout"]) if answer["missing"] is None else None
        self._check_output(script, answer, seen, lives)
        allowed = words if lives is not False else words & LOST
        if lives is not True:
            ends = {script.fate} if script.fate else meanwhile - {Fate.INTERRUPTED}
            allowed = allowed.union(*map(self.words_of, ends))
        if lives is False:
            # What brings the memory back does not bring back what was lost before.
            allowed = LOST if words == LOST else allowed - KEPT
        hold(told in allowed, "memory is", told, sorted(allowed), answer, self)
        if told in LOST and self.holds_much and script.fate in REPLACING - {Fate.RAN_OUT}:
            hold(_HELD in answer["memory_detail"], "memory is lost, and not as told", answer, self)
        found = None if seen is None else self._check_seen(seen)
        self._check_memory(told, found, lives, words)
        self._take_over(script, answer, found, lives)
        self._has_ended(script, told, lives)
        self.words, self.has_memory, self.is_saved = KEPT, True, False
        self.kernel = seen.kernel if seen is not None and lives else None
        self.ran_at = seen.at if seen is not None else 0.0
        if meanwhile & {Fate.CRASHED, Fate.ORPHANED}:
            # It may have ended before, and what it tells of be gone since.
            self.words, self.is_saved, self.kernel = words | KEPT, None, None
            self.has_snapshot = None

    def _has_ended(self, script: Script, told: str, lives: bool | None) -> None:
        """What there is for the next time that the kernel ends."""
        match lives, told:
            case True, _:
                if script.holds_much:
                    self.holds_much = True
                elif told not in KEPT or self.dozes:
                    self.holds_much = self.holds_much and None
                self.has_snapshot = None if self.holds_much is None else not self.holds_much
                self.ooms = frozenset({0})
            case False, "lost":
                # There is a new one.
                self.has_snapshot, self.is_live_copy, self.ooms = False, False, frozenset({0})
                self.holds_much = False
            case False, _:
                self.has_snapshot = True
                self.holds_much = self.holds_much and None
                if script.fate is Fate.RAN_OUT:
                    self.ooms = frozenset(number + 1 for number in self.ooms)
            case _:
                self.has_snapshot = None
                self.holds_much = None if script.holds_much or self.holds_much else self.holds_much
                self.ooms |= {0}

    def _words_now(self, meanwhile: Iterable[Fate]) -> frozenset[str]:
        words = self.words.union(*map(self.words_of, meanwhile))
        if self.dozes and words - LOST:
            words |= WORDS[Fate.SLEPT]
        return words

    def _check_ending(
        self, script: Script, answer: dict[str, Any], meanwhile: frozenset[Fate]
    ) -> bool | None:
        """Whether the run's kernel has outlived it; None where that cannot be said."""
        code, status = answer["exit_code"], answer["status"]
        hold(status in FINAL, "an answered run is", status)
        is_timed_out = {answer["timed_out"], code == _TIMED_OUT, status == "timed_out"}
        hold(len(is_timed_out) == 1, "the run timed out, and did not", answer)
        if status == "interrupted":
            hold(code in (_INTERRUPTED, None), "an interrupted run has the exit code", code)
            hold(bool(meanwhile & _INTERRUPTING), "nobody has interrupted", answer)
            return None
        if code == _KILLED and meanwhile & _KILLING:
            return False
        hold(code in script.exit_codes, "the exit code is", code, script.exit_codes, answer)
        if script.fate is Fate.RAN_OUT:
            # Without control groups, memory is limited by what the allocation raises.
            return bool(code != _KILLED)
        return script.fate in (None, Fate.GAVE_WAY)

    def _check_output(
        self, script: Script, answer: dict[str, Any], seen: Seen | None, lives: bool | None
    ) -> None:
        if lives and script.fate is not Fate.GAVE_WAY and answer["missing"] is None:
            hold(seen is not None, "the run has not said what it found", answer)
            hold(script.has_said_all(answer["stdout"]), "output is missing or strange", answer)

    def _check_seen(self, seen: Seen) -> Memory:
        """What the run found when it began; no other session's, and whole."""
        memory = Memory(seen.token, seen.counter)
        names = [] if memory == EMPTY else ["counter", "token"]
        hold(seen.names == names, "the namespace has", seen.names, "and should have", names)
        hold(
            {path for path in seen.files if not is_a_tool(path)}
            <= {path for path, contents in self.files.items() if contents != {None}},
            "the run sees files that are not the session's",
            sorted(seen.files),
            self,
        )
        for path, contents in self.files.items():
            content = seen.files.get(path)
            hold(content in contents, "the run sees in", path, content, contents)
            if self.is_alone:
                self.files[path] = frozenset({content})
        hold(seen.data in self.data, "the run sees the data", seen.data, self.data)
        return memory

    def _check_memory(
        self, told: str, found: Memory | None, lives: bool | None, words: frozenset[str]
    ) -> None:
        if found is None:
            return
        possible: dict[str, frozenset[Memory]] = {
            "kept": self.live,
            "restored": self.live | self.completed,
            "lost": frozenset({EMPTY}),
        }
        # A kernel that has not outlived the run had, when it began, what the word was for then.
        now = [told] if lives else sorted(words)
        right = frozenset().union(*(possible[word] for word in now))
        hold(found in right, "memory is", told, "and the run finds", found, "not", set(right))

    def _take_over(
        self, script: Script, answer: dict[str, Any], found: Memory | None, lives: bool | None
    ) -> None:
        told, has_changed = answer["memory"], script.has_changed(answer["stdout"])
        # One that has run to its end has changed all it was to, whoever heard of it.
        has_changed |= bool(lives) and script.fate is None
        before = self.live | self.completed | {EMPTY} if found is None else frozenset({found})
        after = frozenset(memory.changed_by(script) for memory in before)
        if not has_changed:
            after |= before
        lost = frozenset({EMPTY})
        match lives, told:
            case True, _:
                self.live = self.completed = after
                if script.fate is Fate.GAVE_WAY:
                    self.completed |= before
            case False, "lost":
                self.live = self.completed = lost
            case False, _:
                self.live = self.completed = before
            case _, "kept":
                self.live, self.completed = after, before | after
            case _:
                self.live = self.completed = before | after | lost
        if lives is False:
            self.marks.clear()
        if lives is not False and script.mark is not None:
            self.marks.add(script.mark)
        self._take_over_files(script, has_changed)
        data = canonical(answer["data"])
        if script.data is not None:
            new = frozenset({script.data})
            self.data = new if has_changed and self.is_alone else self.data | new
        hold(data in self.data, "the run's data are", data, set(self.data), answer)
        if self.is_alone:
            self.data = frozenset({data})

    def _take_over_files(self, script: Script, has_changed: bool) -> None:
        for path, content in script.files.items():
            if has_changed:
                self.files[path] = frozenset({content})
            else:
                self.may_write(path, content)

    # ---- files

    def may_write(self, path: str, content: str | None) -> None:
        """A file may have been written, or deleted (None)."""
        self.files[path] = self.files.get(path, frozenset({None})) | {content}

    def wrote(self, path: str, content: str | None) -> None:
        """A file has been written, or deleted (None)."""
        self.files[path] = frozenset({content})

    def found_file(self, path: str, content: str | None) -> None:
        """A file has been read."""
        contents = self.files.get(path, frozenset({None}))
        hold(content in contents, "the file", path, "is", content, "and should be", set(contents))
        self.files[path] = frozenset({content})

    def listed(self, paths: Iterable[str]) -> None:
        """The files have been listed."""
        there = {path for path in paths if not is_a_tool(path)}
        for path in there | self.files.keys():
            contents = self.files.get(path, frozenset({None}))
            right = bool(contents - {None}) if path in there else None in contents
            hold(right, "files listed", sorted(there), "and should be", self.files)

    # ---- itself and its history

    def shown(self, session: dict[str, Any]) -> None:
        """It has been shown, when no run was going on."""
        data = canonical(session["data"])
        hold(data in self.data, "the session's data are", data, set(self.data))
        least, most = len(self.runs), len(self.runs) + len(self.unanswered)
        hold(least <= session["run_count"] <= most, "runs were", least, most, session)

    def remembered(self, history: list[dict[str, Any]]) -> None:
        """Its runs have been listed, newest first, when none was going on that is not `begun`."""
        ids = [run["run_id"] for run in reversed(history)]
        hold(len(set(ids)) == len(ids), "a run is in the history twice", ids)
        answered = [run_id for run_id in ids if run_id in self.runs]
        lost = self.runs.keys() - set(answered)
        hold(not lost, "runs that were answered are not in the history", sorted(lost))
        hold(not self.begun.keys() - set(ids), "runs that were taken are not in the history", ids)
        unanswered = list(self.unanswered)
        for run in history:
            if run["run_id"] in self.begun:
                continue
            hold(run["status"] in FINAL, "a run is stuck", run)
            if run["run_id"] not in self.runs and run["code"] in self.inherited:
                own = {"run_id": run["run_id"], "session_id": self.id}
                self.runs[run["run_id"]] = self.inherited.pop(run["code"]) | own
                self.codes[run["run_id"]] = run["code"]
            if (known := self.runs.get(run["run_id"])) is None:
                hold(run["code"] in unanswered, "a run in the history that nobody sent", run)
                unanswered.remove(run["code"])
            else:
                told = {name: run[name] for name in ("status", "exit_code", "memory", "timed_out")}
                hold(all(known[name] == told[name] for name in told), "it was another run", run)
        hold(not self.inherited, "runs of the source are not in the history", self.inherited)

    def reread(self, run: dict[str, Any]) -> None:
        """A run that was answered has been read again."""
        known = self.runs[run["run_id"]]
        wrong = [name for name in known if name != "background" and run.get(name) != known[name]]
        hold(not wrong, "a run has changed since its answer", wrong, run, known)
