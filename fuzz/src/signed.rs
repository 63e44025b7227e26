//! Signed objects, as anybody may send them.

use std::sync::LazyLock;

use fota_proto::{
    Sha256,
    limits::{DEVICE_SECRET_BYTES, SEALED_BYTES_MAX},
    list::List,
    signed::{
        Credential, Envelope, Form, OBJECT_BYTES_MAX, Release, Role, RoleName, Root, Sealed,
        SignedError,
        bundle::Bundle,
        index, open_seal, seal_mac, seal_signed,
        sign::{P256Key, Signer, encode, sign},
    },
};

const SECRET: [u8; DEVICE_SECRET_BYTES] = [9; DEVICE_SECRET_BYTES];

/// Test keys; number 0 is not used.
static KEYS: LazyLock<Vec<P256Key>> = LazyLock::new(|| {
    let keys = (1..=9).map(|number| P256Key::new(&[number; 32]).expect("in range"));
    std::iter::once(P256Key::new(&[200; 32]).expect("in range"))
        .chain(keys)
        .collect()
});

fn key(number: u8) -> &'static P256Key {
    &KEYS[usize::from(number)]
}

fn role(threshold: u8, keys: &[u8]) -> Role {
    let mut list = List::new();
    keys.iter().for_each(|key| list.push(*key).expect("fits"));
    Role {
        threshold,
        keys: list,
    }
}

/// Keys 1 and 2 are root, 3 releases, 4 is online.
fn root_payload(version: u32) -> Vec<u8> {
    let keys = (1..=4).map(key);
    let mut list = List::new();
    keys.for_each(|key| list.push(key.public()).expect("fits"));
    let roles = [role(2, &[0, 1]), role(1, &[2]), role(1, &[3])];
    encode(&Root::new(version, list, roles).expect("consistent")).expect("fits")
}

fn signed_root(version: u32) -> Vec<u8> {
    sign(Form::Sign, &root_payload(version), &[key(1), key(2)]).expect("fits")
}

static FIRST: LazyLock<Vec<u8>> = LazyLock::new(|| signed_root(1));

static TRUSTED: LazyLock<Root<'static>> =
    LazyLock::new(|| Root::first(&FIRST).expect("signed by its own keys"));

fn trusted() -> &'static Root<'static> {
    &TRUSTED
}

fn release_payload() -> Vec<u8> {
    let (pages, _) = index::build(&[0x5A; 10_000]);
    let digests = [Sha256([1; 32]), Sha256([2; 32])];
    let release = Release::new("acme", 0, "1.0.6", [6, 1], 10_000, digests, &pages);
    let mut release = release.expect("consistent");
    release.hardware = Some((1, 3));
    release.advisory = Some("https://example.com/1");
    encode(&release).expect("fits")
}

/// What parses is exactly what its content encodes to: one object has one digest.
pub fn signed_envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data) {
        assert!(data.len() <= OBJECT_BYTES_MAX);
        assert_eq!(encode(&envelope).expect("no longer than it was"), data);
        assert!(
            !envelope.is_signed_by(&key(0).public()),
            "of a key nobody has"
        );
    }
}

/// Anything as a root, and as the payload of one that is rightly signed.
pub fn signed_root_object(data: &[u8]) {
    let trusted = trusted();
    if let Ok(root) = Root::first(data) {
        assert!(root.root.threshold >= 1 && root.version >= 1);
    }
    if let Ok(next) = trusted.succeed(data) {
        assert_eq!(next.version, 2);
    }
    // A signature costs as much as a thousand inputs that do not parse.
    let Ok(root) = Root::parse(data) else { return };
    assert_eq!(encode(&root).expect("no longer"), data);
    assert_eq!(root.role(RoleName::Online).threshold, 1);
    let Ok(object) = sign(Form::Sign, data, &[key(1), key(2)]) else {
        return;
    };
    match trusted.succeed(&object) {
        Ok(next) => assert_eq!(root, next),
        // Not version 2, or its own keys are others.
        Err(error) => assert!(
            matches!(
                error,
                SignedError::RootVersion { .. } | SignedError::Threshold { .. }
            ),
            "{error} for {root:?}"
        ),
    }
}

/// Anything as a release, and as the payload of one that is rightly signed.
pub fn signed_release(data: &[u8]) {
    let trusted = trusted();
    if let Ok(release) = trusted.release(data) {
        assert_eq!(release.product, "acme", "only the seed is signed");
    }
    let Ok(release) = Release::parse(data) else {
        return;
    };
    assert_eq!(encode(&release).expect("no longer"), data);
    let pages = index::pages(release.bytes) as usize * index::HASH_BYTES;
    assert_eq!(release.pages.len(), pages);
    let (last, end) = (release.bytes - 1, index::artifact_bytes(release.bytes));
    assert_eq!(index::artifact_offset(release.bytes, last), end - 1);
    let Ok(object) = sign(Form::Sign1, data, &[key(3)]) else {
        return;
    };
    assert_eq!(trusted.release(&object), Ok(release));
    // Of another key it is never one.
    let forged = sign(Form::Sign1, data, &[key(4)]).expect("as long as the other");
    assert!(trusted.release(&forged).is_err());
}

/// Anything as a sealed check-in, and as the check-in in a seal.
pub fn sealed_check_in(data: &[u8]) {
    let device = key(7);
    let credentials = [
        Credential::Secret(&SECRET),
        Credential::Key(device.public()),
    ];
    if let Ok(sealed) = Sealed::parse(data) {
        assert!(Sealed::looks_like(data) && data.len() <= SEALED_BYTES_MAX);
        let opened = credentials.map(|credential| open_seal(&sealed, credential));
        assert!(
            opened.iter().any(Result::is_err),
            "both credentials open it"
        );
        if opened.iter().any(Result::is_ok) {
            assert_eq!(sealed.payload(), b"a check-in", "only the seeds are sealed");
        }
    }
    let mut room = [0; SEALED_BYTES_MAX];
    if let Some(bytes) = seal_mac(data, &SECRET, &mut room) {
        let sealed = Sealed::parse(bytes).expect("just made");
        assert_eq!(sealed.payload(), data);
        assert_eq!(open_seal(&sealed, credentials[0]), Ok(()));
        assert_eq!(open_seal(&sealed, credentials[1]), Err(SignedError::Seal));
    }
}

/// A bundle is its head and the rest; nothing of it is lost or made up.
pub fn bundle(data: &[u8]) {
    match Bundle::parse(data) {
        Some(bundle) => {
            assert!(Bundle::looks_like(data));
            assert_eq!([&bundle.head(), bundle.image].concat(), data);
            drop(trusted().release(bundle.release));
        }
        None => {
            // What lacks nothing but the head becomes a bundle with it.
            let made = Bundle {
                release: &data[..data.len().min(100)],
                image: data,
            };
            let file = [&made.head(), made.image].concat();
            assert_eq!(Bundle::parse(&file), Some(made));
        }
    }
}

pub(crate) fn object_seeds() -> Vec<Vec<u8>> {
    let release = release_payload();
    vec![
        FIRST.clone(),
        sign(Form::Sign1, &release, &[key(3)]).expect("fits"),
        sign(Form::Sign, &release, &[key(3), key(4)]).expect("fits"),
        release,
    ]
}

pub(crate) fn root_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        root_payload(1),
        root_payload(2),
        FIRST.clone(),
        signed_root(2),
    ];
    seeds.to_vec()
}

pub(crate) fn sealed_seeds() -> Vec<Vec<u8>> {
    let (mut room, device) = ([0; 512], key(7));
    let payload = b"a check-in";
    let mac = seal_mac(payload, &SECRET, &mut room)
        .expect("fits")
        .to_vec();
    let sign = |message: &[u8]| device.sign(message).ok();
    let signed = seal_signed(payload, device.public(), sign, &mut room);
    vec![mac, signed.expect("fits").to_vec(), payload.to_vec()]
}

pub(crate) fn bundle_seeds() -> Vec<Vec<u8>> {
    let release = sign(Form::Sign1, &release_payload(), &[key(3)]).expect("fits");
    let made = Bundle {
        release: &release,
        image: &[0x5A; 100],
    };
    vec![
        [&made.head(), made.image].concat(),
        b"FOTAPKG1".to_vec(),
        vec![],
    ]
}
