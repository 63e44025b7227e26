//! `fota upload`: check here, then send.

use std::path::Path;

use bytes::Bytes;
use fota_proto::{
    manager::{Release, ReleaseUpload},
    signed::RoleName,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    args::{ReleaseFields, UploadArgs},
    cmd::{
        bundle::{self, Signed},
        image, release, root,
    },
    context::{Context, Step},
    failure::{Failure, Result},
    firmware::{self, Firmware},
    keys::{Keys, Public, Secret},
    output::{Mark, Show},
    signing::{self, Plan, dev},
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
        version: args.version.clone().or_else(|| signed_version(&firmware)),
        allow_version_mismatch: args.allow_version_mismatch,
        notes: args.notes.clone(),
    };
    // Small requests first: a wrong address or token is told before a megabyte is sent.
    context.client()?.server().await?;
    let body = signed(context, &firmware, args).await?;
    let bar = bar(context, body.len() as u64);
    let moving = bar.clone();
    let uploaded = context
        .client()?
        .upload(body, &options, move |bytes| moving.set_position(bytes))
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

/// What is sent: the file, or a bundle of it that the development key signs now.
async fn signed(context: &Context, firmware: &Firmware, args: &UploadArgs) -> Result<Bytes> {
    let client = context.client()?;
    let online = client.signing().await?.online_key;
    let online = online.as_deref().map(online_key).transpose()?;
    let is_bundle = firmware.release.is_some();
    if is_bundle || online.is_none() || firmware.image.is_err() {
        return Ok(firmware.bytes.clone());
    }
    let keys = Keys::open(None)?;
    let current = client.current_root().await?;
    let root = current.as_deref().map(root::trusted).transpose()?;
    let dev = dev::find(&keys)?.map(|dev| dev.public());
    match signing::plan(is_bundle, online.as_ref(), root.as_ref(), dev.as_ref()) {
        Plan::AsItIs => Ok(firmware.bytes.clone()),
        Plan::SignForDevelopment { publish_root } => {
            // Before a key is made or a root published: what cannot be signed is told first.
            let fields = ReleaseFields {
                version: args.version.clone(),
                ..ReleaseFields::default()
            };
            let payload = signing::release::payload(firmware, &fields)?;
            let dev = dev::key(&context.out, &keys)?;
            if let Some(online) = online.filter(|_| publish_root) {
                publish_dev_root(context, &keys, &dev, &online).await?;
            }
            let release = signing::sign(&payload, &[dev.signer()], false)?;
            context
                .out
                .note(Mark::Attention, "signed   with the development key");
            Ok(signing::release::bundle(&release, firmware.image_bytes()).into())
        }
        Plan::NeedsSignature if is_let_off(context, firmware).await? => Ok(firmware.bytes.clone()),
        Plan::NeedsSignature => {
            let root = root.iter().flat_map(|root| root.keys_of(RoleName::Release));
            let names: Vec<String> = root.map(|key| keys.name_of(key.id())).collect();
            let file = firmware.path.display().to_string();
            Err(signing::needs_signature(&file, &names))
        }
    }
}

/// Whether the operators of this server take unsigned images of this product.
async fn is_let_off(context: &Context, firmware: &Firmware) -> Result<bool> {
    let Some(desc) = firmware.image.as_ref().ok().and_then(|image| image.desc) else {
        return Ok(false);
    };
    let product = desc.project_name.as_str();
    Ok(context.client()?.product_signing(product).await?.unsigned)
}

fn online_key(hex: &str) -> Result<Public> {
    let key = Public::from_hex(hex);
    key.ok_or_else(|| Failure::error("the server's online key is no public key"))
}

async fn publish_dev_root(context: &Context, keys: &Keys, dev: &Secret, online: &Public) -> Result {
    let root = dev::root(dev, online)?;
    let kept = dev::keep_root(keys, online, &root)?;
    let client = context.client()?;
    client.add_root(root.into()).await?;
    let (server, kept) = (client.base(), kept.display());
    let line = format!("root     {server} trusts the development key now; its root is {kept}");
    context.out.note(Mark::Attention, &line);
    Ok(())
}

async fn read(context: &Context, file: Option<&Path>) -> Result<Firmware> {
    let path = firmware::find(&context.config, file)?;
    let firmware = Firmware::load(&path)?;
    match firmware.accepted() {
        Ok(found) => {
            let line = format!("image    {}", image::summary(&firmware, found));
            context.out.note(Mark::Good, &line);
            if let Some(release) = &firmware.release {
                bundle::require_same(&Signed::parse(release)?.release, &firmware)?;
            }
        }
        // Only a laboratory server takes what no chip would boot.
        Err(refusal) => match context.client()?.server().await {
            Ok(info) if info.lab => context.out.warn(&refusal.message),
            _ => return Err(refusal),
        },
    }
    Ok(firmware)
}

/// The version in a bundle whose image names none itself.
fn signed_version(firmware: &Firmware) -> Option<String> {
    let release = firmware
        .release
        .as_ref()
        .filter(|_| firmware.version().is_none())?;
    let signed = Signed::parse(release).ok()?;
    Some(signed.release.version.to_owned())
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
