"""A name server that knows one name: names.py ADDRESS NAME. Prints each name that it is asked for."""

import socket
import sys

address, known = sys.argv[1:]
A, REFUSE = 1, 3
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((address, 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(512)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    question = query[12 : at + 5]
    name = ".".join(labels)
    print(name, flush=True)
    answer = b""
    if name == known and kind == A:
        answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton("127.0.0.1")
    code = 0 if name == known else REFUSE
    counts = b"\x00\x01" + (b"\x00\x01" if answer else b"\x00\x00") + b"\x00\x00\x00\x00"
    server.sendto(query[:2] + bytes([0x84, 0x80 | code]) + counts + question + answer, client)
