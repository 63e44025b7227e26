//! Memory to apply patches with, taken when the first patch comes: in a fleet of thousands most
//! devices never have one under way.

use fota_delta::{DecodeError, Event, Images};
use fota_device::{DefaultDecoder, PatchDecoder, ReadError, SmallDecoder};
use fota_proto::checkin::PatchProfile;

/// A decoder of a profile, as large as that once it is needed.
pub struct SimDecoder {
    profile: PatchProfile,
    decoder: Option<Box<dyn PatchDecoder>>,
}

impl SimDecoder {
    /// A decoder that has applied nothing yet.
    pub fn new(profile: PatchProfile) -> Self {
        let decoder = None;
        Self { profile, decoder }
    }
}

impl PatchDecoder for SimDecoder {
    fn profile(&self) -> PatchProfile {
        self.profile
    }

    fn reset(&mut self) {
        let profile = self.profile;
        let made = || -> Box<dyn PatchDecoder> {
            match profile {
                PatchProfile::Default => Box::new(DefaultDecoder::new()),
                PatchProfile::Small => Box::new(SmallDecoder::new()),
            }
        };
        self.decoder.get_or_insert_with(made).reset();
    }

    fn push(
        &mut self,
        patch: &mut &[u8],
        images: &mut dyn Images<Error = ReadError>,
    ) -> Result<Event<'_>, DecodeError<ReadError>> {
        match &mut self.decoder {
            Some(decoder) => decoder.push(patch, images),
            None => Err(DecodeError::Failed), // the updater resets it first
        }
    }
}
