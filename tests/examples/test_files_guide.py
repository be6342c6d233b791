"""What users of ERA's guides and upload scripts do with files: curl and jq over HTTP."""

from tests.examples.shell import bash

PROJECT = """
mkdir -p project/src/utils "project/my data"
echo 'print("from main")' > project/main.py
touch project/src/utils/__init__.py
echo '{"users": [{"id": 1}]}' > project/input.json
head -c 100000 /dev/urandom > "project/my data/größe.bin"
"""

# File by file, as the upload scripts do; names that no URL may hold are escaped by jq.
UPLOAD = """
find project -type f -print0 | while IFS= read -r -d '' file; do
    path=$(jq -rn --arg path "${file#project/}" '$path | split("/") | map(@uri) | join("/")')
    curl -s -o /dev/null -w "%{http_code}\\n" -X PUT "$URL/api/sessions/files/files/$path" \\
        --data-binary "@$file" -H "Content-Type: application/octet-stream"
done
"""


def test_a_project_goes_up_file_by_file_runs_and_its_results_come_down(service, tmp_path):
    done = bash(
        f"""
        {PROJECT}
        curl -s -X POST $URL/api/sessions -H "Content-Type: application/json" \
            -d '{{"language": "python", "session_id": "files", "persistent": true}}' | jq -r .id
        {UPLOAD}
        echo '{{"users": [1, 2]}}' | curl -s -X PUT $URL/api/sessions/files/files/piped.json \
            -H "Content-Type: application/json" --data-binary @- | jq -c '{{path, size}}'
        jq -n --arg code 'exec(open("main.py").read()); open("out.txt", "w").write("done")' \
            '{{code: $code}}' | curl -s -X POST $URL/api/sessions/files/run \
            -H "Content-Type: application/json" -d @- | jq -r .stdout
        curl -s $URL/api/sessions/files/files \
            | jq -c '.count, .total_count, .total_size_bytes, [.files[].path],
                     all(.files[]; .size >= 0 and (.modified_at | test("Z$")))'
        curl -s $URL/api/sessions/files/files/out.txt; echo
        curl -s "$URL/api/sessions/files/files/my%20data/größe.bin" -o got
        cmp got "project/my data/größe.bin" && echo same
        curl -s -X DELETE "$URL/api/sessions/files/files/my%20data/?recursive=true" | jq .success
        curl -s $URL/api/sessions/files | jq .file_count
        """,
        tmp_path,
        URL=service.url,
    )
    assert done.stderr == ""
    names = ["input.json", "main.py", "my data/größe.bin", "out.txt", "piped.json"]
    listed = ",".join(f'"{name}"' for name in [*names, "src/utils/__init__.py"])
    assert done.stdout.splitlines() == [
        *("files", "200", "200", "200", "200", '{"path":"piped.json","size":18}'),
        *("from main", "", "6", "6", "100064", f"[{listed}]", "true"),
        *("done", "same", "true", "5"),
    ]
