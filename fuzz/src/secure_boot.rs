use fota_image::{
    app::{self, Chip},
    build::{ImageBuilder, SigningKey},
    secure_boot::{self as sb, BLOCK_BYTES, BLOCKS_MAX, SECTOR_BYTES, Scheme, VerifyError},
};

/// Any bytes as a signature sector: no panic, and what is read has the form that was promised. The
/// CRCs are made right first, or hardly any input would get past them.
pub fn secure_boot(data: &[u8]) {
    let _ = sb::parse(data);
    let mut sector = data.to_vec();
    sector.resize(SECTOR_BYTES, 0xFF);
    for block in sector.chunks_exact_mut(BLOCK_BYTES) {
        let crc = crc32(&block[..1196]).to_le_bytes();
        block[1196..1200].copy_from_slice(&crc);
    }
    sector[BLOCKS_MAX * BLOCK_BYTES..].fill(0xFF);
    if let Some(unused) = sector
        .chunks_exact(BLOCK_BYTES)
        .position(|block| block[0] != 0xE7)
    {
        sector[unused * BLOCK_BYTES..].fill(0xFF);
    }
    let Ok(blocks) = sb::parse(&sector) else {
        return;
    };
    assert!((1..=BLOCKS_MAX).contains(&blocks.iter().count()));
    for block in blocks.iter() {
        let verdict = block.verify(b"somebody else's bytes");
        let known = block.scheme() != Scheme::EcdsaP192;
        assert!(verdict.is_err(), "nobody signed this");
        assert_eq!(matches!(verdict, Err(VerifyError::Unsupported(_))), !known);
        assert_ne!(block.key_digest(), [0; 32]);
    }
    let file_bytes = u32::from(data.first().copied().unwrap_or(0));
    let _ = sb::split(data, file_bytes);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ ((register & 1) * 0xEDB8_8320)
        })
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let image = ImageBuilder::new(Chip::Esp32C3).size(512).build();
    let image = image.expect("builds");
    let file = SigningKey::generate().sign(&image);
    let bytes = app::check_bytes(&file).expect("an image").image_bytes;
    let (_, sector) = sb::split(&file, bytes).expect("a sector");
    let block = &sector[..BLOCK_BYTES];
    let mut rsa = block.to_vec();
    rsa[1] = 2;
    let mut wide = block.to_vec();
    (wide[2], wide[52]) = (1, 3);
    vec![sector.to_vec(), rsa.repeat(3), [rsa, wide].concat()]
}
