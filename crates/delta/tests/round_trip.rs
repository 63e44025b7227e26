//! What goes in comes out: made-up firmware and random bytes, in both profiles, in any pieces.

mod support;

use fota_delta::{DecodeError, EncodeError, Options, Profile, encode, explain, is_old};
use proptest::prelude::*;
use support::{Chip, Dice, Flash, decode, decode_small, edit, functions, link};

const PROFILES: [Profile; 2] = [Profile::Default, Profile::Small];

fn patch(old: &[u8], new: &[u8], profile: Profile) -> Vec<u8> {
    let old = (!old.is_empty()).then_some(old);
    encode(old, new, &Options { profile }).expect("the images are small")
}

fn pair(chip: Chip, count: usize, edits: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut program = functions(count, seed);
    let old = link(chip, &program);
    edit(&mut program, edits, &mut Dice(seed ^ 1));
    (old, link(chip, &program))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn edited_programs_come_back(
        is_riscv: bool,
        count in 4_usize..160,
        edits in 0_usize..12,
        seed: u64,
        pieces in prop::collection::vec(1_usize..700, 1..8),
    ) {
        let chip = if is_riscv { Chip::Esp32C3 } else { Chip::Esp32 };
        let (old, new) = pair(chip, count, edits, seed);
        for (old, new) in [(&old, &new), (&new, &old)] {
            for profile in PROFILES {
                let patch = patch(old, new, profile);
                prop_assert_eq!(&decode(old, &patch, &pieces).expect("decodes"), new);
                if profile == Profile::Small {
                    prop_assert_eq!(&decode_small(old, &patch).expect("decodes"), new);
                }
            }
        }
    }

    #[test]
    fn any_bytes_come_back(
        old in prop::collection::vec(any::<u8>(), 0..6_000),
        new in prop::collection::vec(any::<u8>(), 0..6_000),
        cut in 0_usize..6_000,
        profile in prop::sample::select(&PROFILES[..]),
    ) {
        // The old bytes, cut and turned around, so that there is something to copy.
        let turned = [&old[cut.min(old.len())..], &new, &old[..cut.min(old.len())]].concat();
        for new in [new, turned] {
            let patch = patch(&old, &new, profile);
            prop_assert_eq!(decode(&old, &patch, &[64]).expect("decodes"), new);
        }
    }

    #[test]
    fn bytes_that_call_themselves_firmware_come_back(
        chip in prop::sample::select(&[0_u8, 2, 9, 5, 12, 13, 16, 18][..]),
        segments in 0_u8..20,
        lengths in prop::collection::vec(0_u32..3_000, 4),
        bytes in prop::collection::vec(any::<u8>(), 100..6_000),
        seed: u64,
    ) {
        let mut dice = Dice(seed);
        let mut old = bytes;
        old[..4].copy_from_slice(&[0xE9, segments, 2, 0]);
        old[12..14].copy_from_slice(&[chip, 0]);
        let mut at = 24;
        for length in lengths {
            let address = [0x3F40_0020, 0x400D_0018, 0x4200_0020_u32][dice.below(3)];
            if let Some(header) = old.get_mut(at..at + 8) {
                header[..4].copy_from_slice(&address.to_le_bytes());
                header[4..].copy_from_slice(&length.to_le_bytes());
            }
            at += 8 + length as usize;
        }
        let mut new = old.clone();
        for _ in 0..dice.below(40) {
            let place = 24 + dice.below(new.len() - 24);
            match dice.below(3) {
                0 => new.insert(place, dice.next() as u8),
                1 if new.len() > 100 => drop(new.remove(place)),
                _ => new[place] = dice.next() as u8,
            }
        }
        let patch = patch(&old, &new, Profile::Default);
        prop_assert_eq!(decode(&old, &patch, &[100]).expect("decodes"), new);
    }
}

#[test]
fn every_split_gives_the_same() {
    let (old, new) = pair(Chip::Esp32, 80, 8, 7);
    let patch = patch(&old, &new, Profile::Default);
    assert!(new.len() > 4096, "it has more than one chunk");
    for piece in 1..=4096 {
        assert_eq!(
            decode(&old, &patch, &[piece]).expect("decodes"),
            new,
            "pieces of {piece}"
        );
    }
}

#[test]
fn moved_code_costs_next_to_nothing() {
    for chip in [Chip::Esp32, Chip::Esp32C3] {
        let mut program = functions(600, 3);
        let old = link(chip, &program);
        program[40].instructions += 3;
        let new = link(chip, &program);
        let changed = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        let patch = patch(&old, &new, Profile::Default);
        let bytes = patch.len();
        assert!(
            changed > new.len() / 2,
            "{chip:?}: {changed} of {} bytes",
            new.len()
        );
        assert!(bytes < 300, "{chip:?}: {bytes} bytes for {}", new.len());
    }
}

#[test]
fn a_full_image_is_compressed_and_an_empty_one_is_possible() {
    let (image, _) = pair(Chip::Esp32C3, 300, 0, 5);
    let full = patch(&[], &image, Profile::Default);
    assert!(
        full.len() < image.len(),
        "{} of {}",
        full.len(),
        image.len()
    );
    assert_eq!(decode(&[], &full, &[1_000]).expect("decodes"), image);
    let zeros = vec![0; 100_000];
    let small = patch(&[], &zeros, Profile::Small);
    assert!(small.len() < 100, "{}", small.len());
    assert_eq!(decode_small(&[], &small).expect("decodes"), zeros);
    let nothing = patch(&image, &[], Profile::Default);
    assert_eq!(decode(&image, &nothing, &[9]).expect("decodes"), []);
}

#[test]
fn another_old_image_is_refused() {
    let (old, new) = pair(Chip::Esp32, 60, 5, 11);
    let patch = patch(&old, &new, Profile::Default);
    let (header, _) = fota_delta::PatchHeader::parse(&patch).expect("a header");
    let wanted = header.old.expect("it has an old image");
    for place in [0, 30, 200, old.len() / 2, old.len() - 20] {
        let mut wrong = old.clone();
        wrong[place] ^= 0x40;
        let mut flash = Flash {
            old: &wrong,
            new: Vec::new(),
        };
        assert_eq!(is_old(&mut flash, &wanted), Ok(false));
        // A byte that no copy uses changes nothing; any other is found at the end at the latest.
        match decode(&wrong, &patch, &[512]) {
            Ok(made) => assert_eq!(made, new),
            Err(error) => assert!(
                matches!(error, DecodeError::Digest | DecodeError::Damaged(_)),
                "{error:?}"
            ),
        }
    }
    let mut flash = Flash {
        old: &old,
        new: Vec::new(),
    };
    assert_eq!(is_old(&mut flash, &wanted), Ok(true));
}

#[test]
fn a_small_decoder_refuses_what_it_has_no_memory_for() {
    let (old, new) = pair(Chip::Esp32, 20, 2, 4);
    let patch = patch(&old, &new, Profile::Default);
    let refused = decode_small(&old, &patch).expect_err("it does not fit");
    assert!(matches!(refused, DecodeError::Memory { .. }), "{refused:?}");
}

#[test]
fn a_decoder_starts_again_after_a_reset() {
    let (old, new) = pair(Chip::Esp32, 50, 5, 21);
    let patch = patch(&old, &new, Profile::Default);
    let mut decoder = Box::new(fota_delta::DefaultDecoder::new());
    for stop in [10, 90, 200, patch.len()] {
        decoder.reset();
        let _ = support::decode_with(&mut decoder, &old, &patch[..stop], &[33]);
    }
    decoder.reset();
    let made = support::decode_with(&mut decoder, &old, &patch, &[33]);
    assert_eq!(made.expect("decodes"), new);
}

#[test]
fn too_large_an_image_is_refused_by_name() {
    let large = vec![0; 16 * 1024 * 1024 + 1];
    let refused = encode(Some(&large), &[1], &Options::default());
    let bytes = large.len();
    assert_eq!(
        refused,
        Err(EncodeError::TooLarge {
            which: "old",
            bytes
        })
    );
}

#[test]
fn an_explanation_adds_up() {
    let (old, new) = pair(Chip::Esp32, 200, 9, 2);
    let patch = patch(&old, &new, Profile::Default);
    let told = explain(&old, &patch).expect("decodes");
    assert_eq!(told.new, new);
    let parts: f64 = told.parts.iter().map(|it| it.patch_bytes).sum();
    let payload = f64::from(told.header.payload_bytes);
    assert!((parts - payload).abs() < 8.0, "{parts} of {payload}");
    let segments: f64 = told.segments.iter().map(|it| it.patch_bytes).sum();
    assert!((parts - segments).abs() < 0.01);
    let made: u64 = told.parts.iter().map(|it| it.new_bytes).sum();
    assert_eq!(made, new.len() as u64);
}
