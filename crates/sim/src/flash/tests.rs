use super::*;

fn read<const N: usize>(flash: &SimFlash, offset: u32) -> [u8; N] {
    let bytes = flash.bytes(offset..offset + N as u32).unwrap();
    bytes.try_into().unwrap()
}

#[test]
fn bits_fall_by_writing_and_rise_by_erasing_only() {
    let mut flash = SimFlash::default();
    assert_eq!(flash.capacity(), 4 << 20);
    flash.write(0x1000, &[0xF0, 1, 2, 3]).unwrap();
    flash.write(0x1000, &[0x30, 1, 2, 3]).unwrap();
    assert_eq!(
        flash.write(0x1000, &[0x70, 1, 2, 3]),
        Err(FlashError::NotErased {
            offset: 0x1000,
            found: 0x30,
            wanted: 0x70
        })
    );
    assert_eq!(read(&flash, 0x1000), [0x30, 1, 2, 3]);
    flash.erase(0x1000, 0x2000).unwrap();
    assert_eq!(read(&flash, 0x1000), [0xFF; 4]);
}

#[test]
fn bounds_and_alignment_are_checked() {
    let mut flash = SimFlash::new(0x2000);
    let end = 0x2000;
    assert!(matches!(
        flash.write(2, &[0; 4]),
        Err(FlashError::NotAligned { .. })
    ));
    assert!(matches!(
        flash.write(0, &[0; 3]),
        Err(FlashError::NotAligned { .. })
    ));
    assert!(matches!(
        flash.erase(0, 0x800),
        Err(FlashError::NotAligned { .. })
    ));
    assert!(matches!(
        flash.write(end, &[0; 4]),
        Err(FlashError::OutOfBounds { .. })
    ));
    assert!(matches!(
        flash.erase(0, 0x3000),
        Err(FlashError::OutOfBounds { .. })
    ));
    let mut buf = [0; 2];
    assert!(ReadNorFlash::read(&mut flash, end - 1, &mut buf).is_err());
    assert!(ReadNorFlash::read(&mut flash, end - 2, &mut buf).is_ok());
    assert_eq!(flash.ops(), 0);
}

#[test]
fn calls_are_split_into_the_operations_of_the_chip() {
    let mut flash = SimFlash::default();
    flash.start_log();
    flash.erase(0xF000, 0x2_1000).unwrap();
    flash.write(0x1_00F8, &[0; 264]).unwrap();
    let ops: Vec<_> = flash
        .log()
        .iter()
        .map(|op| (op.kind, op.offset, op.len))
        .collect();
    assert_eq!(
        ops,
        [
            (OpKind::EraseSector, 0xF000, 0x1000),
            (OpKind::EraseBlock, 0x1_0000, 0x1_0000),
            (OpKind::EraseSector, 0x2_0000, 0x1000),
            (OpKind::Program, 0x1_00F8, 8),
            (OpKind::Program, 0x1_0100, 256),
        ]
    );
    assert_eq!(flash.busy_us(), 2 * 45_000 + 150_000 + 2 * 700);
    assert_eq!(
        (flash.erases(15), flash.erases(31), flash.erases(33)),
        (1, 1, 0)
    );
    assert_eq!(flash.erases_max(), 1);
}

#[test]
fn a_cut_hits_one_operation_and_the_rest_never_happens() {
    for (tear, first_page) in [
        (Tear::Before, [0xFF; 4]),
        (Tear::Prefix(2), [0, 0, 0xFF, 0xFF]),
        (Tear::Prefix(9999), [0; 4]),
        (Tear::After, [0; 4]),
    ] {
        let mut flash = SimFlash::default();
        flash.cut_at(0, tear);
        assert_eq!(flash.write(0, &[0; 512]), Err(FlashError::PowerLost));
        assert_eq!(flash.write(0x1000, &[0; 4]), Err(FlashError::PowerLost));
        assert_eq!(flash.erase(0, 0x1000), Err(FlashError::PowerLost));
        assert!(ReadNorFlash::read(&mut flash, 0, &mut [0; 1]).is_err());
        flash.power_on();
        assert_eq!(read(&flash, 0), first_page);
        assert_eq!(read(&flash, 256), [0xFF; 4]);
        assert_eq!(flash.ops(), 1);
    }
}

#[test]
fn random_tears_leave_old_or_new_bits_and_repeat_with_their_seed() {
    let torn = |tear| {
        let mut flash = SimFlash::default();
        flash.load(0, &[0xA5; SECTOR_BYTES]).unwrap();
        flash.cut_at(0, tear);
        flash.erase(0, SECTOR_BYTES as u32).unwrap_err();
        flash.bytes(0..SECTOR_BYTES as u32).unwrap()
    };
    let bits = torn(Tear::Random(1));
    assert!(bits.iter().all(|byte| byte & 0xA5 == 0xA5));
    assert!(bits.iter().any(|byte| ![0xA5, 0xFF].contains(byte)));
    assert_eq!(bits, torn(Tear::Random(1)));
    assert_ne!(bits, torn(Tear::Random(2)));
    let bytes = torn(Tear::RandomBytes(1));
    assert!(bytes.iter().all(|byte| [0xA5, 0xFF].contains(byte)));
    for word in torn(Tear::RandomWords(1)).chunks(4) {
        assert!(word == [0xA5; 4] || word == [0xFF; 4]);
    }
}

#[test]
fn a_protected_range_is_not_touched() {
    let mut flash = SimFlash::default();
    flash.protect(0x8000..0x9000);
    assert!(matches!(
        flash.erase(0, 0x1_0000),
        Err(FlashError::Protected { .. })
    ));
    assert!(flash.write(0x8FFC, &[0; 4]).is_err());
    flash.write(0x9000, &[0; 4]).unwrap();
    assert_eq!(flash.violations(), 2);
    flash.unprotect_all();
    flash.write(0x8000, &[0; 4]).unwrap();
}

#[test]
fn a_fork_does_not_see_what_happens_later() {
    let shared = SharedFlash::new(SimFlash::default());
    let fork = shared.fork();
    shared.clone().write(0, &[0; 4]).unwrap();
    assert_eq!(read(&fork, 0), [0xFF; 4]);
    assert_eq!(shared.with(|flash| read(flash, 0)), [0; 4]);
}

#[test]
fn weak_cells_read_as_they_like_until_they_are_written_again() {
    // By the seed: the last bit that was missing is weak.
    let tear = Tear::Weak(1);
    let mut flash = SimFlash::default();
    flash.cut_at(0, tear);
    assert_eq!(flash.write(0x1000, &[0; 32]), Err(FlashError::PowerLost));
    flash.power_on();
    let found = |flash: &mut SimFlash| {
        let mut bytes = [0xA5; 32];
        ReadNorFlash::read(flash, 0x1000, &mut bytes).unwrap();
        bytes.iter().map(|byte| byte.count_ones()).sum::<u32>()
    };
    let reads: Vec<u32> = (0..32).map(|_| found(&mut flash)).collect();
    assert!(reads.contains(&0) && reads.contains(&1), "{reads:?}");
    assert_ne!(flash.weak_sum(), 0);
    flash.write(0x1000, &[0; 32]).unwrap();
    assert_eq!(flash.weak_sum(), 0);
    assert!((0..32).all(|_| found(&mut flash) == 0));
}

#[test]
fn encrypted_blocks_tear_whole() {
    let mut flash = SimFlash::default();
    flash.write(0x1000, &[0x55; 64]).unwrap();
    let torn = (0..32).map(|seed| {
        let mut flash = flash.clone();
        let (op, target) = (flash.ops(), [0; 4]);
        flash.cut_at(op, Tear::Blocks(seed));
        flash.write(0x1014, &target).unwrap_err();
        let bytes: [u8; 64] = read(&flash, 0x1000);
        // Only the block that holds the word.
        assert_eq!(
            (bytes[..16].to_vec(), bytes[32..].to_vec()),
            (vec![0x55; 16], vec![0x55; 32])
        );
        bytes[16..20] != [0x55; 4]
    });
    assert!(torn.filter(|is_garbage| *is_garbage).count() > 4);
}

#[test]
fn the_sum_follows_the_content() {
    let mut flash = SimFlash::new(0x4000);
    let blank = flash.sum(0..4);
    let before = flash.clone();
    flash.write(0x1100, &[1, 2, 3, 4]).unwrap();
    let sum = flash.sum_since(&before, blank);
    assert_eq!(sum, flash.sum(0..4));
    assert_ne!(sum, blank);
    flash.erase(0x1000, 0x2000).unwrap();
    assert_eq!(flash.sum(0..4), blank);
}
