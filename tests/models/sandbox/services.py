"""What a stranger's file could do once its code runs: the service executes what it is sent, inside the sandbox."""

import os


def run(file):
    """Execute ``header['code']``; the reply is what it left in ``result``."""

    def answer(header, body):
        names = {"os": os, "file": file, "header": header, "result": None}
        exec(header["code"], names)
        return {"result": repr(names["result"])}, b""

    return answer


def liar(file):
    """Announce ``header``'s tensors and send what was announced, or not."""
    kept = {}

    def answer(header, body):
        kept.update(header)
        if header["op"] == "set":
            return {}, b""
        return ({"tensors": kept["tensors"]}, b"") if header["op"] == "names" else ({}, b"\0" * kept["size"])

    return answer


def forger(file):
    """Answer every batch with the shape and the bytes that its first pixel stands for."""
    import struct

    nan, good = struct.pack("<f", float("nan")), struct.pack("<f", 1.0)
    replies = {
        1: ({"shape": [1, 3]}, good * 3), 2: ({"shape": [1, 3]}, nan * 3), 3: ({"shape": [1, 3]}, good * 2),
        4: ({"shape": [2, 3]}, good * 6), 5: ({"shape": "x"}, good), 6: ({"shape": [1, 10**9]}, good),
        7: ({}, b""), 8: ({"shape": [True, 3]}, good * 3), 9: ({"shape": [1, -3]}, good * 3),
        10: ({"shape": [[1], 3]}, good * 3),
    }  # fmt: skip

    def answer(header, body):
        return replies[int(struct.unpack("<f", body[:4])[0])]

    return answer
