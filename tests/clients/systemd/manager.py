"""A service manager's ear: manager.py SOCKET prints each message that comes, its lines joined by a blank."""

import socket
import sys

ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ear.bind(sys.argv[1])
print("listening", flush=True)
while True:
    print(ear.recv(4096).decode().replace("\n", " "), flush=True)
