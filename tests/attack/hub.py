"""A hub on this machine that answers as it should, or as `behaviour(handler)` wants: true if it has answered."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class Hub:
    def __init__(self, folder, behaviour=None):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.behaviour, self.requests = behaviour, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def handler_of(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, code, body=b"", **headers):
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            hub.requests.append((self.command, self.path, {name.title(): value for name, value in self.headers.items()}))
            try:
                if not (hub.behaviour and hub.behaviour(self)):
                    self.usual()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_HEAD = do_GET

        def usual(self):
            if "/api/" in self.path:
                listing = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}
                return self.answer(200, json.dumps(listing).encode(), Content_Type="application/json")
            found = re.search(r"/resolve/[^/]+/(.*)$", self.path)
            body = hub.files.get(found.group(1)) if found else None
            if body is None:
                return self.answer(404, b"no such file", X_Error_Code="EntryNotFound")
            git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            etag = hashlib.sha256(body).hexdigest() if found.group(1).endswith(".safetensors") else git
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if self.command != "GET" or not asked:
                return self.answer(200, body, **headers)
            first = int(asked.group(1))
            if first >= len(body):
                return self.answer(416, Content_Range=f"bytes */{len(body)}")
            last = min(int(asked.group(2) or len(body) - 1), len(body) - 1)
            return self.answer(206, body[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(body)}", **headers)

    return Handler
