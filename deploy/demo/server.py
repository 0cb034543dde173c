"""A web server that says its name; dual stack."""
import http.server, socket, sys


class Names(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (sys.argv[1] + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


DualStack(("::", int(sys.argv[2])), Names).serve_forever()
