//! Builder and check against each other, and every kind of damage against the check.

use fota_image::app::{
    Chip, HEAD_BYTES_MIN, Header, ImageError, LooksLike, Signature, Source, Window, check,
    check_bytes,
};
use fota_image::build::{BuildError, CONTENT_OFFSET, ImageBuilder};
use proptest::prelude::*;

const SEED_IMAGE_BYTES: usize = 1_065_968;

fn builder() -> ImageBuilder {
    ImageBuilder::new(Chip::Esp32)
        .version("1.0.6")
        .project("acme")
}

fn image(size: usize) -> Vec<u8> {
    builder().size(size).build().unwrap()
}

fn refused(bytes: &[u8]) -> ImageError {
    check_bytes(bytes).unwrap_err()
}

#[test]
fn every_chip_and_size_is_accepted_and_reads_back() {
    for chip in Chip::all() {
        for size in [496, 512, 10_240, 299_008, SEED_IMAGE_BYTES] {
            let bytes = ImageBuilder::new(chip)
                .version("1.0.6")
                .project("acme")
                .idf("v5.3")
                .secure_version(7)
                .min_rev(301)
                .size(size)
                .build()
                .unwrap();
            assert_eq!(bytes.len(), size);
            let image = check_bytes(&bytes).unwrap();
            let desc = image.desc.unwrap();
            assert_eq!(image.image_bytes as usize, size);
            assert_eq!(image.header.chip, Some(chip));
            assert_eq!(image.header.min_rev_full, 301);
            assert_eq!(image.segments.len(), 4);
            assert_eq!(image.sha256_appended.unwrap(), bytes[size - 32..]);
            assert_eq!(desc.version, "1.0.6");
            assert_eq!(desc.project_name, "acme");
            assert_eq!(desc.idf_ver, "v5.3");
            assert_eq!(desc.secure_version, 7);
        }
    }
}

#[test]
fn content_lies_at_its_offset_and_changes_the_identity() {
    let with = |content: &[u8]| {
        let bytes = builder().content(content).build().unwrap();
        assert!(bytes[CONTENT_OFFSET as usize..].starts_with(content));
        check_bytes(&bytes).unwrap().desc.unwrap().app_elf_sha256
    };
    assert_eq!(with(b"hello"), with(b"hello"));
    assert_ne!(with(b"hello"), with(b"hallo"));
}

#[test]
fn impossible_sizes_are_refused_with_the_numbers() {
    let error = |size| builder().size(size).build().unwrap_err();
    assert_eq!(
        error(384),
        BuildError::TooSmall {
            need: 400,
            asked: 384
        }
    );
    assert_eq!(error(1001), BuildError::NotMultipleOf16 { asked: 1001 });
    assert_eq!(error(32 << 20), BuildError::TooLarge { asked: 32 << 20 });
}

#[test]
fn a_truncated_image_names_both_lengths() {
    let bytes = image(SEED_IMAGE_BYTES);
    let error = refused(&bytes[..10_240]);
    assert_eq!(
        error.to_string(),
        "truncated ESP image: 10,240 of 1,065,968 bytes; transfer it again"
    );
    // Without the last segment's header the whole length cannot be known.
    assert_eq!(
        refused(&bytes[..1000]).to_string(),
        "truncated ESP image: 1,000 of at least 2,416 bytes; transfer it again"
    );
}

#[test]
fn every_truncation_is_refused_and_never_asks_for_more_than_the_image() {
    let bytes = image(10_240);
    for len in 0..bytes.len() {
        match refused(&bytes[..len]) {
            ImageError::Empty => assert_eq!(len, 0),
            ImageError::Truncated { have, need, exact } => {
                assert_eq!(have, len as u64);
                assert!(need > have && need <= 10_240, "{need} at {len}");
                assert!(!exact || need == 10_240);
            }
            other => panic!("{len}: {other}"),
        }
    }
}

#[test]
fn what_is_no_esp32_image_is_named() {
    use ImageError::*;
    let looks = |looks_like| NotAnEspImage { looks_like };
    let mut esp8266 = vec![0xE9, 1, 0, 0x40, 0, 0, 0x10, 0x40];
    esp8266.extend(0x4010_0000u32.to_le_bytes());
    esp8266.extend(0x6A8u32.to_le_bytes());
    esp8266.resize(2048, 0);
    let mut stm32 = 0x2005_0000u32.to_le_bytes().to_vec();
    stm32.extend(0x0800_C1A5u32.to_le_bytes());
    for (bytes, error) in [
        (&b""[..], Empty),
        (b"\x7fELF\x01\x01\x01", Elf),
        (&[0xFF; 64], Erased),
        (&[0xEA, 4, 0, 0], Esp8266 { version: 2 }),
        (&esp8266, Esp8266 { version: 1 }),
        (&stm32, looks(LooksLike::CortexM)),
        (b"UF2\nWQ]\x9e", looks(LooksLike::Uf2)),
        (b":1000000000", looks(LooksLike::IntelHex)),
        (b"PK\x03\x04....", looks(LooksLike::Archive)),
        (b"\x1f\x8b\x08\x00", looks(LooksLike::Archive)),
        (b"<!DOCTYPE html>", looks(LooksLike::Text)),
        (b"{\"error\": 404}\n", looks(LooksLike::Text)),
        (b"\xaa\x50\x01\x02", looks(LooksLike::PartitionTable)),
        (&[0x12, 0x34], WrongMagic { found: 0x12 }),
    ] {
        assert_eq!(refused(bytes), error);
    }
}

#[test]
fn a_bad_header_is_named() {
    let changed = |place: usize, value: u8| {
        let mut bytes = image(1024);
        bytes[place] = value;
        refused(&bytes)
    };
    assert_eq!(changed(1, 0), ImageError::NoSegments);
    assert_eq!(changed(1, 17), ImageError::TooManySegments { found: 17 });
    assert_eq!(changed(12, 1), ImageError::UnknownChip(1));
    assert_eq!(changed(23, 2), ImageError::HashFlag { found: 2 });
    assert!(matches!(
        changed(28, 1),
        ImageError::SegmentLength { segment: 0, .. }
    ));
    assert!(matches!(
        changed(31, 1),
        ImageError::SegmentLength { segment: 0, .. }
    ));
    assert!(matches!(
        changed(24, 0),
        ImageError::SegmentAlignment { segment: 0, .. }
    ));
}

#[test]
fn without_appended_hash_the_checksum_still_counts() {
    let mut bytes = builder().without_hash().size(10_240).build().unwrap();
    let image = check_bytes(&bytes).unwrap();
    assert_eq!((image.image_bytes, image.sha256_appended), (10_240, None));
    bytes[5000] ^= 1;
    assert!(matches!(refused(&bytes), ImageError::Checksum { .. }));
}

#[test]
fn an_image_of_old_esp_idf_has_no_description() {
    let bytes = builder().without_desc().build().unwrap();
    assert_eq!(check_bytes(&bytes).unwrap().desc, None);
}

#[test]
fn padding_and_signatures_may_follow_and_nothing_else() {
    let bytes = image(10_240);
    let with = |tail: &[u8]| check_bytes(&[&*bytes, tail].concat());
    let padding = vec![0xFF; 12_288 - 10_240];
    let image = with(&padding).unwrap();
    assert_eq!((image.image_bytes, image.trailing_bytes), (10_240, 2048));

    let mut sector = vec![0xFF; 4096];
    sector[..4].copy_from_slice(&[0xE7, 2, 0, 0]);
    let image = with(&[padding.clone(), sector.clone()].concat()).unwrap();
    assert_eq!(image.signature, Some(Signature::SecureBootV2));
    assert_eq!(
        with(&[0; 68]).unwrap().signature,
        Some(Signature::SecureBootV1)
    );

    let junk = ImageError::TrailingBytes {
        end: 10_240,
        extra: 4,
    };
    assert_eq!(with(b"junk").unwrap_err(), junk);
    let crooked = [vec![0; 2048], sector].concat();
    assert!(matches!(
        with(&crooked),
        Err(ImageError::TrailingBytes { .. })
    ));

    let mut merged = bytes.clone();
    merged.resize(0x9000, 0xFF);
    merged[0x8000..0x8002].copy_from_slice(&[0xAA, 0x50]);
    assert_eq!(refused(&merged), ImageError::MergedFlash);
    // The chip looks at the image only.
    assert!(check(&mut &*merged, merged.len() as u32).is_ok());
}

#[test]
fn an_image_is_found_inside_a_flash() {
    let bytes = image(10_240);
    let mut flash = vec![0xFF; 0x2_0000];
    flash[0x1_0000..][..bytes.len()].copy_from_slice(&bytes);
    let mut slot = Window {
        source: &*flash,
        base: 0x1_0000,
    };
    assert_eq!(
        check(&mut slot, 0x1_0000).unwrap(),
        check_bytes(&bytes).unwrap()
    );
    assert!(slot.read(0x1_0000, &mut [0]).is_err());
}

#[test]
fn the_head_is_enough_to_know_the_image() {
    let bytes = image(10_240);
    let header = Header::parse(&bytes[..HEAD_BYTES_MIN]).unwrap();
    assert_eq!(header.chip, Some(Chip::Esp32));
    assert!(header.allows_revision(0) && header.allows_revision(399));
    let bounded = Header {
        min_rev_full: 100,
        max_rev_full: 199,
        ..header
    };
    assert!(!bounded.allows_revision(99) && bounded.allows_revision(199));
    assert!(!bounded.allows_revision(200));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_flipped_bit_is_found(place in 0usize..10_240, bit in 0u8..8) {
        let mut bytes = image(10_240);
        bytes[place] ^= 1 << bit;
        // A cleared hash flag leaves 32 bytes over; every other bit is under the hash.
        prop_assert!(check_bytes(&bytes).is_err());
    }

    #[test]
    fn any_description_makes_the_size_that_was_asked_for(
        sixteenths in 64usize..4096, content in proptest::collection::vec(any::<u8>(), 0..300), seed: u64,
    ) {
        let built = builder().size(sixteenths * 16).content(&content).fill(seed).build().unwrap();
        prop_assert_eq!(built.len(), sixteenths * 16);
        let image = check_bytes(&built).unwrap();
        prop_assert_eq!(image.image_bytes as usize, built.len());
        prop_assert_eq!(image.trailing_bytes, 0);
    }

    #[test]
    fn any_bytes_behind_a_good_header_are_judged_without_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..2000), segments in 0u8..20,
    ) {
        let mut bytes = image(1024)[..24].to_vec();
        bytes[1] = segments;
        bytes.extend(tail);
        let _ = check_bytes(&bytes);
    }
}
