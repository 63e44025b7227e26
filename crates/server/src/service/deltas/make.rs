//! Making one patch: encode, decode again, compare. No I/O.

use std::convert::Infallible;

use fota_delta::{DecodeError, Decoder, Event, Images, Options, Profile};
use fota_image::Grouped;
use fota_proto::checkin::PatchProfile;

/// Encodes a patch of an old image, or of none, to a new one. A setting of the server: a test
/// gives one that errs, to see that what it makes is never offered.
pub type Encode = fn(Option<&[u8]>, &[u8], PatchProfile) -> Result<Vec<u8>, String>;

/// [`Encode`] as it is meant.
pub fn encode(old: Option<&[u8]>, new: &[u8], profile: PatchProfile) -> Result<Vec<u8>, String> {
    let profile = match profile {
        PatchProfile::Small => Profile::Small,
        PatchProfile::Default => Profile::Default,
    };
    fota_delta::encode(old, new, &Options { profile }).map_err(|error| error.to_string())
}

/// A patch spares a device at least this part of the image: it costs it memory and time, and one
/// of more than 32 KiB is kept in flash as well.
const GAIN_MIN: usize = 16;

/// Why there is no patch to offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// It is not shorter enough than the image.
    #[error("the patch has {} bytes, the image {}: too little is gained", Grouped(*.patch), Grouped(*.image))]
    Useless {
        /// Length of the patch.
        patch: u64,
        /// Length of the image.
        image: u64,
    },
    /// It could not be made, or does not make the image.
    #[error("{0}")]
    Failed(String),
}

/// Makes the patch and proves it.
pub fn make(
    encode: Encode,
    old: Option<&[u8]>,
    new: &[u8],
    profile: PatchProfile,
) -> Result<Vec<u8>, NotMade> {
    let patch = encode(old, new, profile).map_err(NotMade::Failed)?;
    if patch.len() > new.len() - new.len() / GAIN_MIN {
        let (patch, image) = (patch.len() as u64, new.len() as u64);
        return Err(NotMade::Useless { patch, image });
    }
    verify(old.unwrap_or_default(), &patch, new, profile).map_err(NotMade::Failed)?;
    Ok(patch)
}

/// Decodes the patch as a device of this profile would, and compares every byte.
fn verify(old: &[u8], patch: &[u8], new: &[u8], profile: PatchProfile) -> Result<(), String> {
    let result = match profile {
        PatchProfile::Small => compare(
            &mut *Box::new(fota_delta::SmallDecoder::new()),
            old,
            patch,
            new,
        ),
        PatchProfile::Default => compare(
            &mut *Box::new(fota_delta::DefaultDecoder::new()),
            old,
            patch,
            new,
        ),
    };
    result
        .map_err(|why| format!("{why}: please report it with both images; the image is sent whole"))
}

fn compare<const SLOTS: usize, const BLOCKS: usize, const PAGES: usize>(
    decoder: &mut Decoder<SLOTS, BLOCKS, PAGES>,
    old: &[u8],
    mut patch: &[u8],
    new: &[u8],
) -> Result<(), String> {
    let mut images = Pair { old, new };
    let mut proven = 0;
    loop {
        let event = decoder.push(&mut patch, &mut images);
        match event.map_err(|error: DecodeError<Infallible>| {
            format!("the patch does not decode: {error}")
        })? {
            Event::Chunk { offset, bytes } => {
                let start = offset as usize;
                let expected = new.get(start..start + bytes.len());
                if start != proven || expected != Some(bytes) {
                    return Err(format!("the patch makes other bytes from byte {start} on"));
                }
                proven += bytes.len();
            }
            Event::Done if proven == new.len() => return Ok(()),
            Event::Done => {
                let all = new.len();
                return Err(format!("the patch makes {proven} bytes of {all}"));
            }
            Event::NeedInput => return Err("the patch is cut short".to_owned()),
        }
    }
}

/// What the decoder hands out was found equal to `new` before it asks for it.
struct Pair<'a> {
    old: &'a [u8],
    new: &'a [u8],
}

impl Images for Pair<'_> {
    type Error = Infallible;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Infallible> {
        read(self.old, offset, to);
        Ok(())
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Infallible> {
        read(self.new, offset, to);
        Ok(())
    }
}

/// Beyond the end are zeros: a patch that names another image than the one it is applied to is
/// found out by what comes out.
fn read(image: &[u8], offset: u32, to: &mut [u8]) {
    let there = image.get(offset as usize..).unwrap_or_default();
    let bytes = there.len().min(to.len());
    to[..bytes].copy_from_slice(&there[..bytes]);
    to[bytes..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(seed: u8) -> Vec<u8> {
        let word = |at: u32| at.wrapping_mul(0x9e37_79b1) ^ (at >> 9);
        let mut image: Vec<u8> = (0..6000_u32)
            .flat_map(|at| word(at).to_le_bytes())
            .collect();
        image[9_000..9_100].fill(seed);
        image
    }

    const PROFILES: [PatchProfile; 2] = [PatchProfile::Small, PatchProfile::Default];

    #[test]
    fn a_patch_that_makes_the_image_is_proven_by_either_decoder() {
        for profile in PROFILES {
            let patch = make(encode, Some(&image(1)), &image(2), profile).expect("made");
            assert!(patch.len() < 500, "{} bytes", patch.len());
        }
    }

    #[test]
    fn what_is_hardly_shorter_is_useless() {
        // Noise: nothing shorter says it.
        let noise: Vec<u8> = (0..9)
            .flat_map(|at| crate::blobs::digest(&[at]).0)
            .collect();
        let made = make(encode, None, &noise, PatchProfile::Default);
        assert!(matches!(made, Err(NotMade::Useless { image: 288, .. })));
    }

    #[test]
    fn a_patch_to_another_image_is_never_taken_for_one() {
        let to_another: Encode = |old, _, profile| encode(old, &image(3), profile);
        let cut_short: Encode = |old, new, profile| {
            encode(old, new, profile).map(|patch| patch[..patch.len() - 9].to_vec())
        };
        let from_another: Encode = |_, new, profile| encode(Some(&image(9)), new, profile);
        for profile in PROFILES {
            for bad in [to_another, cut_short, from_another] {
                let made = make(bad, Some(&image(1)), &image(2), profile);
                assert!(matches!(made, Err(NotMade::Failed(_))));
            }
        }
    }
}
