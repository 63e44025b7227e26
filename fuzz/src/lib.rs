//! The bodies of the fuzz targets: each takes any bytes and panics if a promise is broken.
//!
//! They are plain functions so that a test on the stable compiler runs them too.

mod check_in;
mod delta;
mod image;
mod otadata;
mod partition;
mod range;
mod secure_boot;
mod seed_chunk;
mod serial;
mod signed;

pub use check_in::check_in;
pub use delta::delta;
pub use image::app_image;
pub use otadata::otadata;
pub use partition::partition_table;
pub use range::range_header;
pub use secure_boot::secure_boot;
pub use seed_chunk::seed_chunk;
pub use serial::serial;
pub use signed::{bundle, sealed_check_in, signed_envelope, signed_release, signed_root_object};

/// Every target with some inputs that reach deep.
pub const TARGETS: &[(&str, fn(&[u8]), fn() -> Vec<Vec<u8>>)] = &[
    ("delta", delta, delta::seeds),
    ("app_image", app_image, image::seeds),
    ("partition_table", partition_table, partition::seeds),
    ("otadata", otadata, otadata::seeds),
    ("range_header", range_header, range::seeds),
    ("secure_boot", secure_boot, secure_boot::seeds),
    ("seed_chunk", seed_chunk, seed_chunk::seeds),
    ("serial", serial, serial::seeds),
    ("check_in", check_in, check_in::seeds),
    ("signed_envelope", signed_envelope, signed::object_seeds),
    ("signed_root", signed_root_object, signed::root_seeds),
    ("signed_release", signed_release, signed::object_seeds),
    ("sealed_check_in", sealed_check_in, signed::sealed_seeds),
    ("bundle", bundle, signed::bundle_seeds),
];

#[cfg(test)]
mod tests {
    use super::TARGETS;

    /// Rounds per target: well under a second each.
    const ROUNDS: u64 = 3_000;

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn mutate(input: &mut Vec<u8>, dice: &mut u64) {
        for _ in 0..next(dice) % 8 {
            let place = next(dice) as usize % (input.len() + 1);
            let byte = next(dice) as u8;
            match next(dice) % 6 {
                0 => input.truncate(place),
                1 => input.insert(place, byte),
                2 => input.extend([byte; 16]),
                _ => {
                    if let Some(found) = input.get_mut(place) {
                        *found ^= byte;
                    }
                }
            }
        }
    }

    #[test]
    fn every_target_survives_its_seeds_and_their_neighbours() {
        for (name, target, seeds) in TARGETS {
            let seeds = seeds();
            seeds.iter().for_each(|seed| target(seed));
            for round in 0..ROUNDS {
                let mut dice = round;
                let mut input = seeds[round as usize % seeds.len()].clone();
                mutate(&mut input, &mut dice);
                let survived = std::panic::catch_unwind(|| target(&input));
                assert!(survived.is_ok(), "{name}, round {round}: {input:02x?}");
            }
        }
    }

    /// Where `FOTA_FUZZ_SEEDS` names a folder, libFuzzer starts from what this leaves there.
    #[test]
    fn seeds_are_written_where_asked() {
        let Some(folder) = std::env::var_os("FOTA_FUZZ_SEEDS") else {
            return;
        };
        for (name, _, seeds) in TARGETS {
            let folder = std::path::Path::new(&folder).join(name);
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            for (number, seed) in seeds().iter().enumerate() {
                let file = folder.join(format!("seed-{number}"));
                std::fs::write(file, seed).expect("the seed can be written");
            }
        }
    }
}
