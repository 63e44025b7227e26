//! App images.

use fota_image::app::{
    CheckError, Chip, HASH_BYTES, HEADER_BYTES, Image, PastEnd, SEGMENT_HEADER_BYTES, check,
    check_bytes,
};
use fota_image::build::ImageBuilder;
use fota_image::otadata::SECTOR_BYTES;
use sha2::{Digest, Sha256};

/// Judges the bytes as they are, and again with checksum and hash made right, which no fuzzer
/// would find by itself.
pub fn app_image(data: &[u8]) {
    judge(data);
    if let Some(repaired) = repaired(data) {
        judge(&repaired);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let image = |chip, size| {
        let builder = ImageBuilder::new(chip).size(size).content(b"content");
        builder.build().expect("the size is possible")
    };
    let mut padded = image(Chip::Esp32C3, 1024);
    padded.resize(SECTOR_BYTES as usize, 0xFF);
    let mut signed = padded.clone();
    signed.extend([0xE7, 2]);
    signed.resize(2 * SECTOR_BYTES as usize, 0xFF);
    vec![
        image(Chip::Esp32, 512),
        image(Chip::Esp32S3, 4096),
        padded,
        signed,
        b"\x7fELF".to_vec(),
        vec![0xEA, 4],
        vec![0xFF; 32],
    ]
}

fn judge(data: &[u8]) {
    let len = data.len() as u32;
    let as_chip = check(&mut &*data, len);
    // The length was told truly, so nothing was read past the end.
    assert!(!matches!(
        as_chip,
        Err(CheckError::Read { error: PastEnd, .. })
    ));
    match (check_bytes(data), as_chip) {
        (Ok(file), Ok(chip)) => {
            assert_eq!(file.image_bytes + file.trailing_bytes, len);
            assert_eq!((file.sha256, file.desc), (chip.sha256, chip.desc));
            is_consistent(data, &chip);
        }
        (Err(error), Ok(chip)) => {
            assert!(!error.to_string().is_empty());
            is_consistent(data, &chip);
        }
        (Ok(_), Err(error)) => panic!("an upload was accepted that no chip boots: {error}"),
        (Err(file), Err(chip)) => assert_eq!(CheckError::Image(file), chip),
    }
}

fn is_consistent(data: &[u8], image: &Image) {
    let bytes = &data[..image.image_bytes as usize];
    assert_eq!(image.sha256, <[u8; 32]>::from(Sha256::digest(bytes)));
    assert_eq!(
        image.segments.len(),
        usize::from(image.header.segment_count)
    );
    let mut end = HEADER_BYTES;
    for segment in image.segments.iter() {
        assert_eq!(segment.file_offset as usize, end + SEGMENT_HEADER_BYTES);
        end = segment.file_offset as usize + segment.len as usize;
    }
    let hash = if image.header.hash_appended {
        HASH_BYTES
    } else {
        0
    };
    assert!((end + 1..=end + 16).contains(&(bytes.len() - hash)));
    // One byte less is refused.
    assert!(check(&mut &bytes[..bytes.len() - 1], image.image_bytes - 1).is_err());
}

/// The image with checksum and hash recomputed; `None` where the headers lead nowhere.
fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let (count, has_hash) = (*data.get(1)?, *data.get(HEADER_BYTES - 1)?);
    let mut end = HEADER_BYTES;
    let mut checksum = 0xEF;
    for _ in 0..count {
        let len = data.get(end + 4..end + SEGMENT_HEADER_BYTES)?;
        let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
        let start = end + SEGMENT_HEADER_BYTES;
        end = start.checked_add(len)?;
        checksum = data
            .get(start..end)?
            .iter()
            .fold(checksum, |sum, byte| sum ^ byte);
    }
    let mut image = data[..end].to_vec();
    image.resize((end + 1).next_multiple_of(16) - 1, 0);
    image.push(checksum);
    if has_hash == 1 {
        image.extend(Sha256::digest(&image));
    }
    // Whatever followed follows again.
    image.extend(data.get(image.len()..).unwrap_or_default());
    Some(image)
}
