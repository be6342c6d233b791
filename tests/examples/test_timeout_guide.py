"""What users of ERA's timeout guide type, typed at this service: bash, curl and jq over HTTP.

The figures are the guide's. `@90` in a script stands for 90 of its seconds, which last `SECOND`
here; the one slow test keeps real seconds.
"""

import re
import shlex
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from tests.examples.shell import Service, bash

SECOND = 1 / 40

Shell = Callable[[str], CompletedProcess[str]]

# A request as the guide sends it: method, path below /api/sessions, body.
REQUESTS = """
send() {
    curl -s -X "$1" "$URL/api/sessions$2" -H "Content-Type: application/json" -d "$3"
}
"""


@pytest.fixture
def shell(service: Service, tmp_path) -> Shell:
    """Runs a script with the guide's seconds scaled; what it says on stderr is a failure."""

    def run(script: str) -> CompletedProcess[str]:
        scaled = re.sub(r"@(\d+(?:\.\d+)?)", lambda found: f"{float(found[1]) * SECOND:g}", script)
        done = bash(REQUESTS + scaled, tmp_path, URL=service.url)
        assert done.stderr == "", done
        return done

    return run


def test_the_default_of_a_session_covers_a_long_sleep_and_one_run_overrides_it(shell):
    done = shell("""
        send POST "" '{
            "language": "python",
            "session_id": "long-runner",
            "persistent": true,
            "default_timeout": @120
        }' | jq -r .id
        send POST /long-runner/run '{
            "code": "import time; time.sleep(@90); print(\\"Completed!\\")"
        }' | jq -r '.exit_code, .stdout'
        send POST /long-runner/run '{
            "code": "import time; time.sleep(@250); print(\\"Long task done!\\")",
            "timeout": @300
        }' | jq -r '.exit_code, .stdout'
        # The override was for that run alone.
        send POST /long-runner/run '{
            "code": "import time; time.sleep(@250)"
        }' | jq -r .exit_code
    """)
    assert done.stdout.split() == [
        *("long-runner", "0", "Completed!", "0", "Long", "task", "done!", "124")
    ]


def test_a_patched_default_shows_in_the_session_and_counts_from_the_next_run(shell):
    done = shell("""
        send POST "" '{
            "language": "python",
            "session_id": "adaptive-timeout",
            "persistent": true,
            "default_timeout": @30
        }' > created
        send POST /adaptive-timeout/run '{"code": "print(\\"Quick task\\")"}' | jq -r .stdout
        send POST /adaptive-timeout/run '{"code": "import time; time.sleep(@60)"}' | jq .exit_code
        send PATCH /adaptive-timeout '{"default_timeout": @600}' | jq .success
        curl -s $URL/api/sessions/adaptive-timeout | jq '.default_timeout == @600'
        send POST /adaptive-timeout/run '{"code": "import time; time.sleep(@60)"}' | jq .exit_code
    """)
    assert done.stdout.split() == ["Quick", "task", "124", "true", "true", "0"]


def test_the_exit_code_tells_a_timeout_from_an_end(shell):
    done = shell("""
        send POST "" '{"language": "python", "session_id": "my-session"}' > created
        for SECONDS_NEEDED in @60 @1; do
            RESULT=$(send POST /my-session/run '{
                "code": "import time; time.sleep('$SECONDS_NEEDED')",
                "timeout": @10
            }')
            EXIT_CODE=$(echo "$RESULT" | jq -r '.exit_code')
            if [ "$EXIT_CODE" = "124" ]; then
                echo "out of time"
            else
                echo "ended with $EXIT_CODE"
            fi
        done
    """)
    assert done.stdout.splitlines() == ["out of time", "ended with 0"]


# A batch that stops by itself before the session's timeout and goes on where it stopped. How many
# items a call gets done depends on the machine; that all are done, once and in order, does not.
BATCH = """
import json
import time

with open('.session_data.json') as f:
    data = json.load(f)
if 'processed' not in data:
    data['processed'] = []
    data['pending'] = list(range(100))

start = time.time()
while data['pending'] and time.time() - start < @25:
    item = data['pending'].pop(0)
    time.sleep(@1)
    data['processed'].append(f'processed_{item}')

with open('.session_data.json', 'w') as f:
    json.dump(data, f)
print(f"Processed: {len(data['processed'])}/100")
print(f"Remaining: {len(data['pending'])}")
"""


def test_a_batch_called_until_nothing_is_pending_finishes_over_several_runs(shell):
    done = shell(f"""
        cat > batch.py <<'CODE'
{BATCH}
CODE
        send POST "" '{{"language": "python", "session_id": "batch", "default_timeout": @30}}' \\
            > created
        while true; do
            RESULT=$(jq -n --rawfile code batch.py '{{code: $code}}' | send POST /batch/run @-)
            echo "$RESULT" \\
                | jq -r '"\\(.exit_code) \\(.data.processed | length) \\(.data.pending | length)"'
            REMAINING=$(echo "$RESULT" | jq -r '.stdout' | grep "Remaining" | awk '{{print $2}}')
            if [ "$REMAINING" = "0" ]; then
                echo "Batch complete!"
                break
            fi
        done
        curl -s $URL/api/sessions/batch | jq -r '.data.processed | join(" ")'
    """)
    *progress, complete, processed = done.stdout.splitlines()
    assert complete == "Batch complete!"
    assert processed.split() == [f"processed_{item}" for item in range(100)]
    counts = [tuple(map(int, line.split())) for line in progress]
    assert [exit_code for exit_code, _, _ in counts] == [0] * len(counts)
    assert all(done + pending == 100 for _, done, pending in counts)
    assert len(counts) >= 4
    assert sorted({done for _, done, _ in counts}) == [done for _, done, _ in counts]
    assert counts[-1] == (0, 100, 0)


# Saves what it has at the SIGTERM that follows when the interrupt was not enough.
SAVE_AND_EXIT = """
import json
import signal
import time

with open('.session_data.json') as f:
    data = json.load(f)
data.setdefault('items_processed', 0)

def save_and_exit(signum, frame):
    with open('.session_data.json', 'w') as f:
        json.dump(data, f)
    print(f"Timeout! Saved progress: {data['items_processed']} items")
    exit(124)

signal.signal(signal.SIGTERM, save_and_exit)
for item in range(10_000):
    time.sleep(@0.5)
    data['items_processed'] += 1
"""


def test_a_handler_of_sigterm_saves_what_was_done_before_the_end(shell):
    done = shell(f"""
        cat > task.py <<'CODE'
{SAVE_AND_EXIT}
CODE
        send POST "" '{{"language": "python", "session_id": "handler"}}' > created
        for i in 1 2; do
            jq -n --rawfile code task.py '{{code: $code, timeout: @30}}' \\
                | send POST /handler/run @- > run
            jq -r '"\\(.exit_code) \\(.timed_out) \\(.data.items_processed)", .stdout' run
        done
    """)
    first, said_first, _, second, said_second, _ = done.stdout.splitlines()
    items = [int(line.split()[-1]) for line in (first, second)]
    assert [line.split()[:2] for line in (first, second)] == [["124", "true"]] * 2
    assert [said_first, said_second] == [f"Timeout! Saved progress: {n} items" for n in items]
    assert 0 < items[0] < items[1]


def test_progress_saved_on_the_way_survives_the_timeout(shell):
    done = shell("""
        send POST "" '{"language": "python", "session_id": "tracked"}' > created
        jq -n --arg code "
import json, time
data = json.load(open('.session_data.json'))
data['progress'] = {'total': 100, 'completed': 0}
for i in range(100):
    time.sleep(@0.5)
    data['progress']['completed'] = i + 1
    if (i + 1) % 10 == 0:
        with open('.session_data.json', 'w') as f:
            json.dump(data, f)
" '{code: $code, timeout: @30}' | send POST /tracked/run @- > run
        jq -r '.exit_code, .data.progress.completed' run
        curl -s $URL/api/sessions/tracked | jq .data.progress.total
    """)
    exit_code, completed, total = map(int, done.stdout.split())
    assert (exit_code, total) == (124, 100)
    assert completed in range(10, 60, 10)


def test_duration_and_session_can_be_read_with_jq(shell):
    done = shell("""
        send POST "" '{"language": "python", "session_id": "watched", "default_timeout": 600}' \\
            > created
        session() {
            curl -s $URL/api/sessions/watched | jq -c '{
                id: .id,
                language: .language,
                default_timeout: .default_timeout,
                last_run: .last_run_at
            }'
        }
        session
        RESULT=$(send POST /watched/run '{
            "code": "import time; time.sleep(@5); print(\\"Done\\")",
            "timeout": @30
        }')
        echo "$RESULT" | jq -c '{exit_code: .exit_code, duration: .duration}'
        session
    """)
    before, run, after = done.stdout.splitlines()
    session = '{"id":"watched","language":"python","default_timeout":600,"last_run":'
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
    assert before == session + "null}"
    assert re.fullmatch(r'\{"exit_code":0,"duration":"0\.\d{3}s"\}', run)
    assert re.fullmatch(re.escape(session) + f'"{time}"}}', after)


RETRIES = """
    send POST "" '{"language": "python", "session_id": "'$SESSION_ID'"}' > created
    MAX_RETRIES=3
    RETRY_COUNT=0
    while [ $RETRY_COUNT -lt $MAX_RETRIES ]; do
        RESULT=$(jq -n --arg code "$CODE" '{code: $code, timeout: @30}' \\
            | send POST /$SESSION_ID/run @-)
        EXIT_CODE=$(echo "$RESULT" | jq -r '.exit_code')
        if [ "$EXIT_CODE" = "0" ]; then
            echo "ended"
            exit 0
        elif [ "$EXIT_CODE" = "124" ]; then
            RETRY_COUNT=$((RETRY_COUNT + 1))
            echo "timeout $RETRY_COUNT of $MAX_RETRIES"
        else
            echo "exit code $EXIT_CODE"
            exit 1
        fi
    done
    echo "given up"
    exit 1
"""

# Sleeps 40 s, 40 s, then not at all; its workspace outlives the timeouts and counts the attempts.
READY_AT_THE_THIRD = """
import glob, time
attempt = len(glob.glob('attempt*'))
open(f'attempt{attempt}', 'w').close()
time.sleep([@40, @40, 0][attempt])
"""


@pytest.mark.parametrize(
    ("session", "code", "said", "status"),
    [
        (
            "always-too-slow",
            "import time; time.sleep(@40)",
            ["timeout 1 of 3", "timeout 2 of 3", "timeout 3 of 3", "given up"],
            1,
        ),
        ("third-time", READY_AT_THE_THIRD, ["timeout 1 of 3", "timeout 2 of 3", "ended"], 0),
        ("wrong", "import sys; sys.exit(3)", ["exit code 3"], 1),
    ],
    ids=["never-ready", "ready-at-the-third", "fails"],
)
def test_a_retry_loop_goes_by_the_exit_code(shell, session, code, said, status):
    done = shell(f"SESSION_ID={session}\nCODE={shlex.quote(code)}\n{RETRIES}")
    assert done.stdout.splitlines() == said
    assert done.returncode == status


def test_code_keeps_its_own_measurements_in_the_data(shell):
    done = shell("""
        send POST "" '{"language": "python", "session_id": "metrics"}' > created
        for i in 1 2 3; do
            jq -n --arg code "
import json, time
with open('.session_data.json') as f:
    data = json.load(f)
metrics = data.setdefault('metrics', {'runs': 0, 'total_duration': 0})
start = time.time()
time.sleep(@2)
metrics['runs'] += 1
metrics['total_duration'] += time.time() - start
with open('.session_data.json', 'w') as f:
    json.dump(data, f)
print(f\\"Runs: {metrics['runs']}\\")
" '{code: $code}' | send POST /metrics/run @- | jq -r .stdout
        done
        curl -s $URL/api/sessions/metrics | jq '.data.metrics.total_duration >= 3 * @2'
    """)
    assert done.stdout.split() == ["Runs:", "1", "Runs:", "2", "Runs:", "3", "true"]


def test_a_session_that_is_not_persistent_runs_with_the_global_default(shell):
    done = shell("""
        send POST "" '{
            "language": "python",
            "session_id": "quick-task",
            "persistent": false
        }' > created
        send POST /quick-task/run '{"code": "print(\\"Hello World!\\")"}' | jq -r .stdout
    """)
    assert done.stdout.strip() == "Hello World!"


def test_data_given_at_creation_reaches_the_code(shell):
    done = shell("""
        send POST "" '{
            "language": "python",
            "session_id": "async-task",
            "persistent": true,
            "data": {"callback_url": "https://example.com/webhook"}
        }' > created
        send POST /async-task/run '{
            "code": "import json; print(json.load(open(\\".session_data.json\\")))"
        }' | jq -r .stdout
    """)
    assert done.stdout.strip() == "{'callback_url': 'https://example.com/webhook'}"


@pytest.mark.timeout(180)
def test_real_seconds_in_five_sessions_at_once(service, tmp_path):
    done = bash(
        REQUESTS
        + """
        # run ID BODY: what comes of it, in a file of its own
        run() {
            send POST "" '{"language": "python", "session_id": "'$1'", "default_timeout": 30}' \\
                > /dev/null
            send POST /$1/run "$2" | jq -r '"\\(.exit_code) \\(.duration) \\(.stdout)"' > $1
        }
        run needs-45-of-60 '{
            "code": "import time; time.sleep(45); print(\\"Done!\\")",
            "timeout": 60
        }' &
        run needs-60-of-10 '{"code": "import time; time.sleep(60)", "timeout": 10}' &
        run needs-40-of-its-30 '{"code": "import time; time.sleep(40)"}' &
        run needs-5 '{"code": "import time; time.sleep(5); print(\\"Done\\")", "timeout": 30}' &
        wait
        cat needs-45-of-60 needs-60-of-10 needs-40-of-its-30 needs-5
        send PATCH /needs-5 '{"default_timeout": 600}' > /dev/null
        curl -s $URL/api/sessions/needs-5 | jq .default_timeout
        """,
        tmp_path,
        timeout=150,
        URL=service.url,
    )
    assert re.fullmatch(
        r"0 4[56]\.\d{3}s Done!\s+"
        r"124 1[0-4]\.\d{3}s\s+"
        r"124 3[0-4]\.\d{3}s\s+"
        r"0 5\.\d{3}s Done\s+"
        r"600\s+",
        done.stdout,
    ), done
