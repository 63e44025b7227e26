//! Signed objects: what is trusted, and everything that must not be.
#![cfg(feature = "sign")]

use fota_proto::{
    Sha256,
    list::List,
    signed::{
        Credential, Envelope, Form, Release, Role, RoleName, Root, Sealed, SignedError, index,
        open_seal, seal_mac, seal_signed,
        sign::{P256Key, Signer, add_signature, encode, sign},
    },
};
use proptest::prelude::*;

fn key(number: u8) -> P256Key {
    P256Key::new(&[number; 32]).expect("a valid secret")
}

fn role(threshold: u8, keys: &[u8]) -> Role {
    let mut list = List::new();
    keys.iter().for_each(|key| list.push(*key).expect("fits"));
    Role {
        threshold,
        keys: list,
    }
}

/// A root over these keys: two of the first three are root, the fourth releases, the fifth is
/// online.
fn root(version: u32, keys: &[P256Key; 5]) -> Vec<u8> {
    let mut list = List::new();
    for key in keys {
        list.push(key.public()).expect("fits");
    }
    let roles = [role(2, &[0, 1, 2]), role(1, &[3]), role(1, &[4])];
    encode(&Root::new(version, list, roles).expect("consistent")).expect("fits")
}

fn first(keys: &[P256Key; 5]) -> Vec<u8> {
    sign(Form::Sign, &root(1, keys), &[&keys[0], &keys[1]]).expect("fits")
}

fn keys(from: u8) -> [P256Key; 5] {
    std::array::from_fn(|index| key(from + index as u8))
}

fn release(version: &str, sequence: u32) -> Vec<u8> {
    let image = [0x5A; 10_000];
    let (pages, _) = index::build(&image);
    let digests = [Sha256([1; 32]), Sha256([2; 32])];
    let release = Release::new("acme", 0, version, [sequence, 1], 10_000, digests, &pages);
    encode(&release.expect("consistent")).expect("fits")
}

#[test]
fn a_release_of_the_release_key_is_trusted_and_no_other() {
    let keys = keys(1);
    let first = first(&keys);
    let root = Root::first(&first).expect("signed by two of three");
    let payload = release("1.0.6", 6);
    let good = sign(Form::Sign1, &payload, &[&keys[3]]).expect("fits");
    assert_eq!(root.release(&good).expect("trusted").version, "1.0.6");
    for other in [0, 1, 2, 4] {
        let bad = sign(Form::Sign1, &payload, &[&keys[other]]).expect("fits");
        let refused = SignedError::Threshold {
            role: RoleName::Release,
            found: 0,
            threshold: 1,
        };
        assert_eq!(root.release(&bad), Err(refused), "key {other}");
    }
}

#[test]
fn every_flipped_bit_of_a_release_is_refused() {
    let keys = keys(1);
    let first = first(&keys);
    let root = Root::first(&first).expect("trusted");
    let good = sign(Form::Sign1, &release("1.0.6", 6), &[&keys[3]]).expect("fits");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(root.release(&bad).is_err(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(root.release(&good[..length]).is_err(), "length {length}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(root.release(&longer).is_err());
    longer.resize(2_000, 0);
    assert_eq!(
        root.release(&longer),
        Err(SignedError::TooLong { bytes: 2_000 })
    );
}

#[test]
fn root_rotation_needs_the_thresholds_of_both() {
    let (old, new) = (keys(1), keys(3)); // keys 3 to 5 are in both
    let first = first(&old);
    let trusted = Root::first(&first).expect("trusted");
    let payload = root(2, &new);
    let signed = |by: &[u8]| {
        let signers: Vec<_> = by.iter().map(|number| key(*number)).collect();
        let signers: Vec<_> = signers.iter().map(|key| key as &dyn Signer).collect();
        sign(Form::Sign, &payload, &signers).expect("fits")
    };
    assert!(trusted.succeed(&signed(&[1, 2])).is_err(), "old ones alone");
    assert!(trusted.succeed(&signed(&[4, 5])).is_err(), "new ones alone");
    assert!(
        trusted.succeed(&signed(&[3])).is_err(),
        "one that is in both"
    );
    assert!(
        trusted.succeed(&signed(&[3, 3])).is_err(),
        "the same one twice"
    );
    let second = signed(&[1, 3, 5]);
    let second = trusted.succeed(&second).expect("two of each");
    assert_eq!(second.version, 2);
    // Not the same one again, not the first again, not one further on.
    let again = sign(Form::Sign, &root(2, &new), &[&new[0], &new[1]]).expect("fits");
    assert_eq!(second.succeed(&again).map(|_| ()), wrong_version(2, 2));
    let fourth = sign(Form::Sign, &root(4, &new), &[&new[0], &new[1]]).expect("fits");
    assert_eq!(second.succeed(&fourth).map(|_| ()), wrong_version(2, 4));
    let third = sign(Form::Sign, &root(3, &new), &[&new[0], &new[1]]).expect("fits");
    assert_eq!(second.succeed(&third).expect("follows").version, 3);
}

fn wrong_version(trusted: u32, found: u32) -> Result<(), SignedError> {
    Err(SignedError::RootVersion { trusted, found })
}

#[test]
fn signatures_can_be_added_one_after_another() {
    let keys = keys(1);
    let one = sign(Form::Sign, &root(1, &keys), &[&keys[0]]).expect("fits");
    assert!(Root::first(&one).is_err());
    let envelope = Envelope::parse(&one).expect("well-formed");
    let two = add_signature(&envelope, &keys[2]).expect("fits");
    assert!(Root::first(&two).is_ok());
    let envelope = Envelope::parse(&two).expect("well-formed");
    assert_eq!(add_signature(&envelope, &keys[2]).expect("fits"), two);
}

#[test]
fn another_encoding_of_the_same_content_is_refused() {
    let keys = keys(1);
    let first = first(&keys);
    let root = Root::first(&first).expect("trusted");
    let payload = release("1.0.6", 6);
    // The kind, 0x11, in two bytes; and a key that this version does not know.
    let mut longer = payload.clone();
    longer.splice(2..3, [0x18, 0x11]);
    let mut unknown = payload.clone();
    unknown[0] += 1;
    unknown.extend([0x18, 0x63, 0x00]);
    for payload in [longer, unknown] {
        let object = sign(Form::Sign1, &payload, &[&keys[3]]).expect("fits");
        let refused = root.release(&object).map(|_| ());
        assert_eq!(refused, Err(SignedError::NotCanonical { what: "release" }));
    }
}

#[test]
fn an_object_of_another_kind_is_refused() {
    let keys = keys(1);
    let first = first(&keys);
    let trusted = Root::first(&first).expect("trusted");
    let object = sign(Form::Sign, &root(1, &keys), &[&keys[3]]).expect("fits");
    assert!(trusted.release(&object).is_err());
}

#[test]
fn a_seal_opens_with_its_own_credential_only() {
    let (mine, other) = (key(7), key(8));
    let payload = b"a check-in";
    let mut room = [0; 512];
    let mac = seal_mac(payload, &[9; 32], &mut room)
        .expect("fits")
        .to_vec();
    let sealed = Sealed::parse(&mac).expect("well-formed");
    assert_eq!(sealed.payload(), payload);
    assert_eq!(open_seal(&sealed, Credential::Secret(&[9; 32])), Ok(()));
    for wrong in [Credential::Secret(&[8; 32]), Credential::Key(mine.public())] {
        assert_eq!(open_seal(&sealed, wrong), Err(SignedError::Seal));
    }
    let signed = seal_signed(payload, mine.public(), |m| mine.sign(m).ok(), &mut room);
    let signed = signed.expect("fits").to_vec();
    let sealed = Sealed::parse(&signed).expect("well-formed");
    assert_eq!(open_seal(&sealed, Credential::Key(mine.public())), Ok(()));
    for wrong in [
        Credential::Secret(&[9; 32]),
        Credential::Key(other.public()),
    ] {
        assert_eq!(open_seal(&sealed, wrong), Err(SignedError::Seal));
    }
    for (bytes, credential) in [
        (mac.clone(), Credential::Secret(&[9; 32])),
        (signed.clone(), Credential::Key(mine.public())),
    ] {
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let opened = Sealed::parse(&bad).and_then(|sealed| open_seal(&sealed, credential));
            assert!(opened.is_err(), "bit {bit}");
        }
    }
}

#[test]
fn the_artifact_holds_each_page_before_what_it_proves() {
    for bytes in [
        1,
        4096,
        4097,
        index::SPAN_BYTES,
        index::SPAN_BYTES + 1,
        1_065_968,
    ] {
        let image: Vec<u8> = (0..bytes).map(|i| (i * 31 / 8) as u8).collect();
        let (pages, artifact) = index::build(&image);
        assert_eq!(
            pages.len(),
            index::pages(bytes) as usize * index::HASH_BYTES
        );
        assert_eq!(artifact.len(), index::artifact_bytes(bytes) as usize);
        for page in 0..index::pages(bytes) {
            let at = index::page_offset(page) as usize;
            let page_bytes = &artifact[at..][..index::page_bytes(bytes, page)];
            let hash = &pages[page as usize * index::HASH_BYTES..][..index::HASH_BYTES];
            assert_eq!(index::hash(page_bytes), hash);
        }
        for position in (0..bytes).step_by(4096) {
            let at = index::artifact_offset(bytes, position) as usize;
            assert_eq!(artifact[at], image[position as usize]);
        }
        let overhead = artifact.len() - image.len();
        assert!(
            overhead * 100 <= image.len().max(1600),
            "{overhead} of {bytes}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let keys = keys(1);
        let first = first(&keys);
        let root = Root::first(&first).expect("trusted");
        prop_assert!(root.release(&bytes).is_err());
        prop_assert!(root.succeed(&bytes).is_err());
        prop_assert!(root.answer(&bytes).is_err());
        prop_assert!(Release::parse(&bytes).is_err());
        drop(Sealed::parse(&bytes));
    }
}
