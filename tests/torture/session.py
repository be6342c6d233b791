"""What must be true of one session, as far as the answers tell. Pure.

Where two things may be true (a request has had no answer, requests were sent at the same time), the
model has both: a set of memories, of contents, of words. What is seen later must be one of them,
and is the only one from then on. What a run says of the memory is never believed: it has to be one
of the words that are allowed (`expectations`), and what the run found there must be what it means.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.torture.expectations import WORDS, Fate
from tests.torture.scripts import Script, Seen, canonical, is_a_tool
from tests.torture.violation import hold

FINAL = frozenset({"completed", "failed", "timed_out", "interrupted"})
KEPT, RESTORED, LOST = (frozenset({word}) for word in ("kept", "restored", "lost"))
_TIMED_OUT, _INTERRUPTED, _KILLED = 124, 130, 137
_INTERRUPTING = frozenset({Fate.INTERRUPTED, Fate.RESTARTED, Fate.STOPPED, Fate.CRASHED})
_KILLING = frozenset({Fate.KILLED, Fate.CRASHED})


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
    or is a copy of one that has, `is_saved` that its memory is kept for when it wakes; None is
    perhaps. `files` and `data` have every content that may be there (None: no file).

    `runs` are the answers that were given, `begun` the runs that were taken and have had none,
    `unanswered` the code of those of which nobody knows. `marks` are those of processes that its
    code may have running, `kernel` is where its last run was. `meanwhile` is what may have happened
    to its kernel since the first of `begun` was sent. `is_alone`: requests come one at a time.
    `is_doomed`: it is being deleted, and need not be whole.
    """

    id: str
    on_timeout: str = "restart"
    dozes: bool = False
    live: frozenset[Memory] = frozenset({EMPTY})
    completed: frozenset[Memory] = frozenset({EMPTY})
    words: frozenset[str] = KEPT
    has_memory: bool | None = False
    is_saved: bool | None = False
    files: dict[str, frozenset[str | None]] = field(default_factory=dict)
    data: frozenset[str] = frozenset({"{}"})
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, Script] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    kernel: tuple[int, int] | None = None
    meanwhile: frozenset[Fate] = frozenset()
    is_alone: bool = True
    is_doomed: bool = False

    # ---- what happens to its kernel

    def befell(self, fate: Fate) -> None:
        """Its kernel has come to an end between two runs, or to sleep."""
        told = WORDS[fate]
        if fate in (Fate.SLEPT, Fate.STOPPED):
            # What was lost before has yet to be told.
            told = (told if self.words - LOST else frozenset()) | (self.words & LOST)
            self.is_saved = True
        elif fate is Fate.CRASHED and (self.is_saved is not False or self.dozes):
            told = self.words if self.is_saved else self.words | told | RESTORED
        else:
            if fate is Fate.CRASHED:
                told |= self.words - KEPT
            self.is_saved = False
        if fate in (Fate.STOPPED, Fate.CRASHED) and told & LOST and not self.runs:
            # That a copy has nothing, as its source had nothing, is told until the service ends.
            told |= KEPT
        if self.begun:
            # Those that had ended by then tell of what was before.
            told |= self.words
        self.words = told if self.has_memory else told | KEPT
        if not WORDS[fate] & KEPT:
            self.marks.clear()
        self.kernel = None

    def may_have(self, fate: Fate) -> None:
        """That may have happened: nobody knows."""
        self.words |= WORDS[fate]
        self.is_saved = None

    def copy(self, session_id: str, fate: Fate) -> "Session":
        """A new session that has what this one has."""
        lost = self.words & LOST
        words = (WORDS[fate] if self.words - LOST else frozenset()) | lost
        return Session(
            session_id,
            self.on_timeout,
            self.dozes,
            live=self.live | self.completed,
            completed=self.live | self.completed,
            words=words if self.has_memory else words | KEPT | LOST,
            has_memory=self.has_memory,
            is_saved=fate is Fate.COPIED or None,
            files=dict(self.files),
            data=self.data,
        )

    # ---- what its code does

    def may_run(self, script: Script) -> None:
        """A run has been sent of which there is no answer (yet): it may have done anything."""
        every = self.live | self.completed | {EMPTY}
        self.live |= {memory.changed_by(script) for memory in every}
        self.completed |= self.live
        for path, content in script.files.items():
            self.may_write(path, content)
        if script.data is not None:
            self.data |= {script.data}
        if script.mark is not None:
            self.marks.add(script.mark)
        if script.fate is not None:
            self.words |= WORDS[script.fate]
        self.has_memory = self.has_memory or None
        self.is_saved = None if self.is_saved else self.is_saved

    def ran(
        self, script: Script, answer: dict[str, Any], meanwhile: frozenset[Fate] = frozenset()
    ) -> None:
        """A run has been answered; `meanwhile` may have happened at any time since it was sent."""
        meanwhile |= self.meanwhile
        hold(answer["session_id"] == self.id, "the answer is another session's", answer)
        self.runs[answer["run_id"]] = answer
        self.begun.pop(answer["run_id"], None)
        if not self.begun:
            self.meanwhile = frozenset()
        told, words = answer["memory"], self._words_now(meanwhile)
        lives = self._check_ending(script, answer, meanwhile)
        if answer["exit_code"] is None or answer["started_at"] is None:
            # It never began, or the service's end came between: it tells of nothing.
            hold(told in words | KEPT, "memory is", told, sorted(words), answer)
            self.may_run(script)
            return
        seen = script.seen(answer["stdout"])
        self._check_output(script, answer, seen, lives)
        allowed = words if lives is not False else words & LOST
        if lives is not True:
            ends = {script.fate} if script.fate else meanwhile - {Fate.INTERRUPTED}
            allowed = allowed.union(*(WORDS[fate] for fate in ends))
        if lives is False:
            allowed -= KEPT
        hold(told in allowed, "memory is", told, sorted(allowed), answer, self)
        found = None if seen is None else self._check_seen(seen)
        self._check_memory(told, found, lives, words)
        self._take_over(script, answer, found, lives)
        self.words, self.has_memory, self.is_saved = KEPT, True, False
        self.kernel = seen.kernel if seen is not None and lives else None
        if Fate.CRASHED in meanwhile:
            # It may have ended before, and what it tells of be gone since.
            self.words, self.is_saved, self.kernel = words | KEPT, None, None

    def _words_now(self, meanwhile: Iterable[Fate]) -> frozenset[str]:
        words = self.words.union(*(WORDS[fate] for fate in meanwhile))
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
        if lives and script.fate is not Fate.GAVE_WAY:
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
            if (known := self.runs.get(run["run_id"])) is None:
                hold(run["code"] in unanswered, "a run in the history that nobody sent", run)
                unanswered.remove(run["code"])
            else:
                told = {name: run[name] for name in ("status", "exit_code", "memory", "timed_out")}
                hold(all(known[name] == told[name] for name in told), "it was another run", run)

    def reread(self, run: dict[str, Any]) -> None:
        """A run that was answered has been read again."""
        known = self.runs[run["run_id"]]
        wrong = [name for name in known if name != "background" and run.get(name) != known[name]]
        hold(not wrong, "a run has changed since its answer", wrong, run, known)
