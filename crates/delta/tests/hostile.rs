//! Patches, old images and pieces from an enemy: no panic, no read out of bounds, and an end.

mod support;

use fota_delta::{DecodeError, Options, PatchHeader, encode};
use proptest::prelude::*;
use support::{Chip, Dice, decode, edit, functions, link};

fn pair(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let chip = match seed % 2 {
        0 => Chip::Esp32,
        _ => Chip::Esp32C3,
    };
    let mut program = functions(30, seed);
    let old = link(chip, &program);
    edit(&mut program, 4, &mut Dice(seed));
    (old, link(chip, &program))
}

/// What the flash of the tests refuses is a read beyond an image: the decoder must never ask.
fn never_reads_beyond(result: Result<Vec<u8>, DecodeError<String>>) {
    if let Err(DecodeError::Read(read)) = result {
        panic!("read {read}");
    }
}

/// A length as the header has it.
fn length(mut bytes: usize) -> Vec<u8> {
    let mut groups = Vec::new();
    while bytes >= 0x80 {
        groups.push(bytes as u8 | 0x80);
        bytes >>= 7;
    }
    groups.push(bytes as u8);
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_changed_payload_does_no_harm(
        seed in 0_u64..6,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        piece in 1_usize..300,
    ) {
        let (old, new) = pair(seed);
        let mut patch = encode(Some(&old), &new, &Options::default()).expect("small");
        let (_, start) = PatchHeader::parse(&patch).expect("a header");
        for (place, byte) in changes {
            let at = start + place.index(patch.len() - start);
            patch[at] ^= byte;
        }
        never_reads_beyond(decode(&old, &patch, &[piece]));
    }

    #[test]
    fn any_payload_does_no_harm(
        payload in prop::collection::vec(any::<u8>(), 0..600),
        old in prop::collection::vec(any::<u8>(), 1..3_000),
        new_bytes in 0_u16..16_000,
        chip in any::<u8>(),
        is_image: bool,
    ) {
        let mut old = old;
        if is_image && old.len() > 24 {
            old[0] = 0xE9;
            old[1] = chip;
        }
        let lengths = [usize::from(new_bytes), old.len(), payload.len()].map(length);
        let patch = [&b"fd\x01\0"[..], &lengths.concat(), &[0; 64], &payload].concat();
        prop_assert!(PatchHeader::parse(&patch).is_ok());
        never_reads_beyond(decode(&old, &patch, &[50]));
    }
}

#[test]
fn a_cut_patch_asks_for_more_and_a_longer_one_is_left_alone() {
    let (old, new) = pair(1);
    let patch = encode(Some(&old), &new, &Options::default()).expect("small");
    for cut in [0, 3, 40, patch.len() / 2, patch.len() - 1] {
        let asked = decode(&old, &patch[..cut], &[7]).expect_err("it is cut");
        assert!(
            matches!(asked, DecodeError::Damaged("the test's patch has ended")),
            "{asked:?}"
        );
    }
    let longer = [&patch[..], &[1, 2, 3]].concat();
    assert_eq!(decode(&old, &longer, &[patch.len()]).expect("decodes"), new);
}
