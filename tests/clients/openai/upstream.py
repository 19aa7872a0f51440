"""An inference server that does what the last message says, for the clients beside it. Prints the port it serves on,
which is PORT of the environment where that is set.

Over TLS where a file with a certificate and its key is named."""

import json
import os
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOOL = {"id": "call_1", "type": "function", "function": {"name": "local_time", "arguments": '{"city":"Ulm"}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.whole({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # Whether it serves the endpoint.
        if not request:
            return self.send_error(400)
        # What a client sends beside the messages must come through.
        assert request["model"] == "tiny" and request.get("seed") in (None, 7), request
        last = request["messages"][-1]
        says = last["content"]
        # As other clients send a text.
        if isinstance(says, list):
            says = says[-1]["text"]
        calls = "tools" in request and last["role"] != "tool"
        if request.get("stream"):
            self.stream(says, request, calls)
        elif calls:
            self.completion({"role": "assistant", "content": None, "tool_calls": [TOOL]}, "tool_calls")
        elif self.path == "/v1/messages":
            self.message(f"you said {says}")
        elif says == "what arrived?":
            self.completion({"role": "assistant", "content": json.dumps(request)}, "stop")
        else:
            self.completion({"role": "assistant", "content": f"you said {says}"}, "stop")

    def completion(self, message, reason):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        self.whole({"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice], "usage": USAGE})

    def message(self, text):
        head = {"id": "msg_up", "type": "message", "role": "assistant", "model": "tiny", "stop_reason": "end_turn", "stop_sequence": None}
        self.whole(head | {"content": [{"type": "text", "text": text}], "usage": {"input_tokens": 3, "output_tokens": 2}})

    def whole(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, says, request, calls):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.delta({"role": "assistant", "content": ""})
        if calls:
            self.delta({"tool_calls": [{"index": 0} | TOOL]})
            self.delta({}, "tool_calls")
        else:
            for word in ["you ", "said ", says]:
                if word.startswith("wait for "):
                    wait_for(word.removeprefix("wait for "))
                self.delta({"content": word})
                if says == "cut":
                    self.close_connection = True
                    return
            self.delta({}, "stop")
        if request.get("stream_options", {}).get("include_usage"):
            self.event({"choices": [], "usage": USAGE})
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def delta(self, delta, reason=None):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    def event(self, value):
        head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        self.chunk(f"data: {json.dumps(head | value)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.02)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 0))), Handler)
server.daemon_threads = True
if sys.argv[1:]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[1])
    server.socket = tls.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
sys.stdout.close()
server.serve_forever()
