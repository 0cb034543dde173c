"""Asks a frontend by datagram from the source ports 40000 to 40199; prints port and answer."""
import socket, sys

for port in range(40000, 40200):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", port))
        client.settimeout(2)
        client.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
        print(port, client.recv(64).decode().strip())
