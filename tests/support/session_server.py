"""A server for a session's code to run in a thread: raw, so that it can answer anything.

`SERVE` is code that starts it and prints its port. What it answers, by path:

    /echo            the request as it came, head and body
    /count           how many bytes of body came, and the most of this process's memory in KiB
    /source/N        N bytes, with their length
    /chunks          three chunks and a trailer
    /until-close     an answer that ends with the connection
    /events          an event, and once /go was asked for, another one
    /status/N        an answer of that status, with headers for a page
    /early           413, before it has read the body, and hangs up
    /unwilling       417, to a client that waits for a word before it sends the body
    /cookies         sets three
    /headers         what concerns a hop or the whole origin
    /raw             socket: echoes what comes, until it ends
    ODD              what is no answer, or not all of one
"""

SERVE = r"""
import resource, socketserver, threading, time

go = threading.Event()
gone = threading.Event()
ODD = {
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
    "/cut-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n",
    "/nothing": b"",
    "/nonsense": b"\0\1\2 nonsense\r\n\r\n",
    "/both": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
             b"4\r\nfour\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "/lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nfour",
    "/split": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n",
    "/control": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "/unasked-101": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "/informs": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
               b"4\r\nfour\r\n6\r\n and 6\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
    "/until-close": b"HTTP/1.0 200 OK\r\nConnection: X-Listed\r\nX-Listed: 1\r\n\r\nuntil close",
    "/early": b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlate",
    "/unwilling": b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno",
    "/cookies": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: plain=1\r\n"
                b"Set-Cookie: a=b=c; Path=/in; Domain=example.com; HttpOnly\r\n"
                b"Set-Cookie: nonsense\r\n\r\n",
    "/headers": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: inside\r\nX-Kept: caf\xe9\r\n"
                b"Keep-Alive: 5\r\nProxy-Authenticate: x\r\nClear-Site-Data: \"*\"\r\n"
                b"Strict-Transport-Security: max-age=9\r\nService-Worker-Allowed: /\r\n"
                b"Content-Security-Policy: default-src 'self'\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n",
}

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        method, target, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ")
        path = target.partition("?")[0]
        fields = {name.lower(): value.strip() for name, _, value in
                  (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])}
        if "upgrade" in fields and path == "/raw":
            self.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     b"Connection: Upgrade\r\nSec-WebSocket-Accept: yes\r\n\r\nhello ")
            while data := self.request.recv(65536):
                if data == b"bye":
                    return
                self.say(data)
            gone.set()
            return
        if path in ODD:
            if path not in ("/early", "/unwilling"):
                self.body(fields)
            self.say(ODD[path])
            return
        getattr(self, "do_" + path.split("/")[1].replace("-", "_"))(path, method, head, fields)

    def say(self, data):
        self.wfile.write(data)
        self.wfile.flush()

    def answer(self, body, status="200 OK", more=""):
        self.say(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)

    def body(self, fields, keep=True):
        size, kept = 0, []
        def take(count):
            nonlocal size
            while count:
                data = self.rfile.read(min(count, 65536))
                if not data:
                    raise EOFError
                size += len(data)
                count -= len(data)
                if keep:
                    kept.append(data)
        if "chunked" in fields.get("transfer-encoding", ""):
            while count := int(self.rfile.readline(), 16):
                take(count)
                self.rfile.readline()
            self.rfile.readline()
        else:
            take(int(fields.get("content-length", 0)))
        return b"".join(kept) if keep else size

    def do_echo(self, path, method, head, fields):
        if fields.get("expect") == "100-continue":
            self.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = head + self.body(fields)
        self.answer(b"" if method == "HEAD" else body, more="X-Method: " + method + "\r\n")

    def do_count(self, path, method, head, fields):
        size = self.body(fields, keep=False)
        self.answer(f"{size} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}".encode())

    def do_source(self, path, method, head, fields):
        left = int(path.split("/")[2])
        self.say(f"HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n".encode())
        try:
            while left:
                self.say(bytes(min(left, 65536)))
                left -= min(left, 65536)
        except OSError:
            gone.set()

    def do_events(self, path, method, head, fields):
        self.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        go.wait(30)
        self.say(b"data: 2\n\n")

    def do_go(self, path, method, head, fields):
        go.set()
        self.answer(b"went")

    def do_status(self, path, method, head, fields):
        status = path.split("/")[2]
        if status in ("204", "304"):
            self.say(f"HTTP/1.1 {status} X\r\nETag: \"e\"\r\nContent-Length: 5\r\n\r\n".encode())
        else:
            self.answer(b"body", f"{status} X", "Location: /elsewhere?a=b\r\n")

    def do_silent(self, path, method, head, fields):
        self.request.recv(1)
        gone.set()

    def do_endless_head(self, path, method, head, fields):
        self.say(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                self.say(b"X-More: " + b"x" * 1000 + b"\r\n")
        except OSError:
            gone.set()

    def do_endless(self, path, method, head, fields):
        self.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                self.say(b"1\r\nx\r\n" * 10000)
        except OSError:
            gone.set()

    def do_was_left(self, path, method, head, fields):
        self.answer(str(gone.wait(10)).encode())
        gone.clear()

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

server = Server(("127.0.0.1", 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1])
"""
