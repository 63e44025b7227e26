"""Our signed objects against pycose and cbor2, which share nothing with our code.

usage: cose_differential.py JUDGE VECTORS MUTATIONS

1. Every vector that is valid verifies with pycose; what pycose refuses is not valid.
2. Objects that pycose makes, ours trusts.
3. Random neighbours of the valid vectors: what pycose refuses, ours refuses. Ours may refuse more:
   it takes one encoding of an object and no unknown headers.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import cbor2
from hashlib import sha256
from pycose.headers import KID, Algorithm
from pycose.keys import EC2Key, SymmetricKey
from pycose.messages import CoseMessage, Mac0Message, Sign1Message, SignMessage
from pycose.messages.signer import CoseSignature
from pycose.algorithms import CoseAlgorithm, Es256, HMAC256
from pycose.keys.curves import P256

ESP256 = -9


class Esp256(Es256):
    """RFC 9864's fully specified name of what pycose knows as ES256: the same computation."""

    identifier = ESP256
    fullname = "ESP256"


def register():
    """pycose 1.1 is older than RFC 9864: teach it the number, nothing else."""
    CoseAlgorithm.get_registered_classes()[ESP256] = Esp256


class Judge:
    def __init__(self, program):
        self.child = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def trusts(self, kind, context, data):
        self.child.stdin.write(f"{kind} {context.hex() or '-'} {data.hex() or '-'}\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline().strip()
        assert line in ("0", "1"), f"the judge died on {kind} {data.hex()}"
        return line == "1"


def ec2(point):
    return EC2Key(crv=P256, x=point[1:33], y=point[33:65])


def kid(point):
    return sha256(point).digest()[:8]


def key_ids(payload_role, root):
    """Public keys of a role of a root payload, by id, and the threshold."""
    content = cbor2.loads(root.payload)
    threshold, indexes = content[payload_role]
    points = [content[2][index][1] for index in indexes]
    return {kid(point): point for point in points}, threshold


def signed_by(message, keys, threshold):
    """Whether pycose verifies a threshold of distinct keys."""
    good = set()
    if isinstance(message, Sign1Message):
        signers = [message]
    elif isinstance(message, SignMessage):
        signers = message.signers
    else:
        return False
    for signer in signers:
        found = keys.get(signer.uhdr.get(KID))
        if found is None or signer.phdr.get(Algorithm) is not Esp256:
            continue
        signer.key = ec2(found)
        try:
            if signer.verify_signature():
                good.add(bytes(found))
        except Exception:  # noqa: BLE001 - any complaint is a refusal
            continue
    return len(good) >= threshold


ROOT, RELEASE, ONLINE = 3, 4, 5


def pycose_trusts(kind, context, data):
    """What pycose and cbor2 say; False for anything they complain about."""
    try:
        message = CoseMessage.decode(data)
        if kind == "check_in_mac":
            if not isinstance(message, Mac0Message):
                return False
            message.key = SymmetricKey(k=context)
            return message.phdr.get(Algorithm) is HMAC256 and message.verify_tag()
        if kind == "check_in_signed":
            return isinstance(message, Sign1Message) and signed_by(
                message, {kid(context): context}, 1
            )
        if kind == "first_root":
            ok = cbor2.loads(message.payload)[0] == 0x10
            return ok and signed_by(message, *key_ids(ROOT, message))
        trusted = CoseMessage.decode(context)
        if kind == "next_root":
            before, after = cbor2.loads(trusted.payload), cbor2.loads(message.payload)
            follows = after[0] == 0x10 and after[1] == before[1] + 1
            return (
                follows
                and signed_by(message, *key_ids(ROOT, trusted))
                and signed_by(message, *key_ids(ROOT, message))
            )
        if kind == "release":
            content = cbor2.loads(message.payload)
            right = content[0] == 0x11 and isinstance(content[4], str)
            return right and signed_by(message, *key_ids(RELEASE, trusted))
        return signed_by(message, *key_ids(ONLINE, trusted))
    except Exception:  # noqa: BLE001 - any complaint is a refusal
        return False


def mutate(data, dice):
    data = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(data) + 1)
        what = dice.randrange(6)
        if what == 0:
            del data[at : at + dice.randint(1, 4)]
        elif what == 1:
            data.insert(at, dice.randrange(256))
        elif what == 2 and at + 8 < len(data):
            data[at : at + 4] = data[at + 4 : at + 8]
        elif at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        if not data:
            break
    return bytes(data)


def private(number):
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = int.from_bytes(bytes([number]) * 32, "big")
    numbers = ec.derive_private_key(secret, ec.SECP256R1()).public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    key = EC2Key(crv=P256, x=x, y=y, d=secret.to_bytes(32, "big"))
    return key, b"\x04" + x + y


def made_by_pycose(payload):
    """A release that pycose signs with test key 4, in both forms."""
    key, point = private(4)
    header = {Algorithm: Esp256}
    one = Sign1Message(phdr=header, uhdr={KID: kid(point)}, payload=payload, key=key)
    signer = CoseSignature(phdr=header, uhdr={KID: kid(point)}, key=key)
    return [one.encode(), SignMessage(phdr={}, uhdr={}, payload=payload, signers=[signer]).encode()]


def main():
    program, folder, mutations = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    register()
    judge, index = Judge(program), json.loads((folder / "index.json").read_text())

    def read(name):
        return bytes.fromhex((folder / f"{name}.hex").read_text())

    contexts = {
        "check_in_mac": bytes([index["device_secret_byte_32_times"]] * 32),
        "check_in_signed": bytes.fromhex(index["device_key"]),
    }
    vectors, stricter = [], []
    for vector in index["vectors"]:
        kind, name = vector["kind"], vector["name"]
        context = contexts.get(kind) or (read(vector["root"]) if vector["root"] else b"")
        data = read(name)
        ours, theirs = judge.trusts(kind, context, data), pycose_trusts(kind, context, data)
        assert ours == vector["valid"], f"{name}: ours says {ours}"
        assert theirs or not ours, f"{name}: ours trusts what pycose refuses"
        if theirs and not ours:
            stricter.append(name)
        if ours:
            vectors.append((kind, context, data))
    print(f"vectors: {len(index['vectors'])} judged; ours alone refuses {', '.join(stricter)}")

    trusted = read("root-1")
    payload = CoseMessage.decode(read("release")).payload
    for data in made_by_pycose(payload):
        assert judge.trusts("release", trusted, data), f"pycose made {data.hex()}"
    content = cbor2.loads(payload)
    content[4], content[5] = "2.0.0", 2_000_000
    again = cbor2.dumps(content, canonical=True)
    for data in made_by_pycose(again):
        assert judge.trusts("release", trusted, data), f"cbor2 and pycose made {data.hex()}"
    print("made by pycose: 4 objects, all trusted")

    dice, both, ours_only, theirs_only = random.Random(1), 0, 0, 0
    for number in range(mutations):
        kind, context, data = vectors[number % len(vectors)]
        changed = mutate(data, dice)
        ours, theirs = judge.trusts(kind, context, changed), pycose_trusts(kind, context, changed)
        both += ours and theirs
        theirs_only += theirs and not ours
        if ours and not theirs:
            ours_only += 1
            print(f"ours trusts what pycose refuses: {kind} {changed.hex()}")
    neighbours, taken = mutations, 0
    for _ in range(neighbours):
        changed = mutate(payload, dice)
        if judge.trusts("payload", b"", changed):
            taken += 1
            same = cbor2.dumps(cbor2.loads(changed), canonical=True)
            assert same == changed, f"ours takes another encoding than cbor2's: {changed.hex()}"
    print(f"payloads: {neighbours} neighbours, ours takes {taken}, all as cbor2 encodes them")
    print(f"mutations: {mutations}; trusted by both {both}, by pycose alone {theirs_only}")
    assert ours_only == 0, f"{ours_only} objects that only ours trusts"


main()
