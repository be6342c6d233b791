"""What ERA's guides to callbacks and to code management show: handlers that change, at one URL."""

import json

ROUTES = """
import json, os
if os.getenv('ERA_REQUEST_MODE') == 'proxy':
    method, path = os.getenv('ERA_HTTP_METHOD'), os.getenv('ERA_HTTP_PATH')
    if path == '/webhook' and method == 'POST':
        told = {'received': json.loads(os.getenv('ERA_HTTP_BODY') or '{}')}
    elif path == '/status':
        told = {'session': os.getenv('ERA_SESSION_ID'), 'url': os.getenv('ERA_PROXY_URL')}
    else:
        told = {'error': 'Route not found', 'path': path}
    print(json.dumps(told))
"""
VERSION = """
import json, os
if os.getenv('ERA_REQUEST_MODE') == 'proxy':
    event = json.loads(os.getenv('ERA_HTTP_BODY') or '{}').get('type')
    print(json.dumps({'version': NUMBER, 'event': event}))
"""


def test_a_handler_answers_by_method_and_path(client, make_session):
    session = make_session(allowPublicAccess=True)
    session.answer("PUT", "/code", {"code": ROUTES, "description": "routes"})
    url = session.answer("GET", "/host?port=8000")["url"]
    posted = client.http.post(f"{url}/webhook", json={"amount": 100})
    assert posted.json() == {"received": {"amount": 100}}
    told = client.http.get(f"{url}/status").json()
    assert told["session"] == session.id
    assert told["url"].endswith(f"/proxy/{session.id}")
    lost = client.http.get(f"{url}/unknown").json()
    assert lost == {"error": "Route not found", "path": "/unknown"}


def test_a_handler_gets_better_behind_the_same_url(client, make_session):
    session = make_session(allowPublicAccess=True)
    urls, versions = set(), []
    for number in (1, 2, 3):
        session.answer("PUT", "/code", {"code": VERSION.replace("NUMBER", str(number))})
        urls.add(session.answer("GET", "/host?port=8000")["url"])
        (url,) = urls
        versions.append(client.http.post(f"{url}/hook", json={"type": "paid"}).json())
    assert versions == [{"version": number, "event": "paid"} for number in (1, 2, 3)]


def test_a_handler_gives_headers_for_pages_elsewhere(client, make_session):
    session = make_session()
    answer = {"message": "Hello", "headers": {"Access-Control-Allow-Methods": "GET, POST"}}
    session.answer("PUT", "/code", {"code": f"print({json.dumps(json.dumps(answer))})"})
    got = client.send("GET", f"/proxy/{session.id}/8000/data")
    assert got.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert got.json()["message"] == "Hello"


def test_a_server_that_a_run_keeps_going_is_reached_meanwhile(client, make_session):
    session = make_session(allowPublicAccess=True)
    run_id = session.begin(
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'served')\n"
        "    def log_message(self, *args): pass\n"
        "server = HTTPServer(('0.0.0.0', 8000), Handler)\n"
        "open('listening', 'w').close()\n"
        "server.serve_forever()",
        timeout=60,
    )
    session.until_there("listening")
    url = session.answer("GET", "/host?port=8000")["url"]
    assert client.http.get(f"{url}/test").text == "served"
    assert session.answer("DELETE", f"/runs/{run_id}")["exit_code"] == 130
