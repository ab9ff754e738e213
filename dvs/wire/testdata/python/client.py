"""A caller of the DVS in Python: what another language needs, and no more.

    client.py SOCKET CONTAINER ENDPOINT TEXT...    sends each text as a request and prints its reply
"""

import hashlib
import os
import socket
import struct
import sys

HELLO, WELCOME, ANSWER, WATCH, ROUTE, REQUEST, REPLY, PROBE = 1, 2, 5, 6, 7, 16, 17, 18
SENDREC = 2
OPEN, MOVING = 1, 2
OK, HELD, UNKNOWN = 0, 1, 17


def text(s):
    b = s.encode()
    return struct.pack("<H", len(b)) + b


class Session:
    def __init__(self, path, container):
        self.container = container
        self.caller = int.from_bytes(os.urandom(8), "little") | 1
        self.seq = 0
        self.routes = {}
        self.conn = socket.socket(socket.AF_UNIX)
        self.conn.connect(path)
        self.send(HELLO, struct.pack("<HBQ", 1, 0, self.caller) + text(container) + text("client.py"))
        kind, body = self.receive()
        if kind != WELCOME:
            raise OSError(body[22:].decode())

    def send(self, kind, body):
        self.conn.sendall(struct.pack("<IB", len(body) + 1, kind) + body)

    def exactly(self, n):
        b = b""
        while len(b) < n:
            part = self.conn.recv(n - len(b))
            if not part:
                raise OSError("the node is gone")
            b += part
        return b

    def receive(self):
        (n,) = struct.unpack("<I", self.exactly(4))
        frame = self.exactly(n)
        return frame[0], frame[1:]

    def endpoint(self, name):
        digest = hashlib.sha256(self.container.encode() + b"\0" + name.encode()).digest()
        return int.from_bytes(digest[:8], "little") | 1

    def sendrec(self, name, payload):
        to = self.endpoint(name)
        if to not in self.routes:
            self.routes[to] = None
            self.send(WATCH, text(name))
        self.seq += 1
        asked, first = None, None
        while True:
            route = self.routes[to]
            if route and first is not None and route[1] != first:
                raise OSError("outcome unknown: the state that was asked is lost")
            if route and route[2] == OPEN and (asked is None or asked < route[0]):
                asked, first = route[0], route[1]
                head = struct.pack("<BBQQQQ", SENDREC, 0, to, self.caller, self.seq, first)
                self.send(REQUEST, head + text("") + payload)
            elif route and route[2] not in (OPEN, MOVING) and asked is not None:
                raise OSError("outcome unknown: the process has ended")
            kind, body = self.receive()
            if kind == ROUTE:
                who, epoch, serial, line, state, _ = struct.unpack("<QQQQBI", body)
                if who in self.routes:
                    self.routes[who] = ((epoch, serial), line, state)
            elif kind == REPLY:
                who, caller, seq, code, _, _ = struct.unpack("<QQQHQQ", body[:42])
                if who != to or caller != self.caller or seq != self.seq or code == HELD:
                    continue  # a newer route will come
                if code == UNKNOWN:
                    asked = None
                elif code != OK:
                    raise OSError("code %d" % code)
                else:
                    return body[42:]


if __name__ == "__main__":
    session = Session(sys.argv[1], sys.argv[2])
    for word in sys.argv[4:]:
        print(session.sendrec(sys.argv[3], word.encode()).decode())
