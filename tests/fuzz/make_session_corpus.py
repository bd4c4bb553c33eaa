#!/usr/bin/env python3
"""Writes the seeds of corpus/session_file: conversations, and records that are wrong in one way each.

Python's standard library only. The files are in the tree; run this after changing it:
    python3 tests/fuzz/make_session_corpus.py tests/fuzz/corpus/session_file
"""
import os
import struct
import sys

TENANT, FINGERPRINT = 65, 192  # SESSION_TENANT_BYTES, SESSION_FINGERPRINT_SIZE
NO_MESSAGES = 0xFFFFFFFF


def owner(number=77, tenant=b"token:12", fingerprint=b"tiny"):
    return struct.pack("<Q", number) + tenant.ljust(TENANT, b"\0") + fingerprint.ljust(FINGERPRINT, b"\0")


def turn(base, keep, ids, serial, messages=None, seed=9, version=1):
    length = NO_MESSAGES if messages is None else len(messages)
    head = struct.pack("<IIIIQQII", version, base, keep, len(ids), seed, serial, length, 0)
    return head + struct.pack(f"<{len(ids)}I", *ids) + (messages or b"")


def seed(*records, rest=b""):
    return b"".join(struct.pack("<H", len(record)) + record for record in records) + rest


FIRST = turn(0, 0, [1, 2, 3], 1)
SECOND = turn(3, 1, [4, 5], 2)
SAID = b'{"role":"user","content":"Hi"}'
SEEDS = {
    "empty": seed(owner()),
    "one_turn": seed(owner(), FIRST),
    "two_turns": seed(owner(), FIRST, SECOND),
    "messages": seed(owner(), turn(0, 0, [1, 2], 1, SAID), turn(2, 1, [7], 2, SAID)),
    "rewind": seed(owner(), FIRST, SECOND, turn(4, 2, [6, 7], 3)),
    "rewind_all": seed(owner(), FIRST, SECOND, turn(0, 0, [8], 3)),
    "skipped_serial": seed(owner(), FIRST, turn(3, 1, [4], 9)),
    "cut": seed(owner(), FIRST, rest=b"\xff\xff\x07"),
    "zeros": seed(owner(), FIRST, rest=b"\xff\xff" + bytes(40)),
    "other_model": seed(owner(fingerprint=b"other"), FIRST),
    "bad_tenant": seed(owner(tenant=b"t" * TENANT), FIRST),
    "bad_fingerprint": seed(owner(tenant=b"t" * TENANT, fingerprint=b"f" * FINGERPRINT), FIRST),
    "bad_owner": seed(b"\1\2\3", FIRST),
    "bad_version": seed(owner(), turn(0, 0, [1], 1, version=2)),
    "bad_base": seed(owner(), FIRST, turn(4, 1, [4], 2)),
    "bad_keep": seed(owner(), FIRST, turn(3, 2, [4], 2)),
    "bad_serial": seed(owner(), FIRST, turn(3, 1, [4], 1)),
    "bad_serial_max": seed(owner(), turn(0, 0, [1], 2**64 - 1)),
    "bad_token": seed(owner(), turn(0, 0, [1000], 1)),
    "bad_many_tokens": seed(owner(), turn(0, 0, [1] * 4097, 1)),
    "bad_messages": seed(owner(), turn(0, 0, [1], 1, b"Hi\0Hi")),
    "bad_length": seed(owner(), FIRST + b"\0"),
    "bad_short": seed(owner(), FIRST[:39]),
}


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
