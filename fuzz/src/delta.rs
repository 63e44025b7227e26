//! Patches.

use fota_delta::{
    Decoder, DefaultDecoder, Event, Images, Options, Profile, SmallDecoder, encode,
};

/// What a patch may claim to make: more would only make the fuzzer slow.
const NEW_BYTES_MAX: usize = 64 * 1024;

/// The first byte says how the patch is cut and which decoder takes it, the next two how long the
/// old image is. The decoder never panics, never reads beyond what there is, hands out chunks in
/// order, and ends.
pub fn delta(data: &[u8]) {
    let Some(([how, low, high], rest)) = data.split_first_chunk() else {
        return;
    };
    let old_bytes = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (old, patch) = rest.split_at(old_bytes);
    let piece = usize::from(how >> 1) + 1;
    if how & 1 == 0 {
        decode(&mut Box::new(DefaultDecoder::new()), old, patch, piece);
    } else {
        decode(&mut Box::new(SmallDecoder::new()), old, patch, piece);
    }
}

struct Flash<'a> {
    old: &'a [u8],
    new: Vec<u8>,
    /// The header may claim an old image that is longer than the one there is.
    claimed: usize,
}

impl Images for Flash<'_> {
    type Error = ();

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ()> {
        let end = offset as usize + to.len();
        assert!(end <= self.claimed, "{end} of {}", self.claimed);
        let part = self.old.get(offset as usize..end).ok_or(())?;
        to.copy_from_slice(part);
        Ok(())
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), ()> {
        let end = offset as usize + to.len();
        to.copy_from_slice(&self.new[offset as usize..end]);
        Ok(())
    }
}

fn decode<const S: usize, const B: usize, const P: usize>(
    decoder: &mut Decoder<S, B, P>,
    old: &[u8],
    patch: &[u8],
    piece: usize,
) {
    let Ok((header, _)) = fota_delta::PatchHeader::parse(patch) else {
        return;
    };
    if header.new_bytes as usize > NEW_BYTES_MAX {
        return;
    }
    let mut flash = Flash {
        old,
        new: Vec::new(),
        claimed: header.old.map_or(0, |old| old.bytes as usize),
    };
    for part in patch.chunks(piece) {
        let mut part = part;
        loop {
            match decoder.push(&mut part, &mut flash) {
                Ok(Event::Chunk { offset, bytes }) => {
                    assert_eq!(offset as usize, flash.new.len());
                    assert!(!bytes.is_empty() && bytes.len() <= fota_delta::CHUNK_BYTES);
                    flash.new.extend_from_slice(bytes);
                    assert!(flash.new.len() <= header.new_bytes as usize);
                }
                Ok(Event::NeedInput) => break,
                Ok(Event::Done) => {
                    assert_eq!(flash.new.len(), header.new_bytes as usize);
                    return;
                }
                Err(_) => {
                    assert!(decoder.push(&mut part, &mut flash).is_err(), "it stays failed");
                    return;
                }
            }
        }
    }
}

/// Patches between small images, for both decoders.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let image = |chip: u8, step: usize| {
        let mut image = vec![0xE9, 1, 2, 0x20, 0, 0, 0x0d, 0x40];
        image.extend([0, 0, 0, 0, chip, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        image.extend(0x400D_0020_u32.to_le_bytes());
        image.extend(1_200_u32.to_le_bytes());
        let code = [0x36, 0x41, 0, 0x25, 0x10, 0, 0x97, 0x15, 0, 0, 0x13, 0x05, 5, 0x1d, 0xf0, 0];
        for index in 0..75_usize {
            let mut function = code;
            function[4] = (index * step) as u8;
            image.extend(function);
        }
        image
    };
    let mut seeds = Vec::new();
    for (how, profile) in [(0, Profile::Default), (21, Profile::Small)] {
        for chip in [0, 5] {
            let (old, new) = (image(chip, 7), image(chip, 9));
            let patch = encode(Some(&old), &new, &Options { profile }).expect("they are small");
            let mut seed = vec![how];
            seed.extend((old.len() as u16).to_le_bytes());
            seed.extend(old);
            seed.extend(patch);
            seeds.push(seed);
        }
    }
    let full = encode(None, &image(0, 3), &Options::default()).expect("it is small");
    seeds.push([&[200, 0, 0][..], &full].concat());
    seeds
}
