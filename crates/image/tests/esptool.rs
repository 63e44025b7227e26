//! Agreement with `esptool image-info` on images made here and on real ones.
//!
//! Needs `FOTA_ESPTOOL`, the path of an esptool 5 executable; `FOTA_CORPUS` names a folder of real
//! images (`cargo xtask corpus`). Without them the tests say that they were skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fota_image::app::{Chip, Image, ImageError, LooksLike, check_bytes};
use fota_image::build::ImageBuilder;

/// Values of `image-info` by the label in front of them.
struct Report(HashMap<String, String>);

impl Report {
    fn of(file: &Path) -> Option<Report> {
        let Some(esptool) = std::env::var_os("FOTA_ESPTOOL") else {
            println!("skipped: FOTA_ESPTOOL is not set");
            return None;
        };
        let output = Command::new(esptool)
            .arg("image-info")
            .arg(file)
            .env("COLUMNS", "200")
            .output()
            .expect("FOTA_ESPTOOL must be an executable");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}", file.display());
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        Some(Report(
            pairs
                .map(|(label, value)| (label.trim().to_string(), value.trim().to_string()))
                .collect(),
        ))
    }

    fn value(&self, label: &str) -> &str {
        self.0.get(label).map_or("", String::as_str)
    }
}

fn assert_agreement(name: &str, image: &Image, report: &Report) {
    let chip = image.header.chip.unwrap();
    let id = report.value("Chip ID").split_once(' ').unwrap();
    assert_eq!(id.0, chip.id().to_string(), "{name}");
    assert_eq!(id.1.trim_matches(['(', ')']).parse(), Ok(chip), "{name}");
    let segments = image.segments.len().to_string();
    assert_eq!(report.value("Segments"), segments, "{name}");
    let checksum = format!("{:#04x} (valid)", image.checksum);
    assert_eq!(report.value("Checksum"), checksum, "{name}");
    let hash = match image.sha256_appended {
        Some(hash) => format!("{} (valid)", hex(&hash)),
        None => String::new(),
    };
    assert_eq!(report.value("Validation hash"), hash, "{name}");
    let minimum = report.value("Minimal chip revision");
    let (major, minor) = (
        image.header.min_rev_full / 100,
        image.header.min_rev_full % 100,
    );
    assert!(
        minimum.starts_with(&format!("v{major}.{minor},")),
        "{name}: {minimum}"
    );
    let (major, minor) = (
        image.header.max_rev_full / 100,
        image.header.max_rev_full % 100,
    );
    let maximum = report.value("Maximal chip revision");
    assert_eq!(maximum, format!("v{major}.{minor}"), "{name}");
    // esptool shows the description of the first segment that is mapped as data; so is ours.
    let texts = match &image.desc {
        Some(desc) => [
            desc.version.as_str().to_string(),
            desc.project_name.as_str().to_string(),
            desc.idf_ver.as_str().to_string(),
            hex(&desc.app_elf_sha256),
            desc.secure_version.to_string(),
            format!("{} {}", desc.date, desc.time),
        ],
        None => Default::default(),
    };
    let labels = [
        "App version",
        "Project name",
        "ESP-IDF",
        "ELF file SHA256",
        "Secure version",
        "Compile time",
    ];
    for (label, text) in labels.iter().zip(texts) {
        assert_eq!(report.value(label), text, "{name}: {label}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn esptool_agrees_about_generated_images_of_every_chip() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.bin");
    for chip in Chip::all() {
        let builder = ImageBuilder::new(chip)
            .version("1.0.6-rc.1+7")
            .project("acme-sensor")
            .secure_version(3)
            .min_rev(101);
        for (size, builder) in [
            (512, builder.clone()),
            (10_240, builder.clone().without_hash()),
            (1_065_968, builder.content(b"some content").fill(7)),
        ] {
            let bytes = builder.size(size).build().unwrap();
            std::fs::write(&file, &bytes).unwrap();
            let Some(report) = Report::of(&file) else {
                return;
            };
            let name = format!("{chip} {size}");
            assert_agreement(&name, &check_bytes(&bytes).unwrap(), &report);
        }
    }
}

#[test]
fn esptool_agrees_about_the_real_images_and_the_others_are_refused() {
    let Some(folder) = std::env::var_os("FOTA_CORPUS").map(PathBuf::from) else {
        println!("skipped: FOTA_CORPUS is not set");
        return;
    };
    let files = std::fs::read_dir(&folder).expect("FOTA_CORPUS must be a folder");
    let mut seen = 0;
    for file in files.map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        seen += 1;
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let result = check_bytes(&std::fs::read(&file).unwrap());
        if name.starts_with("esplinker8266-") {
            assert_eq!(result, Err(ImageError::Esp8266 { version: 1 }), "{name}");
        } else if name.starts_with("pyb-") {
            let looks_like = LooksLike::CortexM;
            assert_eq!(
                result,
                Err(ImageError::NotAnEspImage { looks_like }),
                "{name}"
            );
        } else if let Some(report) = Report::of(&file) {
            assert_agreement(
                &name,
                &result.unwrap_or_else(|error| panic!("{name}: {error}")),
                &report,
            );
        } else {
            result.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    assert!(seen > 0, "{} holds no .bin file", folder.display());
    println!("{seen} real images judged");
}
