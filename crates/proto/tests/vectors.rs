//! The conformance vectors of `docs/vectors/signed`: other implementations are held to them, and
//! this one too. A vector is a file of hex digits; `index.json` says what each is and whether it
//! must be trusted.
//!
//! To write them anew: `UPDATE=1 cargo test -p fota-proto --features sign --test vectors`.
#![cfg(feature = "sign")]

use std::{fmt::Write, fs, path::PathBuf};

use fota_proto::{
    Sha256,
    checkin::{self, Answer},
    limits::DEVICE_SECRET_BYTES,
    list::List,
    signed::{
        Credential, Envelope, Form, Release, Role, Root, Sealed, index, open_seal, seal_mac,
        seal_signed,
        sign::{P256Key, Signer, encode, sign},
    },
};

const SECRET: [u8; DEVICE_SECRET_BYTES] = [0x99; DEVICE_SECRET_BYTES];
/// Offset of the algorithm in an object: tag, array, byte string of 3, `A1 01`, then it.
const ALG_AT: usize = 5;

/// What an object is, and against what it is checked.
#[derive(Clone, Copy)]
enum Kind {
    /// Trusted because it is there.
    FirstRoot,
    /// After the named root.
    NextRoot(&'static str),
    /// Under the named root.
    Release(&'static str),
    Answer(&'static str),
    /// Opened with [`SECRET`].
    CheckInMac,
    /// Opened with the device's key.
    CheckInSigned,
}

impl Kind {
    fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::FirstRoot => ("first_root", None),
            Self::NextRoot(root) => ("next_root", Some(root)),
            Self::Release(root) => ("release", Some(root)),
            Self::Answer(root) => ("answer", Some(root)),
            Self::CheckInMac => ("check_in_mac", None),
            Self::CheckInSigned => ("check_in_signed", None),
        }
    }
}

struct Vector {
    name: &'static str,
    kind: Kind,
    valid: bool,
    why: &'static str,
    bytes: Vec<u8>,
}

/// Test keys, known to everybody: number `n` has the private key `n` 32 times.
fn key(number: u8) -> P256Key {
    P256Key::new(&[number; 32]).expect("in range")
}

fn signed(form: Form, payload: &[u8], by: &[u8]) -> Vec<u8> {
    let keys: Vec<P256Key> = by.iter().map(|number| key(*number)).collect();
    let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
    sign(form, payload, &signers).expect("fits")
}

/// A root over the keys of these numbers; `roles` are thresholds and indexes.
fn root(version: u32, keys: &[u8], roles: [(u8, &[u8]); 3]) -> Vec<u8> {
    let keys: Vec<P256Key> = keys.iter().map(|number| key(*number)).collect();
    let mut list = List::new();
    keys.iter()
        .for_each(|key| list.push(key.public()).expect("fits"));
    let roles = roles.map(|(threshold, indexes)| {
        let mut keys = List::new();
        indexes
            .iter()
            .for_each(|index| keys.push(*index).expect("fits"));
        Role { threshold, keys }
    });
    encode(&Root::new(version, list, roles).expect("consistent")).expect("fits")
}

/// Root keys 1, 2, 3, of which two sign; 4 releases; 5 answers.
fn root_1() -> Vec<u8> {
    root(1, &[1, 2, 3, 4, 5], [(2, &[0, 1, 2]), (1, &[3]), (1, &[4])])
}

/// Root key 6 for 1, release key 7 for 4.
fn root_2(version: u32) -> Vec<u8> {
    root(
        version,
        &[6, 2, 3, 7, 5],
        [(2, &[0, 1, 2]), (1, &[3]), (1, &[4])],
    )
}

fn release() -> Vec<u8> {
    let image: Vec<u8> = (0..600_000_u32).map(|at| (at / 7) as u8).collect();
    let (pages, _) = index::build(&image);
    let digests = [[0x40; 32], [0x20; 32]].map(Sha256);
    let release = Release::new(
        "sensor",
        5,
        "1.0.6",
        [1_000_006, 2],
        600_000,
        digests,
        &pages,
    );
    let mut release = release.expect("consistent");
    release.hardware = Some((1, 3));
    release.expires = Some(1_924_905_600);
    release.self_test_deadline_s = Some(300);
    encode(&release).expect("fits")
}

fn answer() -> Vec<u8> {
    let mut room = [0; 256];
    let answer = Answer::nothing(7, 60);
    checkin::encode(&answer, &mut room).expect("fits").to_vec()
}

fn valid() -> Vec<Vector> {
    let of = |name, kind, bytes| Vector {
        name,
        kind,
        valid: true,
        why: "",
        bytes,
    };
    let mut room = [0; 512];
    let (device, mut other_room) = (key(8), [0; 512]);
    let check_in = b"\xa1\x00\x01";
    let mac = seal_mac(check_in, &SECRET, &mut room)
        .expect("fits")
        .to_vec();
    let seal = |message: &[u8]| device.sign(message).ok();
    let sealed = seal_signed(check_in, device.public(), seal, &mut other_room).expect("fits");
    let three = root(1, &[1, 4, 6, 7, 5], [(1, &[0]), (2, &[1, 2, 3]), (1, &[4])]);
    vec![
        of(
            "root-1",
            Kind::FirstRoot,
            signed(Form::Sign, &root_1(), &[1, 2]),
        ),
        of(
            "root-2",
            Kind::NextRoot("root-1"),
            signed(Form::Sign, &root_2(2), &[2, 3]),
        ),
        of(
            "release",
            Kind::Release("root-1"),
            signed(Form::Sign1, &release(), &[4]),
        ),
        of("release-high-s", Kind::Release("root-1"), high_s()),
        of(
            "root-2of3",
            Kind::FirstRoot,
            signed(Form::Sign, &three, &[1]),
        ),
        of(
            "release-2of3",
            Kind::Release("root-2of3"),
            signed(Form::Sign, &release(), &[4, 7]),
        ),
        of(
            "answer",
            Kind::Answer("root-1"),
            signed(Form::Sign1, &answer(), &[5]),
        ),
        of("check-in-mac", Kind::CheckInMac, mac),
        of("check-in-signed", Kind::CheckInSigned, sealed.to_vec()),
    ]
}

/// ECDSA has two signatures for each message, and many signers make either: both are taken.
fn high_s() -> Vec<u8> {
    let mut object = signed(Form::Sign1, &release(), &[4]);
    let at = object.len() - 64;
    let made = p256::ecdsa::Signature::from_slice(&object[at..]).expect("a signature");
    let (r, s) = made.split_scalars();
    let other = p256::ecdsa::Signature::from_scalars(r.to_bytes(), (-s).to_bytes());
    object[at..].copy_from_slice(&other.expect("in range").to_bytes());
    object
}

fn invalid() -> Vec<Vector> {
    let mut all = of_release();
    all.extend(of_encoding());
    all.extend(of_root());
    all.extend(of_check_in());
    all
}

fn of(name: &'static str, kind: Kind, why: &'static str, bytes: Vec<u8>) -> Vector {
    Vector {
        name,
        kind,
        valid: false,
        why,
        bytes,
    }
}

/// Vectors of one kind: name, reason, bytes.
fn all_of<const N: usize>(
    kind: Kind,
    cases: [(&'static str, &'static str, Vec<u8>); N],
) -> Vec<Vector> {
    let each = cases.into_iter();
    each.map(|(name, why, bytes)| of(name, kind, why, bytes))
        .collect()
}

fn of_release() -> Vec<Vector> {
    let mut all = of_signature();
    all.extend(of_length());
    all.extend(of_signer());
    all
}

fn of_signature() -> Vec<Vector> {
    let good = signed(Form::Sign1, &release(), &[4]);
    let end = good.len();
    let flip = |at: usize, bit: u8| {
        let mut bad = good.clone();
        bad[at] ^= bit;
        bad
    };
    let fill = |range: std::ops::Range<usize>, byte: u8| {
        let mut bad = good.clone();
        bad[range].fill(byte);
        bad
    };
    let cases = [
        (
            "flip-payload",
            "a bit of the payload is flipped",
            flip(end / 2, 1),
        ),
        ("flip-r", "a bit of r is flipped", flip(end - 40, 1)),
        ("flip-s", "a bit of s is flipped", flip(end - 1, 1)),
        (
            "flip-key-id",
            "a bit of the key id is flipped",
            flip(ALG_AT + 4, 1),
        ),
        ("flip-tag", "the tag is not 18", flip(0, 1)),
        (
            "alg-ed25519",
            "the header says -19, the key is P-256",
            flip(ALG_AT, 0x28 ^ 0x32),
        ),
        (
            "alg-es256",
            "the header says -7, which names no curve",
            flip(ALG_AT, 0x28 ^ 0x26),
        ),
        (
            "alg-signed",
            "-19 is signed as header, by the P-256 key",
            signed_as_ed25519(),
        ),
        ("zero-r", "r is 0", fill(end - 64..end - 32, 0)),
        ("zero-s", "s is 0", fill(end - 32..end, 0)),
        (
            "large-r",
            "r is above the order",
            fill(end - 64..end - 32, 255),
        ),
    ];
    all_of(Kind::Release("root-1"), cases)
}

fn of_length() -> Vec<Vector> {
    let good = signed(Form::Sign1, &release(), &[4]);
    let (half, end) = (good.len() / 2, good.len());
    let resized = |bytes| {
        let mut bad = good.clone();
        bad.resize(bytes, 0);
        bad
    };
    let cases = [
        ("truncated", "the last byte is missing", resized(end - 1)),
        ("half", "the second half is missing", resized(half)),
        ("empty", "no bytes", Vec::new()),
        ("trailing", "one byte too many", resized(end + 1)),
        ("oversized", "more than 1,024 bytes", resized(1_100)),
    ];
    all_of(Kind::Release("root-1"), cases)
}

fn of_signer() -> Vec<Vector> {
    let one = |payload: &[u8], by: u8| signed(Form::Sign1, payload, &[by]);
    let cases = [
        ("of-root-key", "signed by a root key", one(&release(), 1)),
        (
            "of-online-key",
            "signed by the online key",
            one(&release(), 5),
        ),
        (
            "of-other-kind",
            "a root, signed by the release key",
            one(&root_1(), 4),
        ),
        (
            "as-sign",
            "signed as COSE_Sign1, sent as COSE_Sign",
            other_form(),
        ),
    ];
    let mut all = all_of(Kind::Release("root-1"), cases);
    let many = |by: &[u8]| signed(Form::Sign, &release(), by);
    let cases = [
        ("one-of-two", "one signature of two", one(&release(), 4)),
        ("same-twice", "the same key twice", many(&[4, 4])),
        ("no-signature", "no signature at all", many(&[])),
    ];
    all.extend(all_of(Kind::Release("root-2of3"), cases));
    all
}

/// The signature is right for a header that the key does not have.
fn signed_as_ed25519() -> Vec<u8> {
    let mut object = signed(Form::Sign1, &release(), &[4]);
    object[ALG_AT] = 0x32;
    let payload = release();
    let mut message = b"\x84\x6aSignature1\x43\xa1\x01\x32\x40".to_vec();
    let length = u8::try_from(payload.len()).expect("below 256");
    message.extend([0x58, length]);
    message.extend(payload);
    let at = object.len() - 64;
    object[at..].copy_from_slice(&key(4).sign(&message).expect("a key in memory"));
    object
}

fn other_form() -> Vec<u8> {
    let object = signed(Form::Sign1, &release(), &[4]);
    let envelope = Envelope::parse(&object).expect("well-formed");
    let other = Envelope {
        form: Form::Sign,
        ..envelope
    };
    encode(&other).expect("fits")
}

/// Rightly signed, but not the one encoding of what is said.
fn of_encoding() -> Vec<Vector> {
    let kind = Kind::Release("root-1");
    let sealed = |payload: &[u8]| signed(Form::Sign1, payload, &[4]);
    let payload = release();
    let mut long_int = payload.clone();
    long_int.splice(2..3, [0x18, 0x11]);
    let mut unknown = payload.clone();
    unknown[0] += 1;
    unknown.extend([0x18, 0x63, 0x00]);
    let mut indefinite = payload.clone();
    indefinite[0] = 0xBF;
    indefinite.push(0xFF);
    let mut twice = payload.clone();
    twice[0] += 1;
    twice.splice(1..1, [0x00, 0x11]);
    let good = sealed(&payload);
    // Tag, array, headers: the payload's head is behind them.
    let head = 2 + 4 + 1 + 1 + 9;
    assert_eq!(good[head], 0x58, "a payload of one length byte");
    let mut long_head = good.clone();
    long_head.splice(head..head + 1, [0x59, 0x00]);
    let mut open_array = good.clone();
    open_array[1] = 0x9F;
    open_array.push(0xFF);
    vec![
        of(
            "payload-long-integer",
            kind,
            "17 in two bytes",
            sealed(&long_int),
        ),
        of(
            "payload-unknown-key",
            kind,
            "a field that is not known",
            sealed(&unknown),
        ),
        of(
            "payload-indefinite",
            kind,
            "a map of indefinite length",
            sealed(&indefinite),
        ),
        of(
            "payload-key-twice",
            kind,
            "the same key twice",
            sealed(&twice),
        ),
        of(
            "payload-trailing",
            kind,
            "a byte behind the map",
            sealed(&[&payload[..], &[0]].concat()),
        ),
        of(
            "envelope-long-head",
            kind,
            "a length in two bytes that fits one",
            long_head,
        ),
        of(
            "envelope-indefinite",
            kind,
            "an array of indefinite length",
            open_array,
        ),
        of("envelope-untagged", kind, "no tag", good[1..].to_vec()),
    ]
}

fn of_root() -> Vec<Vector> {
    let next = Kind::NextRoot("root-1");
    let by = |version, keys: &[u8]| signed(Form::Sign, &root_2(version), keys);
    let one = signed(Form::Sign, &root_1(), &[1]);
    let twice = signed(Form::Sign, &root_1(), &[1, 1]);
    vec![
        of("root-1-one", Kind::FirstRoot, "one signature of two", one),
        of("root-1-twice", Kind::FirstRoot, "the same key twice", twice),
        of(
            "root-2-old",
            next,
            "too few of the new keys",
            by(2, &[1, 2]),
        ),
        of(
            "root-2-new",
            next,
            "too few of the old keys",
            by(2, &[6, 3]),
        ),
        of("root-3-early", next, "root 2 is left out", by(3, &[2, 3])),
        of("root-1-again", next, "the same version", by(1, &[2, 3])),
    ]
}

fn of_check_in() -> Vec<Vector> {
    let find = |name| valid().into_iter().find(|vector| vector.name == name);
    let bytes = |name| find(name).expect("there is one").bytes;
    let (mut mac, mut sealed) = (bytes("check-in-mac"), bytes("check-in-signed"));
    let swapped = (mac.clone(), sealed.clone());
    *mac.last_mut().expect("not empty") ^= 1;
    *sealed.last_mut().expect("not empty") ^= 1;
    vec![
        of(
            "check-in-mac-flip",
            Kind::CheckInMac,
            "a bit of the MAC is flipped",
            mac,
        ),
        of(
            "check-in-signed-flip",
            Kind::CheckInSigned,
            "a bit of s is flipped",
            sealed,
        ),
        of(
            "check-in-mac-for-key",
            Kind::CheckInSigned,
            "a MAC, where the server has a key",
            swapped.0,
        ),
        of(
            "check-in-key-for-mac",
            Kind::CheckInMac,
            "a signature, where the server has a secret",
            swapped.1,
        ),
    ]
}

fn is_trusted(vector: &Vector, all: &[Vector]) -> bool {
    let named = |name| {
        all.iter()
            .find(|vector| vector.name == name)
            .expect("there is one")
    };
    let bytes = &vector.bytes[..];
    let device = key(8);
    let opens = |credential| {
        let sealed = Sealed::parse(bytes);
        sealed
            .and_then(|sealed| open_seal(&sealed, credential))
            .is_ok()
    };
    match vector.kind {
        Kind::FirstRoot => Root::first(bytes).is_ok(),
        Kind::NextRoot(root) => {
            let root = Root::first(&named(root).bytes).expect("a root that is valid");
            root.succeed(bytes).is_ok()
        }
        Kind::Release(root) => {
            let root = Root::first(&named(root).bytes).expect("a root that is valid");
            root.release(bytes).is_ok()
        }
        Kind::Answer(root) => {
            let root = Root::first(&named(root).bytes).expect("a root that is valid");
            root.answer(bytes).is_ok()
        }
        Kind::CheckInMac => opens(Credential::Secret(&SECRET)),
        Kind::CheckInSigned => opens(Credential::Key(device.public())),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| hex(line) + "\n").collect()
}

/// One object per line, so that a change shows as one.
fn index_json(all: &[Vector]) -> String {
    let mut json = String::from("{\n");
    let _ = writeln!(json, "  \"device_secret_byte_32_times\": {},", SECRET[0]);
    let _ = writeln!(
        json,
        "  \"device_key\": \"{}\",",
        hex(key(8).public().bytes())
    );
    json += "  \"vectors\": [\n";
    for (number, vector) in all.iter().enumerate() {
        let (kind, root) = vector.kind.words();
        let root = root.map_or("null".to_owned(), |root| format!("\"{root}\""));
        let comma = if number + 1 < all.len() { "," } else { "" };
        let _ = writeln!(
            json,
            "    {{\"name\": \"{}\", \"kind\": \"{kind}\", \"root\": {root}, \"valid\": {}, \
             \"why\": \"{}\"}}{comma}",
            vector.name, vector.valid, vector.why
        );
    }
    json + "  ]\n}\n"
}

#[test]
fn the_vectors_are_judged_as_they_say_and_are_the_ones_in_the_repository() {
    let mut all = valid();
    all.extend(invalid());
    for vector in &all {
        assert_eq!(is_trusted(vector, &all), vector.valid, "{}", vector.name);
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/signed");
    let mut files = vec![("index.json".to_owned(), index_json(&all))];
    files.extend(
        all.iter()
            .map(|it| (format!("{}.hex", it.name), file(&it.bytes))),
    );
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&folder).expect("the folder can be made");
        for (name, text) in &files {
            fs::write(folder.join(name), text).expect("the file can be written");
        }
    }
    for (name, text) in &files {
        let found = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&found, text, "{name} is stale: run this test with UPDATE=1");
    }
    let there = fs::read_dir(&folder).expect("a folder").count();
    assert_eq!(there, files.len(), "a file that no vector makes");
}
