"""Train anew when the gateway asks for it: `python docs/examples/retrain.py PORT COMMAND…`; the event is the command's input."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

SEEN: set[str] = set()  # delivery is at least once; a real pipeline keeps the ids where they outlive it


class Pipeline(BaseHTTPRequestHandler):
    """Starts the command, once for each event."""

    def do_POST(self) -> None:
        """Take an event; it is delivered again unless this answers with 2xx."""
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if event["type"] == "headgate.retraining.ask" and event["id"] not in SEEN:
            subprocess.run(sys.argv[2:], input=json.dumps(event["data"]), text=True, check=True)  # noqa: S603 - one's own
            SEEN.add(event["id"])
        self.send_response(204)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Pipeline).serve_forever()
