//! Firmware files: where they are found, and the check before anything is sent.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fota_image::app::{self, Image, ImageError};
use fota_proto::{Sha256, limits::IMAGE_BYTES_MAX, signed::bundle::Bundle};
use sha2::Digest;

use crate::{
    config::Config,
    failure::{Failure, Result},
    text::Grouped,
};

/// Files looked at for an ELF file that somebody forgot to convert.
const ELF_CANDIDATES_MAX: usize = 200;
/// Bytes that may follow an image in its file (padding, signature) on top of the largest image.
const FILE_BYTES_MAX: u64 = IMAGE_BYTES_MAX + 64 * 1024;

/// A firmware file in memory and what the check says of it: an image, or a bundle of an image and
/// its signed release.
pub struct Firmware {
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Bytes,
    /// The signed release, where it is a bundle.
    pub release: Option<Bytes>,
    /// Of the image.
    pub sha256: Sha256,
    pub image: std::result::Result<Image, ImageError>,
}

impl Firmware {
    /// Reads and checks `path`. A refused image is still a value: a laboratory may want it.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let size = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if size.is_dir() {
            return Err(Failure::usage(format!(
                "{shown} is a folder; name the .bin file"
            )));
        }
        if size.len() > FILE_BYTES_MAX {
            let (have, most) = (Grouped(size.len()), Grouped(IMAGE_BYTES_MAX));
            let message = format!("{shown} has {have} bytes; an image has at most {most}");
            return Err(Failure::refused("image_invalid", message));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        let bytes = Bytes::from(bytes);
        let (release, image) = match Bundle::looks_like(&bytes) {
            false => (None, bytes.clone()),
            true => {
                let bundle = Bundle::parse(&bytes).ok_or_else(|| cut_short(path))?;
                (
                    Some(bytes.slice_ref(bundle.release)),
                    bytes.slice_ref(bundle.image),
                )
            }
        };
        Ok(Self {
            path: path.to_owned(),
            image: app::check_bytes(&image),
            sha256: Sha256(sha2::Sha256::digest(&image).into()),
            release,
            bytes,
        })
    }

    /// The image alone.
    pub fn image_bytes(&self) -> &[u8] {
        Bundle::parse(&self.bytes).map_or(&self.bytes[..], |bundle| bundle.image)
    }

    /// The image, or why no chip would boot it.
    pub fn accepted(&self) -> Result<&Image> {
        self.image.as_ref().map_err(|error| {
            let message = format!("{}: {error}", self.path.display());
            Failure::refused("image_invalid", message)
        })
    }

    /// The version in the app description.
    pub fn version(&self) -> Option<String> {
        let desc = self.image.as_ref().ok()?.desc?;
        desc.own_version().map(str::to_owned)
    }
}

fn cut_short(path: &Path) -> Failure {
    let message = format!("{}: the bundle is cut short or damaged", path.display());
    Failure::refused("bundle_invalid", message).hint("make it again with `fota release sign`")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(message),
        _ => Failure::error(message),
    }
}

/// The firmware file to take: the one named, the one configured, or the one a build left behind.
pub fn find(config: &Config, named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if let Some(configured) = &config.firmware {
        return Ok(configured.value.clone());
    }
    discover(Path::new(""))
}

fn discover(folder: &Path) -> Result<PathBuf> {
    let mut found = platformio(folder);
    found.extend(esp_idf(folder));
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(nothing_found(folder)),
        many => {
            let names: Vec<String> = many.iter().map(|path| path.display().to_string()).collect();
            Err(Failure::usage("several firmware files were found")
                .hint(format!("name one of them: {}", names.join(", "))))
        }
    }
}

/// `.pio/build/*/firmware.bin`
fn platformio(folder: &Path) -> Vec<PathBuf> {
    let environments = entries(&folder.join(".pio/build"));
    let images = environments
        .into_iter()
        .map(|path| path.join("firmware.bin"));
    images.filter(|path| path.is_file()).collect()
}

/// The app that `build/flasher_args.json` names, which ESP-IDF writes beside it.
fn esp_idf(folder: &Path) -> Option<PathBuf> {
    let build = folder.join("build");
    let text = std::fs::read_to_string(build.join("flasher_args.json")).ok()?;
    let args: serde_json::Value = serde_json::from_str(&text).ok()?;
    let path = build.join(args["app"]["file"].as_str()?);
    path.is_file().then_some(path)
}

fn nothing_found(folder: &Path) -> Failure {
    let failure = Failure::usage("no firmware file was named, and no build was found here");
    match elf(folder) {
        Some(elf) => failure.hint(format!(
            "{} is an ELF file: make an image of it with \
             `espflash save-image --chip CHIP {} app.bin` and upload that",
            elf.display(),
            elf.display(),
        )),
        None => failure.hint(
            "name a .bin file, or build first (PlatformIO, ESP-IDF), or set `firmware` in fota.toml",
        ),
    }
}

/// `target/*/{release,debug}/*`, an ELF file for a chip of Espressif's.
fn elf(folder: &Path) -> Option<PathBuf> {
    let targets = entries(&folder.join("target")).into_iter();
    let profiles = targets.flat_map(|path| [path.join("release"), path.join("debug")]);
    let files = profiles
        .flat_map(|path| entries(&path))
        .take(ELF_CANDIDATES_MAX);
    files.into_iter().find(|path| is_chip_elf(path))
}

fn is_chip_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 20];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // e_machine: 94 is Xtensa, 243 RISC-V.
    read.is_ok() && head.starts_with(b"\x7fELF") && matches!(head[18], 94 | 243)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }

    #[test]
    fn the_output_of_a_build_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path();
        assert_eq!(
            discover(folder).expect_err("nothing there").exit,
            Exit::Usage
        );
        write(
            folder,
            "build/flasher_args.json",
            br#"{"app":{"file":"hello.bin"}}"#,
        );
        write(folder, "build/hello.bin", b"x");
        assert_eq!(
            discover(folder).expect("found"),
            folder.join("build/hello.bin")
        );
        write(folder, ".pio/build/esp32dev/firmware.bin", b"x");
        let several = discover(folder).expect_err("two");
        assert!(several.hint.expect("names them").contains("esp32dev"));
    }

    #[test]
    fn an_elf_file_is_answered_with_the_command_that_converts_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(64, 0);
        elf[18] = 243;
        write(dir.path(), "target/riscv32imc/release/app", &elf);
        let failure = discover(dir.path()).expect_err("no image");
        assert!(
            failure
                .hint
                .expect("a hint")
                .contains("espflash save-image")
        );
    }
}
