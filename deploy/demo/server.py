"""A backend that says its name, to HTTP and to datagrams; dual stack."""
import http.server, socket, sys, threading

NAME, PORT = sys.argv[1].encode() + b"\n", int(sys.argv[2])


class Names(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME)

    def log_message(self, *_):
        pass


class DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


def datagrams():
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", PORT))
    while True:
        _, peer = server.recvfrom(2048)
        server.sendto(NAME, peer)


threading.Thread(target=datagrams, daemon=True).start()
DualStack(("::", PORT), Names).serve_forever()
