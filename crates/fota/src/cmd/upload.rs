//! `fota upload`: check here, then send.

use std::path::Path;

use fota_proto::manager::{Release, ReleaseUpload};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    args::UploadArgs,
    cmd::{image, release},
    context::{Context, Step},
    failure::{Failure, Result},
    firmware::{self, Firmware},
    output::{Mark, Show},
    text,
};

pub async fn run(context: &Context, args: &UploadArgs) -> Result {
    let release = send(context, args).await?;
    release::show(context, &release);
    Ok(())
}

/// Finds, checks and uploads an image.
pub async fn send(context: &Context, args: &UploadArgs) -> Result<Release> {
    context.step(Step::Read);
    let firmware = read(context, args.file.as_deref()).await?;
    refuse_other_version(&firmware, args)?;
    context.step(Step::Upload);
    let options = ReleaseUpload {
        version: args.version.clone(),
        allow_version_mismatch: args.allow_version_mismatch,
        notes: args.notes.clone(),
    };
    // A small request first: a wrong address or token is told before a megabyte is sent.
    context.client()?.server().await?;
    let bar = bar(context, firmware.bytes.len() as u64);
    let moving = bar.clone();
    let uploaded = context
        .client()?
        .upload(firmware.bytes.clone(), &options, move |bytes| {
            moving.set_position(bytes)
        })
        .await;
    bar.finish_and_clear();
    let release = uploaded?;
    if release.sha256 != firmware.sha256 {
        return Err(
            Failure::error("the server stored other bytes than were sent")
                .hint("yank that release and upload again"),
        );
    }
    if release.lab {
        context
            .out
            .warn("taken in although no chip would boot it: the server runs with --lab");
    }
    Ok(release)
}

async fn read(context: &Context, file: Option<&Path>) -> Result<Firmware> {
    let path = firmware::find(&context.config, file)?;
    let firmware = Firmware::load(&path)?;
    match firmware.accepted() {
        Ok(found) => {
            let line = format!("image    {}", image::summary(&firmware, found));
            context.out.note(Mark::Good, &line);
        }
        // Only a laboratory server takes what no chip would boot.
        Err(refusal) => match context.client()?.server().await {
            Ok(info) if info.lab => context.out.warn(&refusal.message),
            _ => return Err(refusal),
        },
    }
    Ok(firmware)
}

fn refuse_other_version(firmware: &Firmware, args: &UploadArgs) -> Result {
    let (Some(wanted), Some(inside)) = (&args.version, firmware.version()) else {
        return Ok(());
    };
    if *wanted == inside || args.allow_version_mismatch {
        return Ok(());
    }
    let message = format!(
        "--version says {wanted}, the image says {}",
        text::plain(&inside)
    );
    Err(Failure::refused("version_mismatch", message).hint(
        "set the version in the build (devices report the image's own), \
         or add --allow-version-mismatch",
    ))
}

fn bar(context: &Context, bytes: u64) -> ProgressBar {
    if context.out.progress != Show::Bars {
        return ProgressBar::hidden();
    }
    let template = "  upload   {bar:20} {bytes} of {total_bytes} {bytes_per_sec}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style.progress_chars("━╸─"))
}
